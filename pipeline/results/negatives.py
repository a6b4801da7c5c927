"""Images without an object: those of a negative class (`data.negatives`) have no box.

An image shows no object where its label is a negative class, or where it has no label and the
network predicts one. Stage localize keeps a box of the most probable other class for it all the
same: stage evaluate measures false alarms on it. It is never written to a file of boxes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.results.maps import load_classification
from pipeline.types import Boxes, FoundBoxes, ImageSource

if TYPE_CHECKING:
    from jaxtyping import Int


def find_without_object(
    maps: Path, labels: Int[np.ndarray, n], negatives: Collection[int]
) -> frozenset[int]:
    """Return the positions of the explained images that show no object.

    Args:
        maps: the result of stage explain.
        labels: of all images of the split, -1 where an image has none.
        negatives: the classes without an object.
    """
    if not negatives:
        return frozenset()
    seen = load_classification(maps)
    own = labels[seen.image]
    meant = np.where(own < 0, seen.top[:, 0], own)
    return frozenset(seen.image[np.isin(meant, sorted(negatives))].tolist())


def leave_out_negatives(
    detections: FoundBoxes, without_object: Collection[int], negatives: Collection[int]
) -> FoundBoxes:
    """Leave out the boxes of images without an object, and the classes that have none.

    The other classes get new numbers, in their order; they keep their COCO ids.

    Args:
        detections: all boxes; of the classes of the network.
        without_object: positions of images.
        negatives: the classes without an object.
    """
    if not negatives:
        return detections
    number = number_objects(len(detections.classes), negatives)

    def boxes() -> Iterator[tuple[int, Boxes]]:
        for position, of_class in detections.boxes():
            if position not in without_object and of_class.label in number:
                yield position, replace(of_class, label=number[of_class.label])

    return replace(
        detections,
        boxes=boxes,
        classes=[detections.classes[label] for label in number],
        coco=replace(
            detections.coco, category_ids=[detections.coco.category_ids[n] for n in number]
        ),
    )


def number_objects(count: int, negatives: Collection[int]) -> dict[int, int]:
    """Return the new numbers of the classes with an object.

    Args:
        count: of all classes.
        negatives: the classes without an object.

    Examples:
        >>> number_objects(4, {1})
        {0: 0, 2: 1, 3: 2}
    """
    kept = [label for label in range(count) if label not in negatives]
    return {label: n for n, label in enumerate(kept)}


def number_labels(source: ImageSource, count: int, negatives: Collection[int]) -> ImageSource:
    """Return a source whose labels have the new numbers; -1 for images without an object.

    Args:
        source: where the images are.
        count: of all classes.
        negatives: the classes without an object.
    """
    number = number_objects(count, negatives)
    return replace(source, label=lambda position: number.get(source.label(position), -1))
