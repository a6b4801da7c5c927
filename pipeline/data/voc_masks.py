"""The masks of PASCAL VOC's objects, in the images that have them.

    SegmentationObject/2007_000032.png      0 background, 1, 2, ... the objects, 255 void
    SegmentationClass/2007_000032.png       0 background, 1 to 20 the class, 255 void

Void pixels, at the outlines of objects and where annotators were not sure, count neither as object
nor as background, as in the devkit. The class of an object is that of most of its pixels. A mask
belongs to the annotated box of its class which the box around it fits best, each to one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.data.published_truth import box_around
from pipeline.errors import SkippedImage
from pipeline.formats.coco_boxes import Box
from pipeline.formats.mask_files import read_values
from pipeline.formats.odd_records import BadRecord
from pipeline.ops.iou import pairwise_iou
from pipeline.ops.rle import encode_rle
from pipeline.types import Rle, Size

if TYPE_CHECKING:
    from jaxtyping import Bool, UInt8

OBJECTS, KINDS = "SegmentationObject", "SegmentationClass"
VOID = 255


@dataclass(frozen=True)
class VocMasks:
    """The masks of an image.

    Attributes:
        of_box: The mask of each annotated box, by its position; of those that have one.
        void: Pixels that count neither way; None: there are none.
    """

    of_box: Mapping[int, Rle]
    void: Rle | None


def read_voc_masks(
    folder: Path, stem: str, boxes: Sequence[Box], classes: Sequence[int], size: Size | None
) -> VocMasks | None:
    """Read the masks of an image, and match them with its annotated boxes.

    Args:
        folder: That of a year.
        stem: The name of the image, without its ending.
        boxes: All annotated boxes, half-open xyxy in pixels.
        classes: The class of each, from 0.
        size: Of the image; None: it is not known.

    Returns:
        The masks; None where the image has none.

    Raises:
        BadRecord: A file is missing beside the other, cannot be read, or does not fit.
    """
    files = [folder / name / f"{stem}.png" for name in (OBJECTS, KINDS)]
    there = [path.is_file() for path in files]
    if not any(there):
        return None
    if not all(there):
        raise BadRecord(f"with a mask in one of {OBJECTS}/ and {KINDS}/ alone")
    try:
        numbers, kinds = map(read_values, files)
    except SkippedImage:
        raise BadRecord("with a mask that cannot be read") from None
    if numbers.shape != kinds.shape or (size is not None and numbers.shape != size):
        raise BadRecord("with masks of another size than the image")
    masks = _split_objects(numbers, kinds)
    matched = _match(masks, boxes, classes)
    # An object without a box is neither background nor something to be found.
    void = (numbers == VOID) | (kinds == VOID)
    for n, (mask, _) in enumerate(masks):
        if n not in matched:
            void |= mask
    height, width = numbers.shape
    return VocMasks(
        {box: encode_rle(masks[n][0], (height, width)) for n, box in matched.items()},
        encode_rle(void, (height, width)) if void.any() else None,
    )


def _split_objects(
    numbers: UInt8[np.ndarray, "h w"], kinds: UInt8[np.ndarray, "h w"]
) -> list[tuple[Bool[np.ndarray, "h w"], int]]:
    """Return the mask and the class, from 0, of each object. Raise BadRecord where it has none."""
    objects = []
    for number in np.unique(numbers).tolist():
        if number in (0, VOID):
            continue
        mask = numbers == number
        counts = np.bincount(kinds[mask], minlength=VOID + 1)
        counts[[0, VOID]] = 0
        if not counts.any():
            raise BadRecord("with an object that has no class in its mask of classes")
        objects.append((mask, int(counts.argmax()) - 1))
    return objects


def _match(
    masks: Sequence[tuple[Bool[np.ndarray, "h w"], int]],
    boxes: Sequence[Box],
    classes: Sequence[int],
) -> dict[int, int]:
    """Return the box of each mask, of its class, the best fit first; none where none overlaps."""
    if not masks or not boxes:
        return {}
    around = np.array([box_around(mask) for mask, _ in masks], np.float32)
    iou = pairwise_iou(around, np.asarray(boxes, np.float32))
    kinds = np.array([kind for _, kind in masks])
    iou = np.where(kinds[:, None] == np.asarray(classes)[None], iou, 0)
    matched = dict[int, int]()
    for place in np.argsort(-iou, axis=None, kind="stable").tolist():
        mask, box = divmod(place, len(boxes))
        if iou[mask, box] <= 0:
            break
        if mask not in matched and box not in matched.values():
            matched[mask] = box
    return matched
