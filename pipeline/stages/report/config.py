"""Options of stage report."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.engine.options import option


@dataclass
class ReportOptions:
    """What the page shows."""

    images: int = option(
        12, "in the gallery: first in the order of review, best, median, worst", low=0, high=10_000
    )
