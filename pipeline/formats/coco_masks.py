"""Segmentations of COCO records as tools write them: polygons, run lengths, odd forms of both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.formats.coco_boxes import parse_bbox
from pipeline.formats.coco_values import parse_key, parse_number
from pipeline.formats.odd_records import BadRecord
from pipeline.types import Rle, Size

Polygons = list[list[float]]
Segmentation = Polygons | dict[str, Any]
"""Polygons, x, y of three points or more each, or run lengths: `size` and `counts`."""

UNREADABLE = "whose segmentation cannot be read: used without a mask"
FOUR_NUMBERS = "whose segmentation is four numbers, a box and no outline: used without a mask"
FLAT = "whose segmentation is not a list of polygons, but a flat list or points: taken as a polygon"
FEW_POINTS = "whose segmentation has polygons of fewer than three points: these are dropped"
OTHER_SIZE = "whose mask is of another size than its image: used without a mask"
NO_SIZE = "whose image has no width and height: used without a mask"


def parse_segmentation(value: Any) -> tuple[Segmentation | None, str | None]:
    """Return a segmentation in the form that pycocotools reads.

    Args:
        value: As in the file: polygons; a flat list of coordinates; a list of points, pairs or
            objects with x and y; the box in place of a polygon; run lengths, compressed or not.

    Returns:
        The segmentation, None without one, and what was odd, for a note; None where nothing was.

    Raises:
        BadRecord: It cannot be read.
    """
    if value is None or value in ([], {}, ""):
        return None, None
    if isinstance(value, Mapping):
        return _parse_run_lengths(value), None
    if not isinstance(value, list):
        raise BadRecord(UNREADABLE)
    value = [part for part in value if part not in ([], None)]
    if not value:
        return None, None
    parts = [value] if _is_flat(value) else value
    if not all(isinstance(part, list) for part in parts):
        raise BadRecord(UNREADABLE)
    polygons = [_parse_polygon(part) for part in parts]
    if all(len(polygon) == 4 for polygon in polygons):
        return None, FOUR_NUMBERS
    kept = [polygon for polygon in polygons if len(polygon) >= 6]
    if not kept:
        raise BadRecord(UNREADABLE)
    if len(kept) < len(polygons):
        return kept, FEW_POINTS
    return kept, FLAT if parts is not value or any(map(_is_points, parts)) else None


def _is_flat(value: Sequence[Any]) -> bool:
    """Return whether this is the one polygon itself: a list of coordinates or of points."""
    return not any(isinstance(part, list) for part in value) or _is_points(value)


def _is_points(part: Any) -> bool:
    """Return whether this is a list of points, each a pair or an object with x and y."""
    return isinstance(part, list) and all(
        isinstance(point, Mapping) or (isinstance(point, list) and len(point) == 2)
        for point in part
    )


def _parse_polygon(part: Sequence[Any]) -> list[float]:
    """Return x, y, x, y, ... of a flat list or of a list of points."""
    numbers: list[float] = list(part)
    if not set(map(type, part)) <= {int, float}:
        numbers = [parse_number(value) for value in _flatten(part)]  # type: ignore[misc]
    try:
        is_finite = bool(np.isfinite(np.asarray(numbers, np.float64)).all())
    except (OverflowError, TypeError, ValueError):  # a number of 400 digits, or none
        is_finite = False
    # pycocotools reads beyond the end of an odd number.
    if not is_finite or len(numbers) % 2:
        raise BadRecord(UNREADABLE)
    return numbers


def _flatten(part: Sequence[Any]) -> Iterator[Any]:
    """Yield the coordinates of numbers, pairs, and objects with x and y."""
    for value in part:
        if isinstance(value, Mapping):
            yield value.get("x")
            yield value.get("y")
        elif isinstance(value, list):
            yield from value
        else:
            yield value


def _parse_run_lengths(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return run lengths whose size and counts fit each other."""
    size, counts = value.get("size"), value.get("counts")
    sides = [parse_key(side) for side in size] if isinstance(size, list) else []
    height, width = sides if len(sides) == 2 else (None, None)
    if not isinstance(height, int) or not isinstance(width, int):
        raise BadRecord(UNREADABLE)
    try:
        runs = decode_run_lengths(counts) if isinstance(counts, str) else list(map(int, counts))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise BadRecord(UNREADABLE) from None
    if not runs or min(runs) < 0 or sum(runs) != height * width:
        raise BadRecord(UNREADABLE)
    return {"size": [height, width], "counts": counts if isinstance(counts, str) else runs}


def read_mask(
    record: Mapping[str, Any], size: Size | None
) -> tuple[Segmentation | None, Rle | None, list[str]]:
    """Return segmentation and mask of a record, None where there is none, and what was odd.

    Args:
        record: As in the file.
        size: (height, width) of the image; None: not known, so there is no mask.
    """
    outline = None
    try:
        outline, repair = parse_segmentation(record.get("segmentation"))
        mask = to_rle(outline, size)
    except BadRecord as error:
        return outline, None, [str(error)]
    return outline, mask, [] if repair is None else [repair]


def read_bbox(
    record: Mapping[str, Any], outline: Segmentation | None
) -> tuple[list[float], list[str]]:
    """Return the bbox of a record, or that of its segmentation, and what was odd about it.

    Args:
        record: As in the file.
        outline: Its segmentation, as `read_mask` returns it; None: it has none.

    Raises:
        BadRecord: There is no bbox that can be right, and no segmentation.
    """
    try:
        bbox, was_odd = parse_bbox(record.get("bbox"))
    except BadRecord as error:
        around = bound_segmentation(outline)
        if around is None:
            raise
        return around, [f"{error}: the box around the segmentation is taken"]
    return bbox, ["whose bbox holds text or is nested: read as numbers"] if was_odd else []


def read_size(value: Any) -> Size | None:
    """Return (height, width) of run lengths; None for another segmentation.

    Args:
        value: A segmentation as in the file.
    """
    if not isinstance(value, Mapping):
        return None
    try:
        height, width = _parse_run_lengths(value)["size"]
    except BadRecord:
        return None
    return height, width


def to_rle(segmentation: Segmentation | None, size: Size | None) -> Rle | None:
    """Convert a segmentation to a compressed run-length encoding.

    Args:
        segmentation: As `parse_segmentation` returns it.
        size: (height, width) of the image; None: not known, so there is no mask.

    Returns:
        The mask; None without a segmentation or a size.

    Raises:
        BadRecord: It is of another size.
    """
    if segmentation is None or size is None:
        return None
    from pycocotools import mask as coco_mask

    height, width = size
    if isinstance(segmentation, list):
        rle = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    elif segmentation["size"] != [height, width]:
        raise BadRecord(OTHER_SIZE)
    elif isinstance(segmentation["counts"], str):
        return {"size": [height, width], "counts": segmentation["counts"]}
    else:
        rle = coco_mask.frPyObjects(segmentation, height, width)
    return {"size": [height, width], "counts": rle["counts"].decode("ascii")}


def bound_segmentation(segmentation: Segmentation | None) -> list[float] | None:
    """Return x, y, width and height around a segmentation; None where it covers nothing.

    Args:
        segmentation: As `parse_segmentation` returns it.
    """
    if segmentation is None:
        return None
    if isinstance(segmentation, list):
        points = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in segmentation])
        (x0, y0), (x1, y1) = points.min(0).tolist(), points.max(0).tolist()
        bbox = [x0, y0, x1 - x0, y1 - y0]
    else:
        from pycocotools import mask as coco_mask

        height, width = segmentation["size"]
        bbox = coco_mask.toBbox(to_rle(segmentation, (height, width))).tolist()
    return bbox if bbox[2] > 0 and bbox[3] > 0 else None


def decode_run_lengths(text: str) -> list[int]:
    """Decode COCO's compressed run lengths.

    A character holds five bits of a number and whether more follow. From the fourth number on,
    the difference to the number two places before is stored. pycocotools would read beyond the
    mask where the run lengths do not fit it, so they are decoded and checked here.

    Args:
        text: The `counts` of a compressed run-length encoding.

    Raises:
        ValueError: A character is none of the encoding.
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
