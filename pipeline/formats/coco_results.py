"""COCO results files of any origin: a list of boxes or masks with image, class and score.

https://cocodataset.org/#format-results

A file of another format is refused, with the file, the record and the field. A record that cannot
be right (an image or a category that the annotations do not have, a number that is not finite, a
box of no or negative size) is left out, counted and named. Boxes that stick out of their image are
measured as they are, as pycocotools does: clipping could raise their IoU.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import UserError
from pipeline.formats import coco
from pipeline.formats.coco import CocoFile, CocoImage
from pipeline.types import Rle

if TYPE_CHECKING:
    from jaxtyping import Float32, Float64, Int64

SHOWN = 5  # records that a note names


@dataclass(frozen=True)
class Results:
    """The records of a results file that can be scored, in the order of the file.

    Attributes:
        path: Where the file is.
        image_ids: Image of each record.
        category_ids: Category of each record.
        boxes: Half-open xyxy in pixels.
        scores: As in the file.
        bbox: The boxes in COCO's xywh, as in the file.
        masks: Mask of each record; None where there is none.
        notes: What was left out or unusual, a line each.
        record_count: Number of records in the file, with those that were left out.
    """

    path: Path
    image_ids: Int64[np.ndarray, n]
    category_ids: Int64[np.ndarray, n]
    boxes: Float32[np.ndarray, "n 4"]
    scores: Float64[np.ndarray, n]
    bbox: Sequence[Sequence[float]]
    masks: Sequence[Rle | None]
    notes: Sequence[str]
    record_count: int

    def group_by_image(self) -> dict[int, Int64[np.ndarray, k]]:
        """Return the positions of the records of each image id, best score first.

        Records of equal score keep the order of the file.
        """
        order = np.lexsort((-self.scores, self.image_ids))
        ids, start = np.unique(self.image_ids[order], return_index=True)
        if not len(ids):
            return {}
        return dict(zip(ids.tolist(), np.split(order, start[1:]), strict=True))

    def records(self, masks: bool = False) -> Iterator[dict[str, Any]]:
        """Yield the records as pycocotools takes them.

        Args:
            masks: Whether to give masks in place of boxes; pycocotools then counts their areas.
        """
        for n, (image, category, score) in enumerate(
            zip(
                self.image_ids.tolist(),
                self.category_ids.tolist(),
                self.scores.tolist(),
                strict=True,
            )
        ):
            shape = {"segmentation": self.masks[n]} if masks else {"bbox": list(self.bbox[n])}
            yield {"image_id": image, "category_id": category, "score": score, **shape}


def read(path: Path, known: CocoFile) -> Results:
    """Read a results file.

    Args:
        path: The file.
        known: The annotations that the results are scored against.

    Raises:
        UserError: The file is not a results file, or none of its records can be scored.
    """
    records = _load_records(path)
    images = {image.id: image for image in known.images}
    left_out: dict[str, list[int]] = {}
    good: list[tuple[int, int, float, list[float]]] = []
    masks: list[Rle | None] = []
    beyond: list[int] = []
    for n, record in enumerate(records):
        where = f"results[{n}]"
        image = images.get(_get_whole_number(path, where, record, "image_id"))
        category = _get_whole_number(path, where, record, "category_id")
        score = _get_score(path, where, record)
        mask = _get_mask(path, where, record, image)
        bbox = _get_bbox(path, where, record, mask)
        reason = _find_fault(image, category, score, bbox, known)
        if reason is not None:
            left_out.setdefault(reason, []).append(n)
            continue
        assert image is not None
        if image.size is not None and _sticks_out(bbox, image.size):
            beyond.append(n)
        good.append((image.id, category, score, bbox))
        masks.append(mask)
    notes = [
        f"{path.name}: {_describe_records(positions, 'record')} {reason}: left out"
        for reason, positions in left_out.items()
    ]
    if records and not good:
        raise UserError(
            f"{path}: none of its {len(records)} records can be scored against "
            f"{known.path.name}.\n" + "\n".join(notes)
        )
    if beyond:
        notes.append(_describe_boxes_beyond(path, beyond, len(good)))
    xywh = np.array([bbox for *_, bbox in good], np.float64).reshape(-1, 4)
    xyxy = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], 1)
    return Results(
        path,
        np.array([image for image, *_ in good], np.int64),
        np.array([category for _, category, *_ in good], np.int64),
        xyxy.astype(np.float32),
        np.array([score for _, _, score, _ in good], np.float64),
        [bbox for *_, bbox in good],
        masks,
        notes,
        len(records),
    )


def _load_records(path: Path) -> list[Any]:
    """Read the list of a results file. Raise UserError where the file is no list."""
    records = coco.read_json(path)
    if not isinstance(records, list):
        data_set = " (a whole data set? its list of annotations alone would be one)"
        raise UserError(
            f"{path}: expected COCO results, a list of records with image_id, category_id, bbox "
            f"and score; got {_name_kind(records)}{data_set if isinstance(records, dict) else ''}"
        )
    return records


def _describe_boxes_beyond(path: Path, positions: Sequence[int], count: int) -> str:
    """Return a note on boxes that stick out of their image, of `count` boxes in all."""
    usual = len(positions) * 2 > count
    hint = "; is bbox x0, y0, x1, y1 there? COCO's is x, y, width, height" if usual else ""
    return (
        f"{path.name}: {_describe_records(positions, 'box', 'boxes')} stick out of their image, "
        f"measured as they are{hint}"
    )


def _describe_records(positions: Sequence[int], singular: str, plural: str = "") -> str:
    """Return how many records there are, and the first of them.

    Args:
        positions: Positions in the file.
        singular: What a record is called.
        plural: What several are called; empty: the singular with an s.

    Examples:
        >>> _describe_records([1, 4, 9], "record")
        '3 records (results[1], results[4], results[9])'
    """
    shown = ", ".join(f"results[{n}]" for n in positions[:SHOWN])
    more = ", ..." if len(positions) > SHOWN else ""
    noun = singular if len(positions) == 1 else plural or f"{singular}s"
    return f"{len(positions)} {noun} ({shown}{more})"


def _name_kind(value: Any) -> str:
    """Return what a JSON value is called in messages."""
    return {dict: "an object", str: "text", type(None): "null"}.get(type(value), repr(value)[:80])


def _get_field(path: Path, where: str, record: Any, name: str) -> Any:
    """Return a field of a record. Raise UserError where it is missing."""
    if not isinstance(record, dict):
        raise UserError(f"{path}, {where}: expected an object, got {record!r}")
    if name not in record:
        raise UserError(f"{path}, {where}: the field {name!r} is missing; add it")
    return record[name]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _get_whole_number(path: Path, where: str, record: Any, name: str) -> int:
    """Return a whole number, which JSON may spell as 7 or 7.0. Raise UserError for another."""
    value = _get_field(path, where, record, name)
    if not _is_number(value) or value != value or value in (np.inf, -np.inf) or value != int(value):
        raise UserError(f"{path}, {where}: {name} is {value!r}, expected a whole number")
    return int(value)


def _get_score(path: Path, where: str, record: Any) -> float:
    value = _get_field(path, where, record, "score")
    if not _is_number(value):
        raise UserError(f"{path}, {where}: score is {value!r}, expected a number")
    return _to_float(value)


def _to_float(value: float) -> float:
    """Convert a JSON number, one too large to infinity."""
    try:
        return float(value)
    except OverflowError:  # a whole number of 400 digits
        return np.inf if value > 0 else -np.inf


def _get_bbox(path: Path, where: str, record: Any, mask: Rle | None) -> list[float]:
    """Return x, y, width and height; those of the mask where the record has no bbox."""
    if "bbox" not in record and mask is not None:
        from pycocotools import mask as coco_mask

        return [float(value) for value in coco_mask.toBbox(mask)]
    value = _get_field(path, where, record, "bbox")
    if not isinstance(value, list) or len(value) != 4 or not all(map(_is_number, value)):
        raise UserError(
            f"{path}, {where}: bbox is {value!r}, expected four numbers x, y, width, height"
        )
    return [_to_float(number) for number in value]


def _get_mask(path: Path, where: str, record: Any, image: CocoImage | None) -> Rle | None:
    if image is None or not record.get("segmentation"):
        return None
    if image.size is None:
        return None
    return coco.to_rle(record["segmentation"], image.size, f"{path}, {where}")


def _find_fault(
    image: CocoImage | None, category: int, score: float, bbox: Sequence[float], known: CocoFile
) -> str | None:
    """Return why a record cannot be scored; None where it can."""
    if image is None:
        return f"with an image_id that {known.path.name} does not have"
    if category not in known.categories:
        return f"with a category_id that {known.path.name} does not have"
    if not np.isfinite(score):
        return "whose score is not finite"
    if not np.isfinite(bbox).all():
        return "whose bbox is not finite"
    if not all(abs(value) <= 1 << 22 for value in bbox):
        return "whose bbox is far beyond any image"
    if bbox[2] < 0 or bbox[3] < 0:
        return "whose bbox has a negative width or height (reversed?)"
    corners = np.array([bbox[0], bbox[1], bbox[0] + bbox[2], bbox[1] + bbox[3]], np.float32)
    if not (corners[2:] > corners[:2]).all():
        return "whose bbox is empty"
    return None


def _sticks_out(bbox: Sequence[float], size: tuple[int, int]) -> bool:
    """Return whether a box sticks out of its image by a pixel or more: less is rounding."""
    x, y, width, height = bbox
    return x <= -1 or y <= -1 or x + width >= size[1] + 1 or y + height >= size[0] + 1
