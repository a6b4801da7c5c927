"""Options of stage report."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.engine.options import option


@dataclass
class ReportOptions:
    """What the page shows."""

    images: int = option(
        500, "in the gallery: all, or a random sample where there are more", low=0, high=10_000
    )
    paths: bool = option(
        True, "whether the page names the files of the images, to open them in full size"
    )
