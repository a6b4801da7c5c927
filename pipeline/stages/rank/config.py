"""Options of stage rank."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.engine.options import option


@dataclass
class RankOptions:
    """The order of review."""

    sample: int = option(
        50, "random images at the head of the order; they measure and calibrate", low=0, high=10_000
    )
    grabcut: bool = option(
        False, "compare each box with GrabCut's, which reads the image: better confidences"
    )
