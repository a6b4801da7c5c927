"""What exporters wrote, read back: the same boxes, classes and masks."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from pycocotools import mask as coco_mask

from pipeline.types import CorrectedImage, CorrectionFile, Note
from tests.exporter.subjects import CLASSES, HUMAN, IDS, SIZES, boxes_of

SURE = 0.01
"""How many pixels a box may move on its way through a tool's file."""


def by_name(file: CorrectionFile) -> Mapping[str, CorrectedImage]:
    return {image.name: image for image in file.images}


def count(file: CorrectionFile) -> int:
    """Return how many records the notes of a file count."""
    return sum(note.total for note in file.notes if isinstance(note, Note))


def check_boxes_came_back(file: CorrectionFile, masks: bool) -> None:
    """Check all images of `tests.exporter.subjects`; the person's is reviewed, the others not."""
    assert file.notes == []
    images = by_name(file)
    assert set(images) == set(IDS)
    for position, id in enumerate(IDS):
        check_image(images[id], position, masks)
        assert images[id].is_reviewed == (position == HUMAN)
        assert set(images[id].are_predictions) <= {position != HUMAN}


def check_image(image: CorrectedImage, position: int, masks: bool) -> None:
    """Check boxes, classes, size and masks of an image."""
    given = boxes_of(position, masks)
    assert image.size in (SIZES[position], None)
    assert image.boxes.shape == given.boxes.shape
    assert np.abs(image.boxes - given.boxes).max(initial=0) <= SURE
    assert list(image.classes) == [CLASSES[given.label]] * len(given.boxes)
    if not masks or not len(given.boxes):
        assert image.masks is None
        return
    for mask, original in zip(image.masks, given.masks, strict=True):
        assert coco_mask.iou([mask], [original], [0])[0, 0] == 1
