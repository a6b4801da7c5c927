"""COCO results files, whoever wrote them: a list of boxes or masks with image, class and score.

https://cocodataset.org/#format-results

What is not such a file is refused, with the file, the record and the field. A record that is one
but cannot be right (an image or a category that the annotations do not know, a number that is not
finite, a box without or of negative size) is left out, counted and named. Boxes that stick out of
their image are measured as they are, as pycocotools does: clipping would be a favour.
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
    """Those that can be scored, in the order of the file."""

    path: Path
    image_ids: Int64[np.ndarray, n]
    category_ids: Int64[np.ndarray, n]
    boxes: Float32[np.ndarray, "n 4"]  # half-open xyxy
    scores: Float64[np.ndarray, n]
    bbox: Sequence[Sequence[float]]  # the same in COCO's xywh, as the file has them
    masks: Sequence[Rle | None]
    notes: Sequence[str]
    asked: int  # records in the file, left out or not

    def of_images(self) -> dict[int, Int64[np.ndarray, k]]:
        """Each image's records, best score first, of equals in the order of the file."""
        order = np.lexsort((-self.scores, self.image_ids))
        ids, start = np.unique(self.image_ids[order], return_index=True)
        if not len(ids):
            return {}
        return dict(zip(ids.tolist(), np.split(order, start[1:]), strict=True))

    @property
    def all_masked(self) -> bool:
        return bool(self.masks) and all(mask is not None for mask in self.masks)

    def records(self, masks: bool = False) -> Iterator[dict[str, Any]]:
        """As pycocotools takes them: boxes, or masks alone, whose areas it then counts."""
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
    """Raises UserError where the file is no results file, or none of its records can be scored."""
    whole = coco.read_json(path)
    if not isinstance(whole, list):
        data_set = " (a whole data set? its list of annotations alone would be one)"
        raise UserError(
            f"{path}: expected COCO results, a list of records with image_id, category_id, bbox "
            f"and score; got {_kind(whole)}{data_set if isinstance(whole, dict) else ''}"
        )
    images = {image.id: image for image in known.images}
    left_out: dict[str, list[int]] = {}
    good: list[tuple[int, int, float, list[float]]] = []
    masks: list[Rle | None] = []
    beyond: list[int] = []
    for n, record in enumerate(whole):
        where = f"results[{n}]"
        image = images.get(_number(path, where, record, "image_id"))
        category = _number(path, where, record, "category_id")
        score = _score(path, where, record)
        mask = _mask(path, where, record, image)
        bbox = _bbox(path, where, record, mask)
        reason = _reason(image, category, score, bbox, known)
        if reason is not None:
            left_out.setdefault(reason, []).append(n)
            continue
        assert image is not None
        if image.size is not None and _sticks_out(bbox, image.size):
            beyond.append(n)
        good.append((image.id, category, score, bbox))
        masks.append(mask)
    notes = [
        f"{path.name}: {named(records, 'record')} {reason}: left out"
        for reason, records in left_out.items()
    ]
    if whole and not good:
        raise UserError(
            f"{path}: none of its {len(whole)} records can be scored against {known.path.name}.\n"
            + "\n".join(notes)
        )
    if beyond:
        usual = len(beyond) * 2 > len(good)
        hint = "; is bbox x0, y0, x1, y1 there? COCO's is x, y, width, height" if usual else ""
        notes.append(
            f"{path.name}: {named(beyond, 'box', 'boxes')} stick out of their image, measured as "
            f"they are{hint}"
        )
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
        len(whole),
    )


def named(records: Sequence[int], one: str, several: str = "") -> str:
    """`3 records (results[1], results[4], results[9])`: how many, and which, up to a few."""
    shown = ", ".join(f"results[{n}]" for n in records[:SHOWN])
    more = ", ..." if len(records) > SHOWN else ""
    what = one if len(records) == 1 else several or f"{one}s"
    return f"{len(records)} {what} ({shown}{more})"


def _kind(value: Any) -> str:
    return {dict: "an object", str: "text", type(None): "null"}.get(type(value), repr(value)[:80])


def _field(path: Path, where: str, record: Any, name: str) -> Any:
    if not isinstance(record, dict):
        raise UserError(f"{path}, {where}: expected an object, got {record!r}")
    if name not in record:
        raise UserError(f"{path}, {where}: the field {name!r} is missing; add it")
    return record[name]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(path: Path, where: str, record: Any, name: str) -> int:
    value = _field(path, where, record, name)
    if not _is_number(value) or value != value or value in (np.inf, -np.inf) or value != int(value):
        raise UserError(f"{path}, {where}: {name} is {value!r}, expected a whole number")
    return int(value)


def _score(path: Path, where: str, record: Any) -> float:
    value = _field(path, where, record, "score")
    if not _is_number(value):
        raise UserError(f"{path}, {where}: score is {value!r}, expected a number")
    return _float(value)


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # a whole number of 400 digits
        return np.inf if value > 0 else -np.inf


def _bbox(path: Path, where: str, record: Any, mask: Rle | None) -> list[float]:
    """xywh; that of the mask where there is no other."""
    if "bbox" not in record and mask is not None:
        from pycocotools import mask as coco_mask

        return [float(v) for v in coco_mask.toBbox(mask)]
    value = _field(path, where, record, "bbox")
    if not isinstance(value, list) or len(value) != 4 or not all(map(_is_number, value)):
        raise UserError(
            f"{path}, {where}: bbox is {value!r}, expected four numbers x, y, width, height"
        )
    return [_float(v) for v in value]


def _mask(path: Path, where: str, record: Any, image: CocoImage | None) -> Rle | None:
    if image is None or not record.get("segmentation"):
        return None
    if image.size is None:
        return None
    return coco.as_rle(record["segmentation"], image.size, f"{path}, {where}")


def _reason(
    image: CocoImage | None, category: int, score: float, bbox: Sequence[float], known: CocoFile
) -> str | None:
    """Why a record cannot be scored."""
    if image is None:
        return f"with an image_id that {known.path.name} does not have"
    if category not in known.categories:
        return f"with a category_id that {known.path.name} does not have"
    if not np.isfinite(score):
        return "whose score is not finite"
    if not np.isfinite(bbox).all():
        return "whose bbox is not finite"
    if not all(abs(v) <= 1 << 22 for v in bbox):
        return "whose bbox is far beyond any image"
    if bbox[2] < 0 or bbox[3] < 0:
        return "whose bbox has a negative width or height (reversed?)"
    corners = np.array([bbox[0], bbox[1], bbox[0] + bbox[2], bbox[1] + bbox[3]], np.float32)
    if not (corners[2:] > corners[:2]).all():
        return "whose bbox is empty"
    return None


def _sticks_out(bbox: Sequence[float], size: tuple[int, int]) -> bool:
    """By a pixel or more: less is rounding."""
    x, y, width, height = bbox
    return x <= -1 or y <= -1 or x + width >= size[1] + 1 or y + height >= size[0] + 1
