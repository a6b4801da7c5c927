"""Label files of YOLO: a line an object, in fractions of the upright image.

class cx cy width height              a box by its centre
class x1 y1 x2 y2 x3 y3 ...           an outline, of which the box around it is taken
class cx cy width height x y v ...    a box and key points, where data.yaml has kpt_shape

A line that cannot be right is left out, with its number and the reason.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.errors import UserError
from pipeline.formats.coco_boxes import Box
from pipeline.formats.coco_values import parse_number
from pipeline.formats.files import read_lines
from pipeline.formats.odd_records import BadRecord

BOX, WITH_CONFIDENCE = 5, 6  # numbers of a line
LARGEST = 2.0  # fractions beyond it are pixels, or a mistake: nothing of such a box is in the image


@dataclass(frozen=True, slots=True)
class YoloObject:
    """An object of a label file.

    Attributes:
        number: Of the class.
        box: Half-open `xyxy` in fractions of the image, not clipped.
        line: The number of its line, from 1.
    """

    number: int
    box: Box
    line: int


@dataclass
class YoloLabels:
    """The objects of an image.

    Attributes:
        objects: Those that can be used.
        faults: The number of a line, and why it cannot be used.
        repeated: The numbers of lines that are the same as one before them.
        with_confidence: The numbers of lines with a sixth number, which predictions have.
    """

    objects: list[YoloObject] = field(default_factory=list)
    faults: list[tuple[int, str]] = field(default_factory=list)
    repeated: list[int] = field(default_factory=list)
    with_confidence: list[int] = field(default_factory=list)


def read_labels(path: Path, key_point_numbers: int = 0) -> YoloLabels | None:
    """Read a label file.

    Args:
        path: The file.
        key_point_numbers: How many numbers of key points follow each box; 0: none.

    Returns:
        The objects, in the order of the lines; None where there is no such file.

    Raises:
        BadRecord: The file is no text, or cannot be read.
    """
    result, seen = YoloLabels(), set[tuple[int, Box]]()
    try:
        for number, line in read_lines(path):
            try:
                fields = line.split()
                item = _parse(fields, number, key_point_numbers)
            except BadRecord as error:
                result.faults.append((number, str(error)))
                continue
            if len(fields) == WITH_CONFIDENCE:
                result.with_confidence.append(number)
            if (item.number, item.box) in seen:
                result.repeated.append(number)
                continue
            seen.add((item.number, item.box))
            result.objects.append(item)
    except UserError as error:
        if not path.exists():
            return None
        raise BadRecord(f"which is no label file{str(error).removeprefix(str(path))}") from None
    return result


def _parse(fields: Sequence[str], line: int, key_point_numbers: int) -> YoloObject:
    """Return the object of a line. Raise BadRecord where it cannot be right."""
    numbers = [parse_number(text) for text in fields]
    values = [value for value in numbers if value is not None]
    if len(values) != len(numbers):
        raise BadRecord("with a field that is no number")
    if not all(map(math.isfinite, values)):
        raise BadRecord("with a number that is not finite")
    label, *rest = values
    if label != int(label) or label < 0:
        raise BadRecord("whose class is no whole number from 0")
    if key_point_numbers and len(values) == BOX + key_point_numbers:
        rest = rest[: BOX - 1]
    if len(values) in (BOX, WITH_CONFIDENCE) or len(rest) == BOX - 1:
        x, y, width, height = rest[:4]
        box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    elif len(rest) >= 6 and len(rest) % 2 == 0:
        box = (min(rest[::2]), min(rest[1::2]), max(rest[::2]), max(rest[1::2]))
    else:
        raise BadRecord(
            f"with {len(fields)} fields (5 are a box: class, centre, width and height; an odd "
            "number from 7 on is an outline)"
        )
    if any(abs(value) > LARGEST for value in box):
        raise BadRecord("whose numbers are no fractions of the image, from 0 to 1 (pixels?)")
    if box[2] <= box[0] or box[3] <= box[1]:
        raise BadRecord("whose box is empty or reversed")
    return YoloObject(int(label), box, line)
