"""Options of stage annotate."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.engine.options import option


@dataclass
class AnnotateOptions:
    """How a folder is annotated again, and what is drawn for its review."""

    retrain: str = option(
        "auto",
        "auto | never | always: train again; auto: only where the classes or the recipe changed",
        choices=("auto", "never", "always"),
    )
    sheet: int = option(
        400,
        "images on the review page and the contact sheets, first in the order of review",
        low=0,
        high=100_000,
    )
