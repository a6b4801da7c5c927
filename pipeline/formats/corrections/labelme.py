"""Corrections as labelme's JSON files: one, or a folder of them, one an image.

The flag `reviewed` of an image says that a person has looked at it; that boxes were changed cannot
be told. Rectangles, circles, polygons and masks become boxes; shapes of a group and class are one
object. Names of images are relative to the folder, or `image_id` as our exporter writes it.
"""

from __future__ import annotations

import base64
import io
import os
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.errors import UserError
from pipeline.formats.coco_values import parse_flag
from pipeline.formats.corrections.loading import is_json, load_json
from pipeline.formats.corrections.shapes import (
    NO_AREA,
    Box,
    Shape,
    box_around,
    build_image,
    keep_latest,
    parse_finite,
    parse_size,
    polygon_mask,
    was_doubtful,
)
from pipeline.formats.odd_records import BadRecord, OddRecords
from pipeline.ops.rle import encode_rle
from pipeline.types import CorrectedImage, CorrectionFile, Rle, Size

FIELDS = {"shapes", "imagePath"}
NUMBERS = ("confidence", "score")  # our exporter writes them on boxes that a program found
UNREADABLE_MASK = "whose mask cannot be read"


def matches(path: Path) -> bool:
    """Return whether a path is a JSON file of labelme, or a folder with one.

    Args:
        path: a file or folder.
    """
    return any(_is_labelme(file) for file in _list_files(path))


def _list_files(path: Path) -> Iterator[Path]:
    """Yield the JSON files in a folder and those below it, by name."""
    if is_json(path):
        yield path
    elif path.is_dir():
        for folder, folders, names in os.walk(path):
            folders.sort()
            yield from (Path(folder, name) for name in sorted(names) if name.endswith(".json"))


def _is_labelme(file: Path) -> bool:
    try:
        content = load_json(file)
    except UserError:
        return False
    return isinstance(content, Mapping) and set(content) >= FIELDS


def read(path: Path) -> CorrectionFile:
    """Read a file, or all files of a folder. Odd files and shapes are left out, and counted.

    Args:
        path: a file or folder.

    Raises:
        UserError: none of the files can be used.
    """
    root = path if path.is_dir() else path.parent
    files, shapes = OddRecords(path.name, "file"), OddRecords(path.name, "shape")
    images: list[CorrectedImage] = []
    count = 0
    for file in _list_files(path):
        count += 1
        name = file.relative_to(root).as_posix()
        try:
            if not _is_labelme(file):
                raise BadRecord("which are no files of labelme")
            images.append(_read_file(load_json(file), file, name, shapes))
        except BadRecord as error:
            files.leave_out(name, str(error))
    files.check_usable(path, count, len(images))
    return CorrectionFile("labelme", keep_latest(images, files), [*files.notes(), *shapes.notes()])


def _read_file(
    content: Mapping[str, Any], file: Path, name: str, odd: OddRecords
) -> CorrectedImage:
    """Return the image of a file."""
    flags = content["flags"] if isinstance(content.get("flags"), Mapping) else {}
    is_reviewed = parse_flag(flags.get("reviewed"))
    size = parse_size(content.get("imageHeight"), content.get("imageWidth"))
    shapes = content["shapes"] if isinstance(content["shapes"], list) else []
    changed = datetime.fromtimestamp(file.stat().st_mtime, UTC).isoformat(timespec="seconds")
    return build_image(
        _find_name(content, name), size, _read_shapes(shapes, size, name, odd, is_reviewed),
        odd, is_reviewed=is_reviewed, chosen_by_doubt=was_doubtful(content),
        date=changed if is_reviewed else None, where=name,
    )  # fmt: skip


def _find_name(content: Mapping[str, Any], name: str) -> str:
    """Return the id that our exporter writes, else the path of the image in the folder."""
    if isinstance(content.get("image_id"), str):
        return str(content["image_id"])
    if not content["imagePath"] or not isinstance(content["imagePath"], str):
        raise BadRecord("without imagePath")
    path = content["imagePath"].replace("\\", "/")
    if path.startswith("/") or path[1:3] == ":/":
        return path
    return posixpath.normpath(posixpath.join(posixpath.dirname(name), path))


# -- shapes


def _read_shapes(
    shapes: Sequence[Any], size: Size | None, file: str, odd: OddRecords, is_reviewed: bool
) -> Iterator[Shape]:
    for number, shape in enumerate(shapes):
        name = f"{file} shapes[{number}]"
        try:
            if not isinstance(shape, Mapping) or not shape.get("label"):
                raise BadRecord("without a class")
            box, mask, is_outline = _read_place(shape, size)
        except BadRecord as error:
            odd.leave_out(name, str(error))
            continue
        is_scored = any(parse_finite(shape.get(key)) is not None for key in NUMBERS)
        yield Shape(
            label=str(shape["label"]),
            box=box,
            name=name,
            is_outline=is_outline,
            mask=mask,
            group=None if shape.get("group_id") is None else str(shape["group_id"]),
            is_prediction=is_scored and not is_reviewed,
        )


def _read_place(shape: Mapping[str, Any], size: Size | None) -> tuple[Box, Rle | None, bool]:
    """Return box and mask of a shape, and whether it is an outline."""
    points = _read_points(shape.get("points"))
    kind = shape.get("shape_type") or "polygon"
    if kind == "rectangle":
        return box_around(points), None, False
    if kind == "circle" and len(points) == 2:
        (cx, cy), (x, y) = points
        radius = float(np.hypot(x - cx, y - cy))
        return (cx - radius, cy - radius, cx + radius, cy + radius), None, False
    if kind == "polygon":
        if len(points) < 3:
            raise BadRecord(NO_AREA)
        return box_around(points), polygon_mask(points, size), True
    if kind == "mask":
        return _read_mask(shape, points, size)
    raise BadRecord("which are no rectangle, circle, polygon or mask")


def _read_points(points: Any) -> list[tuple[float, float]]:
    pairs = points if isinstance(points, list) else []
    known = [
        (x, y)
        for pair in pairs
        if isinstance(pair, list) and len(pair) == 2
        for x, y in [(parse_finite(pair[0]), parse_finite(pair[1]))]
        if x is not None and y is not None
    ]
    if not known or len(known) < len(pairs):
        raise BadRecord("whose points are not pairs of numbers")
    return known


def _read_mask(
    shape: Mapping[str, Any], points: Sequence[tuple[float, float]], size: Size | None
) -> tuple[Box, Rle | None, bool]:
    """Return box and mask of pixels in a PNG, which the first point is the upper left corner of."""
    try:
        with Image.open(io.BytesIO(base64.b64decode(str(shape.get("mask"))))) as image:
            pixels = np.asarray(image.convert("L")) > 0
    except Exception:  # decoders raise anything
        raise BadRecord(UNREADABLE_MASK) from None
    x, y = (round(side) for side in points[0])
    rows, columns = np.flatnonzero(pixels.any(1)), np.flatnonzero(pixels.any(0))
    if not len(rows):
        raise BadRecord(NO_AREA)
    box = (
        float(x + columns[0]), float(y + rows[0]),
        float(x + columns[-1] + 1), float(y + rows[-1] + 1),
    )  # fmt: skip
    height, width = pixels.shape
    if size is None or x < 0 or y < 0 or x + width > size[1] or y + height > size[0]:
        return box, None, True
    whole = np.zeros(size, bool)
    whole[y : y + height, x : x + width] = pixels
    return box, encode_rle(whole, size), True
