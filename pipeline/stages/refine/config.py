"""Options of stage refine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline.engine.options import option


@dataclass
class RefineOptions:
    """How a localization head is trained on segmented maps of the training images."""

    teacher: Any = option(None, "saliency@refine.teacher=...: whose maps", family="saliency")
    cut: Any = option(
        None,
        "segmenter@refine.cut=...: what segments them; only one that refines maps",
        family="segmenter",
    )
    images: int = option(
        3000,
        "of the training images that the teacher is asked for at most, evenly of all classes",
        low=1,
        high=10_000_000,
    )
    class_images: int = option(
        3000,
        "of a split that teach or judge the classes of the object at most, evenly of all classes",
        low=1,
        high=10_000_000,
    )
    steps: int = option(
        400, "that the head learns for, however many images there are", low=1, high=10_000_000
    )
    batch: int = option(32, "images in a step", low=1, high=1_000_000)
    lr: float = option(0.002, "the learning rate at its highest", low=1e-12, high=1000)
    width: int = option(64, "channels of the head", low=1, high=10_000)
    map_share: float | None = option(
        None,
        "of the map in targets; null: by how well the head predicts held-out masks",
        low=0,
        high=1,
    )
    object_class: bool = option(True, "learn the classes by what is on the object, too")
    extent: bool = option(
        False, "learn the box of the object, too, where the head is used alone: tighter boxes"
    )
