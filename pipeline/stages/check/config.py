"""Options of stage check."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.engine.options import option


@dataclass
class CheckOptions:
    """What is looked for in a data set, and what an error does."""

    stop: bool = option(
        False,
        "an error ends the run with exit code 1, before it trains; false: the run goes on",
    )
    duplicates: bool = option(True, "look for images that are there twice")
    distance: int = option(
        8, "bits of 64 in which hashes of near duplicates differ at most", low=0, high=32
    )
    doubt: bool = option(
        False,
        "list labels that the pretrained head of model=, which has to know the classes, doubts",
    )
    doubted: int = option(
        48, "images that are listed at most, the most doubtful first", low=1, high=10_000
    )
    sheet: int = option(120, "images on the contact sheet; 0: none", low=0, high=10_000)
