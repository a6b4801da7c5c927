"""Boxes, polygons and masks as tools write them, joined into one box an object.

A tool stores a box and its mask as two shapes, which a group or a parent joins.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipeline.formats.coco_boxes import LARGEST
from pipeline.formats.coco_masks import to_rle
from pipeline.formats.coco_review import is_chosen_by_doubt
from pipeline.formats.coco_values import parse_number
from pipeline.formats.odd_records import BadRecord, OddRecords
from pipeline.formats.photo import MAX_PIXELS
from pipeline.ops.iou import pairwise_iou
from pipeline.types import CorrectedImage, Rle, Size

Box = tuple[float, float, float, float]

MIN_IOU_OF_PAIR = 0.5
"""A mask that its own box covers less than this was not moved with it."""
MIN_IOU_UNPAIRED = 0.8
"""A mask that nothing joins with a box is that of a box that covers the same place."""
TOLERANCE = 1.0  # pixels by which a box may reach beyond the image without a note

NO_AREA = "without an area"
OUTSIDE = "which lies outside of its image"
BEYOND = "which reaches beyond its image: cut off there"
STALE = "whose mask is elsewhere than its box: used without the mask"


@dataclass(frozen=True)
class Shape:
    """A box, polygon or mask.

    Attributes:
        label: the name of its class.
        box: half-open xyxy in pixels around it.
        name: which, for messages.
        is_outline: whether it is a polygon or mask, which may belong to a box.
        mask: of an outline, where the size of the image is known.
        group: what joins it with others; None: nothing.
        is_prediction: whether the file says that a program found it.
    """

    label: str
    box: Box
    name: str
    is_outline: bool = False
    mask: Rle | None = None
    group: Any = None
    is_prediction: bool = False


def parse_finite(value: Any) -> float | None:
    """Return a number that a coordinate can be, which may be written as text; None for others.

    Args:
        value: a value of a file.
    """
    number = parse_number(value)
    return number if number is not None and abs(number) <= LARGEST else None


def parse_size(height: Any, width: Any) -> Size | None:
    """Return (height, width) of an image; None where one is no number of pixels.

    Args:
        height: a value of a file.
        width: a value of a file.
    """
    sides = [parse_finite(height), parse_finite(width)]
    known = [int(side) for side in sides if side is not None and side >= 1]
    if len(known) < 2 or known[0] * known[1] > MAX_PIXELS:
        return None
    return known[0], known[1]


def box_around(points: Iterable[Sequence[float]]) -> Box:
    """Return the tightest box around points.

    Args:
        points: x and y of each.

    Raises:
        BadRecord: there are none, or they are not finite numbers.
    """
    try:
        values = np.asarray(list(points), np.float64).reshape(-1, 2)
    except (TypeError, ValueError):
        raise BadRecord("whose points are not pairs of numbers") from None
    if not len(values) or not np.isfinite(values).all():
        raise BadRecord("whose points are not pairs of numbers")
    (x0, y0), (x1, y1) = values.min(0).tolist(), values.max(0).tolist()
    return x0, y0, x1, y1


def rotate_box(box: Box, degrees: float, centre: tuple[float, float]) -> Box:
    """Return the tightest box around a box that is turned clockwise about a point.

    Args:
        box: half-open xyxy.
        degrees: the angle.
        centre: x and y of the point.
    """
    if not degrees:
        return box
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x0, y0, x1, y1 = box
    cx, cy = centre
    corners = [(x - cx, y - cy) for x in (x0, x1) for y in (y0, y1)]
    return box_around([(cx + x * cos - y * sin, cy + x * sin + y * cos) for x, y in corners])


def ellipse_box(cx: float, cy: float, rx: float, ry: float, degrees: float = 0.0) -> Box:
    """Return the tightest box around an ellipse.

    Args:
        cx: x of its centre.
        cy: y of its centre.
        rx: half of its width.
        ry: half of its height.
        degrees: the angle by which it is turned clockwise.
    """
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    half_width, half_height = math.hypot(rx * cos, ry * sin), math.hypot(rx * sin, ry * cos)
    return cx - half_width, cy - half_height, cx + half_width, cy + half_height


def polygon_mask(points: Sequence[Sequence[float]], size: Size | None) -> Rle | None:
    """Return the mask of a polygon; None where the size of the image is not known.

    Args:
        points: x and y in pixels, three points or more.
        size: (height, width) of the image.
    """
    return to_rle([[float(side) for point in points for side in point]], size)


def mask_box(mask: Rle) -> Box:
    """Return the box around a mask.

    Args:
        mask: run lengths over the whole image.

    Raises:
        BadRecord: it is empty.
    """
    from pycocotools import mask as coco_mask

    x, y, width, height = coco_mask.toBbox(mask).tolist()
    if not width or not height:
        raise BadRecord(NO_AREA)
    return x, y, x + width, y + height


def join_shapes(shapes: Sequence[Shape], odd: OddRecords) -> list[Shape]:
    """Return one shape an object: boxes with their masks, and outlines that belong to no box.

    Args:
        shapes: of an image.
        odd: counts masks that are elsewhere than their box.
    """
    boxes = [shape for shape in shapes if not shape.is_outline]
    masks: dict[int, list[Rle]] = {}
    alone: list[Shape] = []
    for outline in (shape for shape in shapes if shape.is_outline):
        owner = _find_owner(outline, boxes)
        if owner is None:
            alone.append(outline)
        elif outline.mask is not None:
            masks.setdefault(owner, []).append(outline.mask)
    return [*_attach_masks(boxes, masks, odd), *_join_parts(alone)]


def _find_owner(outline: Shape, boxes: Sequence[Shape]) -> int | None:
    """Return the number of the box that an outline belongs to; None: it is an object itself."""
    near = [
        n
        for n, shape in enumerate(boxes)
        if shape.label == outline.label and (outline.group is None or shape.group == outline.group)
    ]
    if not near:
        return None
    ious = pairwise_iou(np.array([outline.box]), np.array([boxes[n].box for n in near]))[0]
    best = near[int(ious.argmax())]
    if outline.group is not None:
        return best
    return best if ious.max() >= MIN_IOU_UNPAIRED else None


def _attach_masks(
    boxes: Sequence[Shape], masks: Mapping[int, Sequence[Rle]], odd: OddRecords
) -> list[Shape]:
    """Return the boxes with their masks, without those that are elsewhere."""
    joined = []
    for n, shape in enumerate(boxes):
        mask = _union(masks.get(n, []))
        if mask is not None:
            around = np.array([_around(mask)])
            if pairwise_iou(around, np.array([shape.box]))[0, 0] < MIN_IOU_OF_PAIR:
                odd.repair(shape.name, STALE)
                mask = None
        joined.append(replace(shape, mask=mask))
    return joined


def _around(mask: Rle) -> Box:
    try:
        return mask_box(mask)
    except BadRecord:
        return 0.0, 0.0, 0.0, 0.0


def _join_parts(outlines: Sequence[Shape]) -> list[Shape]:
    """Return outlines, those of a group and class joined into one."""
    groups: dict[Any, list[Shape]] = {}
    for n, shape in enumerate(outlines):
        key = n if shape.group is None else (shape.group, shape.label)
        groups.setdefault(key, []).append(shape)
    joined = []
    for parts in groups.values():
        corners = [corner for part in parts for corner in (part.box[:2], part.box[2:])]
        masks = [part.mask for part in parts if part.mask is not None]
        mask = _union(masks) if len(masks) == len(parts) else None
        joined.append(replace(parts[0], box=box_around(corners), mask=mask))
    return joined


def _union(masks: Sequence[Rle]) -> Rle | None:
    """Return the mask that covers what any of the masks does; None without one."""
    if len(masks) < 2:
        return masks[0] if masks else None
    from pycocotools import mask as coco_mask

    merged = coco_mask.merge([dict(mask) for mask in masks])
    return {"size": list(map(int, merged["size"])), "counts": merged["counts"].decode("ascii")}


def build_image(
    name: str, size: Size | None, shapes: Iterable[Shape], odd: OddRecords, **about: Any
) -> CorrectedImage:
    """Return an image with one box an object; boxes that cannot be used are counted.

    Args:
        name: as the file has it.
        size: (height, width); None: not known.
        shapes: all shapes of the image, which are read here.
        odd: counts what is repaired or left out.
        about: the other fields of CorrectedImage.
    """
    before = odd.left_out_count
    kept: list[Shape] = []
    for shape in join_shapes(list(shapes), odd):
        try:
            box, is_cut = _clip(shape.box, size)
        except BadRecord as error:
            odd.leave_out(shape.name, str(error))
            continue
        if is_cut:
            odd.repair(shape.name, BEYOND)
        kept.append(replace(shape, box=box))
    has_masks = any(shape.mask is not None for shape in kept)
    return CorrectedImage(
        name=name,
        size=size,
        boxes=np.array([shape.box for shape in kept], np.float32).reshape(-1, 4),
        classes=[shape.label for shape in kept],
        masks=[shape.mask for shape in kept] if has_masks else None,
        are_predictions=[shape.is_prediction for shape in kept],
        unread=odd.left_out_count - before,
        **about,
    )


def _clip(box: Box, size: Size | None) -> tuple[Box, bool]:
    """Return the part of a box inside the image, and whether much was cut off."""
    x0, y0, x1, y1 = box
    if not np.isfinite(box).all() or not (x1 > x0 and y1 > y0):
        raise BadRecord(NO_AREA)
    if size is None:
        return box, False
    height, width = size
    inside = (max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height)))
    corners = np.array(inside, np.float32)  # as types hold them
    if not (corners[2:] > corners[:2]).all():
        raise BadRecord(OUTSIDE)
    return inside, max(abs(a - b) for a, b in zip(box, inside, strict=True)) > TOLERANCE


def keep_latest(images: Sequence[CorrectedImage], odd: OddRecords) -> list[CorrectedImage]:
    """Return each image once: reviewed before not reviewed, then the latest, then the last.

    Args:
        images: in the order of the file.
        odd: counts records of images that another one replaces.
    """
    kept: dict[str, CorrectedImage] = {}
    for image in images:
        before = kept.setdefault(image.name, image)
        if before is image:
            continue
        is_newer = _rank(image) >= _rank(before)
        older = before if is_newer else image
        odd.leave_out(older.where or older.name, "of an image that has a newer record")
        kept[image.name] = image if is_newer else before
    return list(kept.values())


def _rank(image: CorrectedImage) -> tuple[bool, str]:
    return image.is_reviewed, image.date or ""


def was_doubtful(fields: Mapping[str, Any]) -> bool:
    """Return whether a record says that its image was chosen because its boxes were doubtful.

    Args:
        fields: `review_sample` or `review_rank`, as the exporters write them.
    """
    sample = fields.get("review_sample")
    if isinstance(sample, bool):
        return not sample
    return is_chosen_by_doubt(fields, None)
