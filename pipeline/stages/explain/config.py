"""Options of stage explain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline.engine.options import option


@dataclass
class ExplainOptions:
    """Which maps are computed, of which images."""

    target: Any = option(
        "true", "true | predicted | topK | a class by name or index, or a list of these"
    )
    methods: list[str] = option(
        [],
        "several methods side by side; empty: the one of saliency=",
        group="saliency",
        item="method",
        distinct=True,
    )
    split: str = option(
        "val",
        "val | train | test | all: which images get maps and boxes",
        choices=("val", "train", "test", "all"),
    )
    min_probability: float = option(
        0.5,
        "where classes do not exclude each other: of a class that is predicted, besides the most "
        "probable one",
        low=0,
        high=1,
    )
    flips: bool = option(False, "average over the image and its mirror image")
    scales: list[float] = option([1.0], "and over these input sizes")
    colour: bool = option(False, "keep gradients in red, green and blue too, to look at")
