"""Options of stage export."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.engine.options import option


@dataclass
class ExportOptions:
    """Which files are written, and how. An option reaches the formats that have it."""

    formats: list[str] = option(
        ["coco"],
        "choices of conf/exporter/",
        group="exporter",
        item="format",
        required=True,
        distinct=True,
    )
    images: str = option(
        "link",
        "link | copy | none: how image files get into formats that have their own folder of them",
        choices=("link", "copy", "none"),
    )
    upright: bool = option(
        False, "write images turned upright where EXIF turns them, for readers that ignore EXIF"
    )
    outlines: str = option(
        "rle", "rle | polygon: masks in formats that have both", choices=("rle", "polygon")
    )
    image_paths: str = option(
        "local",
        "local | embed | name | an address: how tasks of label_studio name images: files that it "
        "serves itself, their content, relative paths, or paths below https://host/images/",
    )
    min_confidence: float = option(
        0.0, "leave out boxes of a lower confidence; they are counted", low=0, high=1
    )
