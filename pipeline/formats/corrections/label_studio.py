"""Corrections that Label Studio exports as JSON or as JSON-MIN.

    JSON        tasks with `data` and `annotations` (`completions` in old versions)
    JSON-MIN    a record an annotation: the fields of `data`, and regions by the control's name

An annotation that was not cancelled (skipped) is a person's: of several the newest counts. Regions
are percent of width and height; predictions are no truth. Rectangles, ellipses, polygons and brush
masks become boxes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from pipeline.errors import UserError
from pipeline.formats.coco_values import parse_flag
from pipeline.formats.corrections.loading import is_json, load_json
from pipeline.formats.corrections.shapes import (
    NO_AREA,
    Shape,
    box_around,
    build_image,
    ellipse_box,
    keep_latest,
    mask_box,
    parse_finite,
    parse_size,
    polygon_mask,
    rotate_box,
    was_doubtful,
)
from pipeline.formats.label_studio_brush import decode_brush
from pipeline.formats.odd_records import BadRecord, OddRecords
from pipeline.types import CorrectedImage, CorrectionFile, Size

ANNOTATIONS = ("annotations", "completions")
IMAGE_KEYS = ("image", "img", "image_url", "url", "ocr")
LABELS = "labels"  # the end of the names of all fields that hold classes
NOT_A_REGION = ("relation", "choices", "textarea", "rating", "taxonomy", "number", "datetime")
SIZE_FIELDS = ("original_width", "original_height")
NO_CLASS = "without a class in `value`, a list of names as `rectanglelabels`"
OTHER_KIND = "which are no rectangle, ellipse, polygon or brush mask"
NO_IMAGE = "without the path of an image in `data`, as `image`"
NO_DATA = "without an object `data`, which has the path of the image as `image`"
NO_ANNOTATIONS = "without a list `annotations`"
NO_RESULT = "whose annotation has no list `result`: an empty one says that there is no object"


def matches(path: Path) -> bool:
    """Return whether a file is an export of Label Studio.

    Args:
        path: a file or folder.
    """
    if not is_json(path):
        return False
    try:
        content = load_json(path)
    except UserError:
        return False
    if isinstance(content, Mapping):
        return _is_task(content)
    first = content[0] if isinstance(content, list) and content else None
    return isinstance(first, Mapping) and (_is_task(first) or _is_min(first))


def _is_task(record: Mapping[str, Any]) -> bool:
    """Return whether a record is a task: `data` is an object, or it has a list of annotations."""
    return isinstance(record.get("data"), Mapping) or _has_list(record)


def _has_list(record: Mapping[str, Any]) -> bool:
    lists = (record.get(name) for name in (*ANNOTATIONS, "predictions"))
    return "data" in record and any(isinstance(values, list) for values in lists)


def _is_min(record: Mapping[str, Any]) -> bool:
    return "annotation_id" in record or ("annotator" in record and "id" in record)


def read(path: Path) -> CorrectionFile:
    """Read an export, or a single task by hand. Odd records are left out, and counted.

    Args:
        path: the file.

    Raises:
        UserError: the file cannot be read, or none of its tasks can be used.
    """
    content = load_json(path)
    if isinstance(content, Mapping):
        content = [content]
    tasks, regions = OddRecords(path.name, "task"), OddRecords(path.name, "region")
    images: list[CorrectedImage] = []
    for number, record in enumerate(content):
        where = _name_task(number, record)
        try:
            if not isinstance(record, Mapping):
                raise BadRecord("which are no objects")
            images.append(
                _read_task(record, where, regions)
                if _is_task(record)
                else _read_min(record, where, regions)
            )
        except BadRecord as error:
            tasks.leave_out(where, str(error))
    tasks.check_usable(path, len(content), len(images))
    kept = keep_latest(images, tasks)
    return CorrectionFile("label_studio", kept, [*tasks.notes(), *regions.notes()])


# -- records


def _name_task(number: int, record: Any) -> str:
    """Return the place of a task in the file, with its id where it has one."""
    has_id = isinstance(record, Mapping) and "id" in record
    return f"[{number}] (task {record['id']})" if has_id else f"[{number}]"


def _read_task(record: Mapping[str, Any], where: str, odd: OddRecords) -> CorrectedImage:
    """Return the image of a task, with the boxes of its newest annotation, else of a prediction."""
    if not isinstance(record.get("data"), Mapping):
        raise BadRecord(NO_DATA)
    if not _has_list(record):
        raise BadRecord(NO_ANNOTATIONS)
    name = _find_name(record["data"])
    annotation = _find_newest(record, ANNOTATIONS)
    if annotation is not None:
        # A person who saw no object leaves an empty list: without any, nothing is known.
        if not isinstance(annotation.get("result"), list):
            raise BadRecord(NO_RESULT)
        return _build(name, _list_regions(annotation), annotation, record["data"], where, odd, True)
    prediction = _find_newest(record, ("predictions",)) or {}
    return _build(name, _list_regions(prediction), {}, record["data"], where, odd, False)


def _find_newest(record: Mapping[str, Any], names: Sequence[str]) -> Mapping[str, Any] | None:
    """Return the newest annotation or prediction that was not cancelled; None: there is none."""
    submitted = [
        each
        for name in names
        for values in [record.get(name)]
        for each in (values if isinstance(values, list) else ())
        if isinstance(each, Mapping) and not parse_flag(each.get("was_cancelled"))
    ]
    return max(submitted, key=lambda each: _find_date(each) or "", default=None)


def _read_min(record: Mapping[str, Any], where: str, odd: OddRecords) -> CorrectedImage:
    """Return the image of a record of JSON-MIN, which is an annotation."""
    regions = [
        {"value": value, **value}
        for values in record.values()
        if isinstance(values, list)
        for value in values
        if isinstance(value, Mapping)
    ]
    about = {**record, "completed_by": record.get("annotator")}
    return _build(_find_name(record), regions, about, record, where, odd, True)


def _find_name(data: Mapping[str, Any]) -> str:
    """Return the image of a task: its id as our exporter writes it, else its path or address."""
    values = [data.get(key) for key in IMAGE_KEYS] + list(data.values())
    address = next(
        (value for value in values if isinstance(value, str) and ("." in value or "/" in value)),
        None,
    )
    id = data.get("image_id")
    if isinstance(id, str) and (
        address is None or address.startswith("data:") or unquote(address).endswith(id)
    ):
        return id
    if address is None or address.startswith("data:"):
        raise BadRecord(NO_IMAGE)
    return address


def _find_date(record: Mapping[str, Any]) -> str | None:
    date = record.get("updated_at") or record.get("created_at")
    return str(date) if date else None


def _find_author(record: Mapping[str, Any]) -> str | None:
    author = record.get("completed_by")
    if isinstance(author, Mapping):
        author = author.get("email") or author.get("username") or author.get("id")
    return None if author is None else str(author)


def _list_regions(record: Mapping[str, Any]) -> Sequence[Any]:
    result = record.get("result")
    return result if isinstance(result, list) else []


def _build(
    name: str,
    regions: Sequence[Any],
    about: Mapping[str, Any],
    data: Mapping[str, Any],
    where: str,
    odd: OddRecords,
    is_reviewed: bool,
) -> CorrectedImage:
    """Return an image with the boxes of regions."""
    size = next((size for region in regions if (size := _read_size(region)) is not None), None)
    return build_image(
        name, size, _read_shapes(regions, where, odd, not is_reviewed), odd,
        is_reviewed=is_reviewed, chosen_by_doubt=was_doubtful(data), date=_find_date(about),
        author=_find_author(about), where=where,
    )  # fmt: skip


# -- regions


def _read_shapes(
    regions: Sequence[Any], where: str, odd: OddRecords, is_prediction: bool
) -> Iterator[Shape]:
    """Yield the shape of each region; what is none is counted."""
    labelled = {
        _find_id(region, "id")
        for region in regions
        if isinstance(region, Mapping) and _find_class(region) is not None
    } - {None}
    for number, region in enumerate(regions):
        name = f"{where} region {number}"
        try:
            if not isinstance(region, Mapping):
                raise BadRecord(OTHER_KIND)
            value = region.get("value")
            if region.get("type") in NOT_A_REGION or (value and "choices" in value):
                continue
            label = _find_class(region)
            if label is None and _find_id(region, "id") in labelled:
                continue  # the same region without its class: <Rectangle> beside <Labels>
            if label is None:
                raise BadRecord(NO_CLASS)
            yield _read_region(region, label, name, is_prediction)
        except BadRecord as error:
            odd.leave_out(name, str(error))


def _find_id(region: Mapping[str, Any], field: str) -> str | None:
    return str(region[field]) if region.get(field) else None


def _find_class(region: Mapping[str, Any]) -> str | None:
    """Return the first class of a region; None without one."""
    value = region.get("value")
    if isinstance(value, Mapping):
        for key, labels in value.items():
            if key.endswith(LABELS) and isinstance(labels, list) and labels:
                return str(labels[0])
    return None


def _read_size(region: Any) -> Size | None:
    """Return (height, width) of the image of a region; None where it does not say so."""
    if not isinstance(region, Mapping):
        return None
    return parse_size(region.get("original_height"), region.get("original_width"))


def _describe_size(region: Mapping[str, Any]) -> str:
    """Return which of the fields of an image's size are missing, or are no numbers of pixels."""
    odd = [name for name in SIZE_FIELDS if parse_size(region.get(name), 1) is None]
    names = " and ".join(f"`{name}`" for name in odd or SIZE_FIELDS)
    return f"without {names}, a number of pixels: percents cannot become pixels"


def _read_region(region: Mapping[str, Any], label: str, name: str, is_prediction: bool) -> Shape:
    """Return the shape of a region that has a class."""
    size, value = _read_size(region), region["value"]
    if size is None:
        raise BadRecord(_describe_size(region))
    height, width = size
    parent = _find_id(region, "parentID")
    if "rle" in value:
        mask = decode_brush(value["rle"], size)
        return Shape(label, mask_box(mask), name, True, mask, parent, is_prediction)
    if "points" in value:
        points = [(x * width / 100, y * height / 100) for x, y in _read_points(value["points"])]
        if len(points) < 3:
            raise BadRecord(NO_AREA)
        mask_of = polygon_mask(points, size)
        return Shape(label, box_around(points), name, True, mask_of, parent, is_prediction)
    if "radiusX" in value:
        x, y, rx, ry = _read_numbers(value, ("x", "y", "radiusX", "radiusY"))
        box = ellipse_box(
            x * width / 100, y * height / 100, rx * width / 100, ry * height / 100,
            parse_finite(value.get("rotation")) or 0.0,
        )  # fmt: skip
    else:
        x, y, w, h = _read_numbers(value, ("x", "y", "width", "height"))
        x0, y0 = x * width / 100, y * height / 100
        box = (x0, y0, x0 + w * width / 100, y0 + h * height / 100)
        box = rotate_box(box, parse_finite(value.get("rotation")) or 0.0, (x0, y0))
    return Shape(label, box, name, group=_find_id(region, "id"), is_prediction=is_prediction)


def _read_numbers(value: Mapping[str, Any], names: Sequence[str]) -> list[float]:
    numbers = [parse_finite(value.get(name)) for name in names]
    known = [number for number in numbers if number is not None]
    if not known:
        raise BadRecord(OTHER_KIND)
    if len(known) < len(names):
        odd = [f"`{name}`" for name, number in zip(names, numbers, strict=True) if number is None]
        raise BadRecord(f"without a number {', '.join(odd)} in `value`")
    return known


def _read_points(points: Any) -> list[tuple[float, float]]:
    """Return the points of a polygon, in percent."""
    pairs = [tuple(map(parse_finite, point)) for point in points] if _are_pairs(points) else []
    known = [(x, y) for x, y in pairs if x is not None and y is not None]
    if not known or len(known) < len(points):
        raise BadRecord("whose points are not pairs of numbers")
    return known


def _are_pairs(points: Any) -> bool:
    return isinstance(points, list) and all(
        isinstance(point, list) and len(point) == 2 for point in points
    )
