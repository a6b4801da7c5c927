"""Marks of our own review page (stage annotate): a person called boxes of images right or wrong.

    {"label2box_marks": "1",
     "saved": "2026-01-02T03:04:05.678Z",
     "images": [{"file_name": "val/robin/a.jpg", "width": 640, "height": 480,
                 "boxes": [{"class": "robin", "xyxy": [10, 20.5, 300, 400]}],
                 "mark": "right", "date": "2026-01-02T03:04:05.678Z"}]}

`file_name` is the image's name in the data set, `boxes` all boxes that the page showed, in pixels
of the upright image to two decimals, half-open; there may be none. The file is ours, so anything
else in it is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import UserError
from pipeline.formats.corrections.loading import is_json, load_json
from pipeline.formats.corrections.shapes import parse_finite, parse_size
from pipeline.formats.odd_records import BadRecord
from pipeline.types import CorrectedImage, CorrectionFile, Mark

KEY, VERSION = "label2box_marks", "1"
RIGHT: Mark = "right"
WRONG: Mark = "wrong"
DIGITS = 2
"""Decimals of a coordinate on the page."""


def matches(path: Path) -> bool:
    """Return whether a file holds marks of our review page.

    Args:
        path: a file or folder.
    """
    if not is_json(path):
        return False
    try:
        content = load_json(path)
    except UserError:
        return False
    return isinstance(content, Mapping) and KEY in content


def read(path: Path) -> CorrectionFile:
    """Read marks.

    Args:
        path: the file.

    Raises:
        UserError: the file has another version, no mark, an image twice, or an odd record.
    """
    content = load_json(path)
    if content[KEY] != VERSION:
        raise UserError(
            f"{path}: marks of version {content[KEY]!r}, not {VERSION!r}: another version of "
            "label2box wrote the page; make it again with this one"
        )
    records = content.get("images")
    if not isinstance(records, list) or not records:
        raise UserError(f"{path}: no marks; mark images in review/index.html and save them")
    images: dict[str, CorrectedImage] = {}
    for number, record in enumerate(records):
        try:
            image = _read_image(record, f"images[{number}]")
        except BadRecord as error:
            raise UserError(
                f"{path}, images[{number}]: {error}; give the file as the page saved it"
            ) from None
        if image.name in images:
            raise UserError(
                f"{path}: {images[image.name].where} and {image.where} are both "
                f"{image.name!r}; give files of several people one after the other"
            )
        images[image.name] = image
    return CorrectionFile("marks", list(images.values()))


def _read_image(record: Any, where: str) -> CorrectedImage:
    """Return the image of a record. Raise BadRecord where it is not as the page writes it."""
    if not isinstance(record, Mapping):
        raise BadRecord("no object")
    name, mark, date = (record.get(key) for key in ("file_name", "mark", "date"))
    if not isinstance(name, str) or not name:
        raise BadRecord("file_name is no name of an image")
    if mark not in (RIGHT, WRONG):
        raise BadRecord(f"mark is {mark!r}; expected {RIGHT!r} or {WRONG!r}")
    if not isinstance(date, str):
        raise BadRecord("date is no text")
    size = parse_size(record.get("height"), record.get("width"))
    if size is None:
        raise BadRecord("width and height are no numbers of pixels")
    boxes = record.get("boxes")
    if not isinstance(boxes, list):
        raise BadRecord("boxes are no list")
    try:
        return CorrectedImage(
            name=name,
            size=size,
            boxes=np.array([_read_box(box) for box in boxes], np.float32).reshape(-1, 4),
            classes=[_read_class(box) for box in boxes],
            are_predictions=[True] * len(boxes),
            is_reviewed=mark == RIGHT,
            date=date,
            where=where,
            mark=RIGHT if mark == RIGHT else WRONG,
        )
    except ValueError as error:  # a box without an area
        raise BadRecord(str(error)) from None


def _read_box(box: Any) -> list[float]:
    values = box.get("xyxy") if isinstance(box, Mapping) else None
    numbers = [parse_finite(value) for value in values] if isinstance(values, list) else []
    corners = [number for number in numbers if number is not None]
    if len(corners) != 4 or len(numbers) != 4:
        raise BadRecord("a box has no four numbers xyxy")
    return corners


def _read_class(box: Mapping[str, Any]) -> str:
    name = box.get("class")
    if not isinstance(name, str):
        raise BadRecord("a box has no class")
    return name
