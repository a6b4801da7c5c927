"""Marks of our own pages: a person called boxes of images right, wrong, or to be corrected.

    {"label2box_marks": "2",
     "saved": "2026-01-02T03:04:05.678Z",
     "images": [{"file_name": "val/robin/a.jpg", "width": 640, "height": 480,
                 "boxes": [{"class": "robin", "xyxy": [10, 20.5, 300, 400]}],
                 "mark": "right", "date": "2026-01-02T03:04:05.678Z"}],
     "removed": [{"file_name": "val/wren/b.jpg", "date": "2026-01-02T03:05:00.000Z"}]}

`file_name` is the image's name in the data set, `boxes` all boxes that the page showed, in pixels
of the upright image to two decimals, half-open; there may be none. `removed`, which may be missing,
names images whose mark was taken back (results/marks.py). Version 1 has no mark `to_correct` and no
`removed`. The file is ours, so anything else in it is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import UserError
from pipeline.formats.corrections.loading import is_json, load_json
from pipeline.formats.corrections.shapes import parse_finite, parse_size
from pipeline.formats.odd_records import BadRecord
from pipeline.ops.hashing import hash_of
from pipeline.types import CorrectedImage, CorrectionFile, FoundBox, ImageBoxes, Mark

KEY, VERSION = "label2box_marks", "2"
RIGHT: Mark = "right"
WRONG: Mark = "wrong"
TO_CORRECT: Mark = "to_correct"
MARKS: Mapping[str, Sequence[Mark]] = {"1": (RIGHT, WRONG), VERSION: (RIGHT, WRONG, TO_CORRECT)}
"""The marks of each version that can be read."""
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
    images = read_images(content, path)
    if not images:
        raise UserError(f"{path}: no marks; mark images in the report or on the review page")
    return CorrectionFile("marks", images)


def read_images(content: Mapping[str, Any], path: Path) -> list[CorrectedImage]:
    """Read the marked images of a file; there may be none.

    Args:
        content: of the file, which has KEY.
        path: of the file, for errors.

    Raises:
        UserError: the file has another version, an image twice, or an odd record.
    """
    version, records = content.get(KEY), content.get("images")
    if not isinstance(version, str) or version not in MARKS:
        raise UserError(
            f"{path}: marks of version {version!r}, not {' or '.join(MARKS)}: another version of "
            "label2box wrote the page; make it again with this one"
        )
    if not isinstance(records, list):
        raise UserError(f"{path}: no list of images; give the file as the page saved it")
    images: dict[str, CorrectedImage] = {}
    for number, record in enumerate(records):
        try:
            image = _read_image(record, f"images[{number}]", MARKS[version])
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
    return list(images.values())


def describe_image(image: ImageBoxes, classes: Sequence[str]) -> dict[str, Any]:
    """Return the record of an image, without a mark, as a page keeps it and `read` takes it.

    Args:
        image: with all of its boxes.
        classes: the names of the classes of boxes.
    """
    height, width = image.size
    return {
        "file_name": image.id,
        "width": width,
        "height": height,
        "boxes": [{"class": classes[box.label], "xyxy": round_box(box)} for box in image.boxes],
    }


def name_in_browser(record: Mapping[str, Any]) -> str:
    """Return the name under which a browser keeps the mark of an image with these very boxes.

    Args:
        record: as `describe_image` returns it.
    """
    return f"label2box-mark-{hash_of(record)}"


def round_box(box: FoundBox) -> list[float]:
    """Return the corners of a box as a page shows and writes them.

    Args:
        box: in pixels of the image.
    """
    return [round(side, DIGITS) for side in box.box]


def _read_image(record: Any, where: str, marks: Sequence[Mark]) -> CorrectedImage:
    """Return the image of a record. Raise BadRecord where it is not as the page writes it."""
    if not isinstance(record, Mapping):
        raise BadRecord("no object")
    name, mark, date = (record.get(key) for key in ("file_name", "mark", "date"))
    if not isinstance(name, str) or not name:
        raise BadRecord("file_name is no name of an image")
    known = next((each for each in marks if each == mark), None)
    if known is None:
        raise BadRecord(f"mark is {mark!r}; expected {' or '.join(map(repr, marks))}")
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
            mark=known,
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
