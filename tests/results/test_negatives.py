"""negatives: images without an object have no box, and their classes no number in files."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pipeline.results.negatives import leave_out_negatives, number_labels
from pipeline.types import Boxes, CocoIds, FoundBoxes, ImageSource

SIZE = (30, 40)


def of_class(position: int, label: int) -> tuple[int, Boxes]:
    box = np.array([[0, 0, 9, 9]], np.float32)
    return position, Boxes(f"{position}", label, box, np.ones(1, np.float32), SIZE)


FOUND = FoundBoxes(
    boxes=lambda: iter([of_class(0, 0), of_class(1, 2), of_class(2, 1), of_class(2, 2)]),
    sizes=lambda: iter([(n, SIZE) for n in range(3)]),
    ids=["0", "1", "2"],
    classes=["cat", "empty", "dog"],
    coco=CocoIds([1, 2, 3], ["0", "1", "2"], [7, 8, 9]),
)


def test_boxes_and_classes_that_are_left():
    found = leave_out_negatives(FOUND, {0}, {1})
    assert [(image.id, [box.label for box in image.boxes]) for image in found.images()] == [
        ("0", []), ("1", [1]), ("2", [1]),
    ]  # fmt: skip
    assert found.classes == ["cat", "dog"]
    assert list(found.coco.category_ids) == [7, 9]
    assert list(found.coco.image_ids) == [1, 2, 3]
    assert leave_out_negatives(FOUND, set(), set()) is FOUND


def test_labels_of_a_source():
    labels = [0, 1, 2, -1]
    source = ImageSource(
        root=None,
        path=lambda _: None,
        part=lambda _: "val",
        label=lambda position: labels[position],
        read=lambda _: np.zeros((*SIZE, 3), np.uint8),
    )
    changed = number_labels(source, 3, {1})
    assert [changed.label(n) for n in range(4)] == [0, -1, 1, -1]
    assert replace(changed, label=source.label) == source
