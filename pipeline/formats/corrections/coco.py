"""Corrections as a COCO data set: `reviewed` on an image or annotation says that a person saw it.

An annotation with a `score` or `confidence` was found by a program. Crowds (`iscrowd`) are objects,
as CVAT writes brush masks so. See pipeline/formats/coco.py for what is repaired.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.errors import UserError
from pipeline.formats import coco
from pipeline.formats.coco_records import CocoFile, CocoImage
from pipeline.types import CorrectedImage, CorrectionFile

FIELDS = ("images", "annotations", "categories")


def matches(path: Path) -> bool:
    """Return whether a file is a COCO data set.

    Args:
        path: a file or folder.
    """
    if not path.is_file() or path.suffix.lower() != ".json":
        return False
    try:
        content = coco.read_json(path)
    except UserError:
        return False
    return isinstance(content, dict) and all(isinstance(content.get(name), list) for name in FIELDS)


def read(path: Path) -> CorrectionFile:
    """Read a COCO data set as corrections. Odd records are left out or repaired, and counted.

    Args:
        path: the file.

    Raises:
        UserError: the file cannot be read, or none of its records can be used.
    """
    file = coco.read(path, crowds="objects", option="crowds")
    images = [_to_corrected(file, image) for image in file.images]
    return CorrectionFile("coco", images, list(file.notes))


def _to_corrected(file: CocoFile, image: CocoImage) -> CorrectedImage:
    """Return an image of the file."""
    return CorrectedImage(
        name=image.name,
        size=image.size,
        boxes=np.array(image.boxes, np.float32).reshape(-1, 4),
        classes=[file.categories[number] for number in image.categories],
        masks=image.masks,
        are_predictions=image.scored,
        is_reviewed=image.is_reviewed,
        chosen_by_doubt=image.chosen_by_doubt,
        where=f"{file.path.name}, images[{image.record}]",
    )
