"""Boxes of COCO files, `xywh` in pixels, and their conversion to half-open `xyxy` and back."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from pipeline.errors import UserError
from pipeline.formats.coco_values import is_plain_number, parse_number
from pipeline.formats.odd_records import BadRecord
from pipeline.ops.text import count_note
from pipeline.types import Note, Size

Id = TypeVar("Id")

Box = tuple[float, float, float, float]
"""Half-open `xyxy` in pixels of the upright image."""

LARGEST = 1 << 22  # beyond this float32 has no half pixels, and no image is as large


def parse_bbox(value: Any) -> tuple[list[float], bool]:
    """Return the four numbers of a bbox that can be right.

    Args:
        value: As in the file: a list of four numbers, each possibly as text; the list in a list;
            or an object with x, y, width and height.

    Returns:
        x, y, width and height in pixels, and whether they were written in another form than a list
        of four numbers.

    Raises:
        BadRecord: There is no bbox, or it cannot be right.

    Examples:
        >>> parse_bbox(["1", 2, 10, 20])
        ([1.0, 2.0, 10.0, 20.0], True)
    """
    given = value
    if given is None or given == []:
        raise BadRecord("without a bbox")
    if isinstance(given, Mapping):
        width, height = (given.get(name, given.get(name[0])) for name in ("width", "height"))
        given = [given.get("x"), given.get("y"), width, height]
    if isinstance(given, list) and len(given) == 1 and isinstance(given[0], list):
        (given,) = given
    numbers = [parse_number(number) for number in given] if isinstance(given, list) else []
    bbox = [number for number in numbers if number is not None]
    if len(bbox) != 4 or len(numbers) != 4:
        raise BadRecord("whose bbox is not four numbers x, y, width, height")
    if (fault := _find_fault(bbox)) is not None:
        raise BadRecord(fault)
    return bbox, given is not value or not all(map(is_plain_number, given))


def _find_fault(bbox: Sequence[float]) -> str | None:
    """Return why x, y, width and height cannot be right; None where they can."""
    if not all(map(math.isfinite, bbox)):
        return "whose bbox is not finite"
    if not all(abs(value) <= LARGEST for value in bbox):
        return "whose bbox is far beyond any image"
    x, y, width, height = bbox
    if width < 0 or height < 0:
        return "whose bbox has a negative width or height (reversed?)"
    if width == 0 or height == 0:
        return "whose bbox is empty: width or height is 0"
    if is_empty((x, y, x + width, y + height)):
        return "whose bbox is thinner than float32 can tell"
    return None


def is_fraction(bbox: Sequence[float]) -> bool:
    """Return whether x, y, width and height can be fractions of an image: all within 0 to 1.

    Args:
        bbox: As `parse_bbox` returns it.
    """
    return all(0 <= value <= 1 for value in bbox) and not all(value in (0, 1) for value in bbox)


def refuse_fractions(path: Path, fractions: int, total: int) -> None:
    """Refuse a file of which all boxes are fractions of the image, which would find nothing.

    Args:
        path: The file.
        fractions: How many of its boxes can be fractions.
        total: How many boxes it has.

    Raises:
        UserError: There are boxes, and all can be fractions.
    """
    if total and fractions == total:
        raise UserError(
            f"{path}: {total} of {total} boxes lie within 0 to 1: fractions of the image? COCO's "
            "bbox is x, y, width, height in pixels; multiply x and width by the width of the "
            "image, y and height by its height"
        )


def xywh_to_xyxy(bbox: Sequence[float]) -> Box:
    """Convert COCO's `xywh` to half-open `xyxy`.

    Args:
        bbox: x, y, width and height in pixels, as `parse_bbox` returns them.

    Returns:
        x0, y0, x1, y1 in pixels.

    Examples:
        >>> xywh_to_xyxy([1, 2, 10, 20])
        (1.0, 2.0, 11.0, 22.0)
    """
    x, y, width, height = map(float, bbox)
    return (x, y, x + width, y + height)


def clip(box: Box, size: Size) -> tuple[Box, bool]:
    """Clip a box to its image.

    Args:
        box: Half-open `xyxy` in pixels.
        size: (height, width) of the image.

    Returns:
        The part inside the image, and whether the box stuck out by a pixel or more.

    Raises:
        BadRecord: No part of the box is inside.
    """
    height, width = size
    x0, y0, x1, y1 = box
    inside = (max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height)))
    if inside[2] <= inside[0] or inside[3] <= inside[1] or is_empty(inside):
        raise BadRecord("whose box lies outside its image")
    # Less than a pixel is rounding, which no note mentions.
    return inside, max(abs(a - b) for a, b in zip(box, inside, strict=True)) >= 1


def is_empty(box: Box) -> bool:
    """Return whether a box is empty once its corners are float32.

    Args:
        box: Half-open `xyxy` in pixels.
    """
    x0, y0, x1, y1 = box
    if x1 - x0 >= 1 and y1 - y0 >= 1:  # float32 has half pixels up to LARGEST
        return False
    x0, y0, x1, y1 = np.asarray(box, np.float32).tolist()
    return bool(x1 <= x0 or y1 <= y0)


def fits(box: Box, size: Size) -> bool:
    """Return whether a box lies inside an image, or sticks out by less than a pixel: rounding.

    Args:
        box: Half-open `xyxy` in pixels.
        size: (height, width) of the image.
    """
    x0, y0, x1, y1 = box
    return min(x0, y0) > -1 and x1 < size[1] + 1 and y1 < size[0] + 1


@dataclass
class SizeCheck(Generic[Id]):
    """The fit of boxes to images, which shows whether a file swaps width and height.

    Attributes:
        unfit: Ids of the images with a box that sticks out by a pixel or more.
        unfit_swapped: The same with the sides of the images swapped.
    """

    unfit: set[Id] = field(default_factory=set)
    unfit_swapped: set[Id] = field(default_factory=set)

    def add(self, id: Id, box: Box, size: Size) -> None:
        """Note whether a box sticks out of its image, as it is and with the sides swapped.

        Args:
            id: The id of the image.
            box: Half-open `xyxy` in pixels.
            size: (height, width) of the image.
        """
        if not fits(box, size):
            self.unfit.add(id)
        if not fits(box, size[::-1]):
            self.unfit_swapped.add(id)

    @property
    def swapped(self) -> set[Id]:
        """Images with a box that sticks out; none unless swapped sides hold all their boxes."""
        return set() if self.unfit & self.unfit_swapped else self.unfit


def describe_swapped_sizes(where: str, names: Sequence[str], total: int) -> Note:
    """Return a note that the sizes of images seem to be (width, height) and not (height, width).

    Args:
        where: The file of the sizes.
        names: Images with boxes that stick out, all of which would be inside with the sides
            swapped; at least a name.
        total: How many images have boxes.
    """
    why = f"of {total} have boxes that stick out, and none would with width and height swapped"
    return count_note(
        names, "image", why, where=where, remedy="are width and height swapped in the file?"
    )


def describe_clipped_boxes(path: Path, names: Sequence[str], total: int) -> Note:
    """Return a note that boxes of a file were clipped.

    Args:
        path: The file.
        names: The records whose boxes were clipped; at least a name.
        total: How many boxes the file has; where most stick out, the note asks for the convention.
    """
    is_usual = total > 3 and len(names) * 2 > total
    hint = "is bbox x0, y0, x1, y1 there? COCO's is x, y, width, height" if is_usual else ""
    clipped = "its image and was" if len(names) == 1 else "their image and were"
    why = f"of {total} stuck out of {clipped} clipped"
    return count_note(names, "box", why, where=path.name, remedy=hint)


def xyxy_to_xywh(box: Iterable[float]) -> list[float]:
    """Convert half-open `xyxy` to COCO's `xywh`, rounded to a hundredth of a pixel.

    Args:
        box: x0, y0, x1, y1 in pixels, half-open.

    Returns:
        x, y, width and height in pixels.

    Examples:
        >>> xyxy_to_xywh(np.array([1.234, 2, 11.236, 22], np.float32))
        [1.23, 2.0, 10.01, 20.0]
    """
    x0, y0, x1, y1 = (round(float(v), 2) for v in box)
    return [x0, y0, round(x1 - x0, 2), round(y1 - y0, 2)]
