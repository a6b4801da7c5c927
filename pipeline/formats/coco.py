"""COCO annotation files (boxes `xywh` in pixels), read strictly, and the files that we write.

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
"""Half-open `xyxy`."""


@dataclass
class Crowd:
    """A region of uncounted objects: what is found there is neither right nor wrong."""

    box: Box
    category: int
    mask: Rle | None


@dataclass
class CocoImage:
    id: int
    file_name: str
    size: Size | None  # as the file has it
    record: int  # its place in the file's list, for messages
    boxes: list[Box] = field(default_factory=list)  # inside the image, where its size is known
    categories: list[int] = field(default_factory=list)
    masks: list[Rle | None] = field(default_factory=list)
    records: list[int] = field(default_factory=list)  # of the boxes
    crowds: list[Crowd] = field(default_factory=list)


@dataclass
class CocoFile:
    path: Path
    images: list[CocoImage]
    categories: dict[int, str]
    notes: list[str]


def read(path: Path) -> CocoFile:
    """A COCO annotation file. Boxes that stick out of their image are clipped and counted.

    Raises UserError naming the file, the record and the remedy: wrong JSON, a missing field, ids
    that are unknown or there twice, boxes that are empty, negative, not finite or outside.
    """
    whole = read_json(path)
    if not isinstance(whole, dict):
        results = " (a results file? it has no images)" if isinstance(whole, list) else ""
        raise UserError(
            f"{path}: expected a COCO data set, an object with images, annotations and categories; "
            f"got a {type(whole).__name__}{results}"
        )
    for name in ("images", "annotations", "categories"):
        if not isinstance(whole.get(name), list):
            raise UserError(
                f"{path}: the list {name!r} is missing; a COCO data set has images, annotations "
                "and categories"
            )
    categories = _categories(path, whole["categories"])
    images = _images(path, whole["images"])
    notes = _annotations(path, whole["annotations"], images, categories)
    return CocoFile(path, list(images.values()), categories, notes)


def read_json(path: Path) -> Any:
    """Raises UserError with the line of what is wrong."""
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


def _field(path: Path, where: str, record: Any, name: str, kind: type) -> Any:
    if not isinstance(record, dict):
        raise UserError(f"{path}, {where}: expected an object, got {record!r}")
    if name not in record:
        raise UserError(f"{path}, {where}: the field {name!r} is missing; add it")
    value = record[name]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise UserError(f"{path}, {where}: {name} is {value!r}, expected {EXPECTED[kind]}")
    return value


def _new_id(path: Path, where: str, record: Any, known: Collection[int]) -> int:
    number: int = _field(path, where, record, "id", int)
    if number in known:
        raise UserError(f"{path}, {where}: the id {number} is there twice; give each its own")
    return number


def _as_text(path: Path, where: str, record: Any, name: str) -> str:
    """Text that can be written again: JSON can spell half characters, UTF-8 cannot."""
    text: str = _field(path, where, record, name, str)
    return text.encode("utf-8", "backslashreplace").decode()


def _categories(path: Path, records: Sequence[Any]) -> dict[int, str]:
    found: dict[int, str] = {}
    for n, record in enumerate(records):
        where = f"categories[{n}]"
        found[_new_id(path, where, record, found)] = _as_text(path, where, record, "name")
    return found


def _images(path: Path, records: Sequence[Any]) -> dict[int, CocoImage]:
    found: dict[int, CocoImage] = {}
    for n, record in enumerate(records):
        where = f"images[{n}]"
        number = _new_id(path, where, record, found)
        size = None
        if "width" in record or "height" in record:
            width = _field(path, where, record, "width", int)
            height = _field(path, where, record, "height", int)
            if width < 1 or height < 1:
                raise UserError(
                    f"{path}, {where}: width {width}, height {height} is no size; correct it or "
                    "leave both away"
                )
            size = (height, width)
        found[number] = CocoImage(number, _as_text(path, where, record, "file_name"), size, n)
    return found


def _annotations(
    path: Path,
    records: Sequence[Any],
    images: Mapping[int, CocoImage],
    categories: Mapping[int, str],
) -> list[str]:
    """Puts the boxes into their images, and returns what was odd about them."""
    seen: set[int] = set()
    clipped = crowds = 0
    for n, record in enumerate(records):
        where = f"annotations[{n}]"
        image = images.get(_field(path, where, record, "image_id", int))
        if image is None:
            raise UserError(
                f"{path}, {where}: image_id {record['image_id']} is not among the images; "
                "add the image or drop the annotation"
            )
        if "id" in record:
            seen.add(_new_id(path, where, record, seen))
        category = _field(path, where, record, "category_id", int)
        if category not in categories:
            raise UserError(
                f"{path}, {where}: category_id {category} is not among the categories "
                f"({', '.join(map(str, sorted(categories)[:20]))}); add it or drop the annotation"
            )
        if record.get("iscrowd"):
            crowds += 1
            image.crowds += _crowd(record, category, image.size, f"{path}, {where}")
            continue
        box = xyxy(_field(path, where, record, "bbox", list), f"{path}, {where}")
        if image.size is not None:
            box, was_clipped = clip(box, image.size, f"{path}, {where}")
            clipped += was_clipped
        image.boxes.append(box)
        image.categories.append(category)
        image.masks.append(as_rle(record.get("segmentation"), image.size, f"{path}, {where}"))
        image.records.append(n)
    notes = []
    if clipped:
        notes.append(clipped_note(path, clipped))
    if crowds:
        notes.append(
            f"{path.name}: {crowds} crowd annotations: nothing is counted there by COCO's AP and "
            "by PxAP, and all else leaves them out"
        )
    return notes


def _crowd(record: Any, category: int, size: Size | None, where: str) -> list[Crowd]:
    """One, or none where it cannot be read: it would only forgive."""
    try:
        box = xyxy(_field(Path(), where, record, "bbox", list), where)
        if size is not None:
            box, _ = clip(box, size, where)
        return [Crowd(box, category, as_rle(record.get("segmentation"), size, where))]
    except UserError:
        return []


# -- boxes


def xyxy(bbox: Sequence[Any], where: str) -> Box:
    """Convert COCO's `xywh` to half-open `xyxy`.

    Args:
        bbox: x, y, width and height in pixels, as a COCO file has them.
        where: The file and the record, for messages.

    Returns:
        x0, y0, x1, y1 in pixels.

    Raises:
        UserError: If these are not four numbers, not finite, or the box is empty.

    Examples:
        >>> xyxy([1, 2, 10, 20], "boxes.json, annotations[0]")
        (1.0, 2.0, 11.0, 22.0)
    """
    if len(bbox) != 4 or not all(
        isinstance(v, int | float) and not isinstance(v, bool) for v in bbox
    ):
        raise UserError(f"{where}: bbox is {bbox!r}, expected four numbers x, y, width, height")
    # Beyond this float32 has no half pixels, and no image is as large.
    if not all(abs(v) <= 1 << 22 for v in bbox):
        what = "is not finite" if any(v - v != 0 for v in bbox) else "is far beyond any image"
        raise UserError(f"{where}: bbox {bbox} {what}; correct it or drop the annotation")
    x, y, width, height = map(float, bbox)
    if width <= 0 or height <= 0:
        what = "empty" if width >= 0 and height >= 0 else "of negative size"
        raise UserError(f"{where}: bbox {bbox} is {what}; correct it or drop the annotation")
    box = (x, y, x + width, y + height)
    _not_empty(box, where)
    return box


def clip(box: Box, size: Size, where: str) -> tuple[Box, bool]:
    """The part of the box inside the image, and whether it stuck out. Raises UserError if none."""
    height, width = size
    x0, y0, x1, y1 = box
    inside = (max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height)))
    if inside[2] <= inside[0] or inside[3] <= inside[1]:
        raise UserError(
            f"{where}: the box from ({x0:g}, {y0:g}) to ({x1:g}, {y1:g}) lies outside its image of "
            f"{width} x {height} pixels (width x height); correct it or drop the annotation"
        )
    _not_empty(inside, where)
    # Less than a pixel is rounding, not an error worth a line in the report.
    return inside, max(abs(a - b) for a, b in zip(box, inside, strict=True)) >= 1


def _not_empty(box: Box, where: str) -> None:
    x0, y0, x1, y1 = np.asarray(box, np.float32).tolist()
    if x1 <= x0 or y1 <= y0:
        raise UserError(
            f"{where}: the box at ({x0:g}, {y0:g}) is thinner than float32 can tell; correct it "
            "or drop the annotation"
        )


def clipped_note(path: Path, count: int) -> str:
    return f"{path.name}: {count} boxes stuck out of their image and were clipped"


def as_rle(segmentation: Any, size: Size | None, where: str) -> Rle | None:
    """Polygons or run lengths as compressed run lengths; None where there are none.

    Raises UserError, with `where` it is, for what is neither, or of another size.
    """
    if not segmentation or size is None:
        return None
    from pycocotools import mask as coco_mask

    height, width = size
    try:
        if isinstance(segmentation, list):
            # pycocotools would take four numbers for a box, and read beyond an odd number.
            if not all(len(polygon) >= 6 and len(polygon) % 2 == 0 for polygon in segmentation):
                raise ValueError("a polygon is x, y of three points or more")
            polygons = [[float(v) for v in polygon] for polygon in segmentation]
            if not np.isfinite(np.concatenate(polygons)).all():
                raise ValueError("a polygon is not finite")
            rle = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
        elif list(segmentation["size"]) != [height, width]:
            raise ValueError(f"its size is {segmentation['size']}, the image's {[height, width]}")
        else:
            counts = segmentation["counts"]
            runs = counts if isinstance(counts, list) else _run_lengths(counts)
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


def _run_lengths(text: str) -> list[int]:
    """What COCO packs five bits a character, from the fourth on as difference to the one before
    the last. pycocotools would read beyond the mask where they do not fit."""
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


def xywh(box: np.ndarray) -> list[float]:
    """Convert half-open `xyxy` to COCO's `xywh`, rounded to a hundredth of a pixel.

    Examples:
        >>> xywh(np.array([1.234, 2, 11.236, 22], np.float32))
        [1.23, 2.0, 10.01, 20.0]
    """
    x0, y0, x1, y1 = (round(float(v), 2) for v in box)
    return [x0, y0, round(x1 - x0, 2), round(y1 - y0, 2)]


def dump(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """A JSON list, one record a line, without holding it in memory."""
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
    """A whole COCO data set, written record by record."""
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
