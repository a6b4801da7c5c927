"""COCO annotation files (boxes `xywh` in pixels): strict reading, and writing record by record.

https://cocodataset.org/#format-data
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from pipeline.errors import UserError
from pipeline.types import Rle, Size

Box = tuple[float, float, float, float]
"""Half-open `xyxy` in pixels of the upright image."""


@dataclass
class Crowd:
    """A region of uncounted objects (`iscrowd`): boxes found there are neither right nor wrong."""

    box: Box
    category: int
    mask: Rle | None


@dataclass
class CocoImage:
    """An image of a COCO file with its annotations.

    Attributes:
        id: The number that the file knows it by.
        file_name: As in the file.
        size: (height, width) as in the file; None where the file has none.
        record: Position in the file's list of images, for messages.
        boxes: Clipped to the image, where its size is known.
        categories: Category id of each box.
        masks: Mask of each box; None where there is none.
        records: Position in the file's list of annotations of each box, for messages.
        crowds: Regions of uncounted objects, apart from the boxes.
    """

    id: int
    file_name: str
    size: Size | None
    record: int
    boxes: list[Box] = field(default_factory=list)
    categories: list[int] = field(default_factory=list)
    masks: list[Rle | None] = field(default_factory=list)
    records: list[int] = field(default_factory=list)
    crowds: list[Crowd] = field(default_factory=list)


@dataclass
class CocoFile:
    """The content of a COCO annotation file.

    Attributes:
        path: Where it was read from.
        images: In the order of the file, with their annotations.
        categories: Names by category id, in the order of the file.
        notes: What was unusual about the annotations, a line each.
    """

    path: Path
    images: list[CocoImage]
    categories: dict[int, str]
    notes: list[str]


def read(path: Path) -> CocoFile:
    """Read a COCO annotation file. Boxes that stick out of their image are clipped and counted.

    Args:
        path: The annotation file, JSON.

    Raises:
        UserError: The JSON is wrong, a field is missing or of another type, an id is unknown or
            there twice, or a box is empty, negative, not finite or outside its image. The message
            names the file, the record and the remedy.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        results = " (a results file? it has no images)" if isinstance(content, list) else ""
        raise UserError(
            f"{path}: expected a COCO data set, an object with images, annotations and categories; "
            f"got a {type(content).__name__}{results}"
        )
    for name in ("images", "annotations", "categories"):
        if not isinstance(content.get(name), list):
            raise UserError(
                f"{path}: the list {name!r} is missing; a COCO data set has images, annotations "
                "and categories"
            )
    categories = _read_categories(path, content["categories"])
    images = _read_images(path, content["images"])
    notes = _read_annotations(path, content["annotations"], images, categories)
    return CocoFile(path, list(images.values()), categories, notes)


def read_json(path: Path) -> Any:
    """Read a JSON file that somebody else wrote.

    Args:
        path: The file.

    Returns:
        What the JSON holds.

    Raises:
        UserError: The file is missing, cannot be read, is not UTF-8 or not JSON; in the last case
            with line and column.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; expected a COCO file (JSON)") from None
    except IsADirectoryError:
        raise UserError(f"{path}: a folder, expected a COCO file (JSON)") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: not UTF-8 text (byte {error.start}); expected a COCO file (JSON)"
        ) from None
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}, line {error.lineno}, column {error.colno}: not JSON ({error.msg}); "
            "correct it there, or write the file again"
        ) from None
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits, endless brackets
        raise UserError(f"{path}: not JSON that can be read ({error})") from None


EXPECTED = {int: "a whole number", str: "text", list: "a list"}


def _get_field(path: Path, where: str, record: Any, name: str, kind: type) -> Any:
    """Return a field of a record. Raise UserError where it is missing or of another type."""
    if not isinstance(record, dict):
        raise UserError(f"{path}, {where}: expected an object, got {record!r}")
    if name not in record:
        raise UserError(f"{path}, {where}: the field {name!r} is missing; add it")
    value = record[name]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise UserError(f"{path}, {where}: {name} is {value!r}, expected {EXPECTED[kind]}")
    return value


def _get_new_id(path: Path, where: str, record: Any, known: Collection[int]) -> int:
    """Return the id of a record. Raise UserError where it is already known."""
    number: int = _get_field(path, where, record, "id", int)
    if number in known:
        raise UserError(f"{path}, {where}: the id {number} is there twice; give each its own")
    return number


def _get_text(path: Path, where: str, record: Any, name: str) -> str:
    r"""Return text that UTF-8 can encode: JSON allows lone surrogates, which become `\uNNNN`."""
    text: str = _get_field(path, where, record, name, str)
    return text.encode("utf-8", "backslashreplace").decode()


def _read_categories(path: Path, records: Sequence[Any]) -> dict[int, str]:
    categories: dict[int, str] = {}
    for n, record in enumerate(records):
        where = f"categories[{n}]"
        number = _get_new_id(path, where, record, categories)
        categories[number] = _get_text(path, where, record, "name")
    return categories


def _read_images(path: Path, records: Sequence[Any]) -> dict[int, CocoImage]:
    images: dict[int, CocoImage] = {}
    for n, record in enumerate(records):
        where = f"images[{n}]"
        number = _get_new_id(path, where, record, images)
        size = None
        if "width" in record or "height" in record:
            width = _get_field(path, where, record, "width", int)
            height = _get_field(path, where, record, "height", int)
            if width < 1 or height < 1:
                raise UserError(
                    f"{path}, {where}: width {width}, height {height} is no size; correct it or "
                    "leave both away"
                )
            size = (height, width)
        images[number] = CocoImage(number, _get_text(path, where, record, "file_name"), size, n)
    return images


def _read_annotations(
    path: Path,
    records: Sequence[Any],
    images: Mapping[int, CocoImage],
    categories: Mapping[int, str],
) -> list[str]:
    """Add the annotations to their images, and return what was unusual about them."""
    seen: set[int] = set()
    clipped = crowds = 0
    for n, record in enumerate(records):
        where = f"annotations[{n}]"
        image = images.get(_get_field(path, where, record, "image_id", int))
        if image is None:
            raise UserError(
                f"{path}, {where}: image_id {record['image_id']} is not among the images; "
                "add the image or drop the annotation"
            )
        if "id" in record:
            seen.add(_get_new_id(path, where, record, seen))
        category = _get_field(path, where, record, "category_id", int)
        if category not in categories:
            raise UserError(
                f"{path}, {where}: category_id {category} is not among the categories "
                f"({', '.join(map(str, sorted(categories)[:20]))}); add it or drop the annotation"
            )
        if record.get("iscrowd"):
            crowds += 1
            image.crowds += _read_crowd(record, category, image.size, f"{path}, {where}")
            continue
        bbox = _get_field(path, where, record, "bbox", list)
        box = xywh_to_xyxy(bbox, f"{path}, {where}")
        if image.size is not None:
            box, was_clipped = clip(box, image.size, f"{path}, {where}")
            clipped += was_clipped
        image.boxes.append(box)
        image.categories.append(category)
        image.masks.append(to_rle(record.get("segmentation"), image.size, f"{path}, {where}"))
        image.records.append(n)
    notes = []
    if clipped:
        notes.append(describe_clipped_boxes(path, clipped))
    if crowds:
        notes.append(
            f"{path.name}: {crowds} crowd annotations: nothing is counted there by COCO's AP and "
            "by PxAP, and all else leaves them out"
        )
    return notes


def _read_crowd(record: Any, category: int, size: Size | None, where: str) -> list[Crowd]:
    """Return a list of the crowd region, empty where the region cannot be read.

    A broken region is no error: without it, boxes there count as wrong instead of being ignored.
    """
    try:
        box = xywh_to_xyxy(_get_field(Path(), where, record, "bbox", list), where)
        if size is not None:
            box, _ = clip(box, size, where)
        return [Crowd(box, category, to_rle(record.get("segmentation"), size, where))]
    except UserError:
        return []


# -- boxes


def xywh_to_xyxy(bbox: Sequence[Any], where: str) -> Box:
    """Convert COCO's `xywh` to half-open `xyxy`.

    Args:
        bbox: x, y, width and height in pixels, as a COCO file has them.
        where: The file and the record, for messages.

    Returns:
        x0, y0, x1, y1 in pixels.

    Raises:
        UserError: If these are not four numbers, not finite, or the box is empty.

    Examples:
        >>> xywh_to_xyxy([1, 2, 10, 20], "boxes.json, annotations[0]")
        (1.0, 2.0, 11.0, 22.0)
    """
    if len(bbox) != 4 or not all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in bbox
    ):
        raise UserError(f"{where}: bbox is {bbox!r}, expected four numbers x, y, width, height")
    # Beyond this float32 has no half pixels, and no image is as large.
    if not all(abs(value) <= 1 << 22 for value in bbox):
        finite = not any(value - value != 0 for value in bbox)
        what = "is far beyond any image" if finite else "is not finite"
        raise UserError(f"{where}: bbox {bbox} {what}; correct it or drop the annotation")
    x, y, width, height = map(float, bbox)
    if width <= 0 or height <= 0:
        what = "empty" if width >= 0 and height >= 0 else "of negative size"
        raise UserError(f"{where}: bbox {bbox} is {what}; correct it or drop the annotation")
    box = (x, y, x + width, y + height)
    _check_not_empty(box, where)
    return box


def clip(box: Box, size: Size, where: str) -> tuple[Box, bool]:
    """Clip a box to its image.

    Args:
        box: Half-open `xyxy` in pixels.
        size: (height, width) of the image.
        where: The file and the record, for messages.

    Returns:
        The part inside the image, and whether the box stuck out by a pixel or more.

    Raises:
        UserError: No part of the box is inside.
    """
    height, width = size
    x0, y0, x1, y1 = box
    inside = (max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height)))
    if inside[2] <= inside[0] or inside[3] <= inside[1]:
        raise UserError(
            f"{where}: the box from ({x0:g}, {y0:g}) to ({x1:g}, {y1:g}) lies outside its image of "
            f"{width} x {height} pixels (width x height); correct it or drop the annotation"
        )
    _check_not_empty(inside, where)
    # Less than a pixel is rounding, which no note mentions.
    return inside, max(abs(a - b) for a, b in zip(box, inside, strict=True)) >= 1


def _check_not_empty(box: Box, where: str) -> None:
    """Raise UserError where the box is empty once its corners are float32."""
    x0, y0, x1, y1 = np.asarray(box, np.float32).tolist()
    if x1 <= x0 or y1 <= y0:
        raise UserError(
            f"{where}: the box at ({x0:g}, {y0:g}) is thinner than float32 can tell; correct it "
            "or drop the annotation"
        )


def describe_clipped_boxes(path: Path, count: int) -> str:
    """Return a note that boxes of a file were clipped.

    Args:
        path: The file.
        count: How many boxes were clipped.
    """
    return f"{path.name}: {count} boxes stuck out of their image and were clipped"


def to_rle(segmentation: Any, size: Size | None, where: str) -> Rle | None:
    """Convert a segmentation of a COCO record to a compressed run-length encoding.

    Args:
        segmentation: Polygons, or run lengths, compressed or not; None or empty: no mask.
        size: (height, width) of the image; None: not known, so there is no mask.
        where: The file and the record, for messages.

    Returns:
        The mask; None without a segmentation or a size.

    Raises:
        UserError: The segmentation is neither, or is of another size.
    """
    if not segmentation or size is None:
        return None
    from pycocotools import mask as coco_mask

    height, width = size
    try:
        if isinstance(segmentation, list):
            # pycocotools takes four numbers for a box, and reads beyond the end of an odd number.
            if not all(len(polygon) >= 6 and len(polygon) % 2 == 0 for polygon in segmentation):
                raise ValueError("a polygon is x, y of three points or more")
            polygons = [[float(value) for value in polygon] for polygon in segmentation]
            if not np.isfinite(np.concatenate(polygons)).all():
                raise ValueError("a polygon is not finite")
            rle = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
        elif list(segmentation["size"]) != [height, width]:
            raise ValueError(f"its size is {segmentation['size']}, the image's {[height, width]}")
        else:
            counts = segmentation["counts"]
            runs = counts if isinstance(counts, list) else _decode_run_lengths(counts)
            if min(runs) < 0 or sum(runs) != height * width:
                raise ValueError(f"its counts do not sum up to {height * width} pixels")
            if not isinstance(counts, list):
                return {"size": [height, width], "counts": counts}
            rle = coco_mask.frPyObjects({"size": [height, width], "counts": runs}, height, width)
    except Exception as error:
        raise UserError(
            f"{where}: the segmentation cannot be read ({error}); correct it or drop it"
        ) from None
    return {"size": [height, width], "counts": rle["counts"].decode("ascii")}


def _decode_run_lengths(text: str) -> list[int]:
    """Decode COCO's compressed run lengths.

    A character holds five bits of a number and whether more follow. From the fourth number on,
    the difference to the number two places before is stored. pycocotools would read beyond the
    mask where the run lengths do not fit it, so they are decoded and checked here.
    """
    runs: list[int] = []
    value = shift = 0
    for character in text.encode("ascii"):
        bits = character - 48
        if not 0 <= bits < 64:
            raise ValueError(f"its counts hold {chr(character)!r}")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            signed = value - (1 << shift) if bits & 16 else value
            runs.append(signed + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return runs


def xyxy_to_xywh(box: np.ndarray) -> list[float]:
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


def dump(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write records as a JSON list, a line each, without holding them in memory.

    Args:
        path: The file, which is overwritten.
        records: What JSON can hold.
    """
    with path.open("w", encoding="utf-8") as file:
        _dump_list(file, records)
        file.write("\n")


def dump_data_set(
    path: Path,
    info: Mapping[str, Any],
    images: Iterable[Mapping[str, Any]],
    categories: Iterable[Mapping[str, Any]],
    annotations: Iterable[Mapping[str, Any]],
) -> None:
    """Write a COCO data set record by record, without holding the records in memory.

    Args:
        path: The file, which is overwritten.
        info: COCO's `info`.
        images: Records of `images`.
        categories: Records of `categories`.
        annotations: Records of `annotations`.
    """
    with path.open("w", encoding="utf-8") as file:
        file.write('{"info": ' + json.dumps(info, ensure_ascii=False))
        for name, records in (
            ("images", images),
            ("categories", categories),
            ("annotations", annotations),
        ):
            file.write(f',\n"{name}": ')
            _dump_list(file, records)
        file.write("}\n")


def _dump_list(file: IO[str], records: Iterable[Mapping[str, Any]]) -> None:
    file.write("[")
    for n, record in enumerate(records):
        file.write((",\n" if n else "\n") + json.dumps(record, ensure_ascii=False))
    file.write("\n]")
