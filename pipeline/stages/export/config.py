"""Options of stage export."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.engine.options import option


@dataclass
class ExportOptions:
    """Which files are written."""

    formats: list[str] = option(
        ["coco"],
        "choices of conf/exporter/",
        group="exporter",
        item="format",
        required=True,
        distinct=True,
    )
