"""COCO results files of any origin: a list of boxes or masks with image, class and score.

https://cocodataset.org/#format-results

A record whose meaning is plain is repaired: numbers written as text, a box that only the mask
gives, an image named by its file. One that cannot be right (an image or a category that the
annotations do not have, a number that is not finite, a box of no or negative size) is left out.
Both are counted and named. A file of another format, or of which no record can be used, is refused.
Boxes that stick out of their image are measured as they are, as pycocotools does: clipping could
raise their IoU.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import UserError
from pipeline.formats import coco, coco_masks
from pipeline.formats.coco_boxes import fits, is_fraction, refuse_fractions, xywh_to_xyxy
from pipeline.formats.coco_names import NameIndex, spell
from pipeline.formats.coco_records import CocoFile, CocoImage, check_object
from pipeline.formats.coco_values import Key, is_plain_number, parse_key, parse_number
from pipeline.formats.foreign_json import name_tool
from pipeline.formats.odd_records import BadRecord, OddRecords
from pipeline.ops.text import count_note, to_nfc
from pipeline.types import Note, Rle

if TYPE_CHECKING:
    from jaxtyping import Float32, Float64, Int64

# What other tools call the fields of a record.
CATEGORY_FIELDS = ("category_name", "category", "class_name", "label")
SCORE_FIELDS = ("confidence", "conf", "probability")


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


def read(path: Path, known: CocoFile, name: str | None = None) -> Results:
    """Read a results file.

    Args:
        path: The file.
        known: The annotations that the results are scored against.
        name: What the notes call it; None: the name of the file.

    Raises:
        UserError: The file is not a results file, or none of its records can be scored.
    """
    records = _load_records(path)
    name = name or path.name
    odd = OddRecords(name, "record")
    finder = _ImageFinder(known, records)
    good: list[tuple[int, int, float, list[float]]] = []
    masks: list[Rle | None] = []
    beyond: list[str] = []
    for n, record in enumerate(records):
        where = f"results[{n}]"
        try:
            image, row, mask, repairs = _read_record(record, finder, known)
        except BadRecord as error:
            odd.leave_out(where, str(error))
            continue
        for repair in repairs:
            odd.repair(where, repair)
        if image.size is not None and not fits(xywh_to_xyxy(row[-1]), image.size):
            beyond.append(where)
        good.append(row)
        masks.append(mask)
    if records and not good:
        raise UserError(
            f"{path}: none of its {len(records)} records can be scored against "
            f"{known.path.name}.\n" + "\n".join(odd.notes())
        )
    refuse_fractions(path, sum(is_fraction(bbox) for *_, bbox in good), len(good))
    notes = [*odd.notes(), *finder.notes(name)]
    if beyond:
        notes.append(_describe_boxes_beyond(name, beyond, len(good)))
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
    if (tool := name_tool(records)) is not None:
        raise UserError(f"{path}: {tool}, no COCO results; export as COCO (JSON) there")
    if not isinstance(records, list):
        data_set = " (a whole data set? its list of annotations alone would be one)"
        raise UserError(
            f"{path}: expected COCO results, a list of records with image_id, category_id, bbox "
            f"and score; got {_name_kind(records)}{data_set if isinstance(records, dict) else ''}"
        )
    return records


def _describe_boxes_beyond(file: str, names: Sequence[str], count: int) -> Note:
    """Return a note on boxes that stick out of their image, of `count` boxes in all."""
    usual = len(names) * 2 > count
    hint = "is bbox x0, y0, x1, y1 there? COCO's is x, y, width, height" if usual else ""
    why = "of those used sticks out of its image, measured as it is"
    if len(names) > 1:
        why = "of those used stick out of their image, measured as they are"
    return count_note(names, "record", why, where=file, remedy=hint)


def _name_kind(value: Any) -> str:
    """Return what a JSON value is called in messages."""
    return {dict: "an object", str: "text", type(None): "null"}.get(type(value), repr(value)[:80])


def _read_record(
    record: Any, finder: _ImageFinder, known: CocoFile
) -> tuple[CocoImage, tuple[int, int, float, list[float]], Rle | None, list[str]]:
    """Return the image, a row of ids, score and bbox, the mask, and what was repaired of a record.

    Raise BadRecord where it cannot be scored.
    """
    check_object(record)
    image = finder.find(record)
    category, repairs = _read_category(record, known)
    score, score_repairs = _read_score(record)
    repairs += score_repairs
    given = [record[name] for name in ("category_id", "score") if record.get(name) is not None]
    if not all(map(is_plain_number, given)):
        repairs.append("with numbers written as text: read as numbers")
    outline, mask, mask_repairs = coco_masks.read_mask(record, image.size)
    bbox, bbox_repairs = coco_masks.read_bbox(record, outline)
    repairs += mask_repairs
    if record.get("bbox") is not None:  # a mask alone is a results file of COCO's, too
        repairs += bbox_repairs
    return image, (image.id, category, score, bbox), mask, repairs


def _read_category(record: Mapping[str, Any], known: CocoFile) -> tuple[int, list[str]]:
    """Return the category of a record, by its id or its name, and what was odd about it."""
    key = parse_key(record.get("category_id"))
    if key is not None:
        if key not in known.category_keys:
            raise BadRecord(f"with a category_id that {known.path.name} does not have")
        return known.category_keys[key], []
    field = next((name for name in CATEGORY_FIELDS if isinstance(record.get(name), str)), None)
    if field is None:
        raise BadRecord("without a category_id")
    numbers = {to_nfc(name): number for number, name in known.categories.items()}
    if (name := to_nfc(record[field])) not in numbers:
        raise BadRecord(f"without a category_id, with a {field} that {known.path.name} has not")
    return numbers[name], [f"without a category_id: the category of their {field} is taken"]


def _read_score(record: Mapping[str, Any]) -> tuple[float, list[str]]:
    """Return the score of a record, which other tools call otherwise, and what was odd about it."""
    field, repairs = "score", []
    if record.get("score") is None:
        field = next((name for name in SCORE_FIELDS if record.get(name) is not None), "score")
        repairs = [f"without a score: their {field} is taken"] if field != "score" else []
    score = parse_number(record.get(field))
    if score is None:
        raise BadRecord("without a score that is a number")
    if not np.isfinite(score):
        raise BadRecord("whose score is not finite")
    return score, repairs


class _ImageFinder:
    """Finds the image that a record of a results file is of.

    `image_id` is the id of the annotations, in any spelling, or, as some tools write it, the name
    of the image's file without its ending: `000042` or 42 of `000042.jpg`. Numbers are names where
    more of the file's numbers are names than ids.
    """

    def __init__(self, known: CocoFile, records: Sequence[Any]) -> None:
        self.known = known
        self._by_name: dict[str, list[CocoImage]] = {}
        self._by_stem: dict[str, list[CocoImage]] = {}
        self._by_number: dict[int, list[CocoImage]] = {}
        for image in known.images:
            name = "/".join(next(spell(image.file_name), ()))
            stem = os.path.splitext(name)[0]
            last = stem.rsplit("/", 1)[-1]
            self._by_name.setdefault(name, []).append(image)
            self._by_stem.setdefault(stem, []).append(image)
            if last.isascii() and last.isdecimal():
                self._by_number.setdefault(int(last), []).append(image)
        numbers = {key for record in records if isinstance(record, dict)
                   if isinstance(key := parse_key(record.get("image_id")), int)}  # fmt: skip
        ids = sum(number in known.image_keys for number in numbers)
        stems = sum(len(self._by_number.get(number, ())) == 1 for number in numbers)
        self.numbers_are_names = stems > ids
        self.by_name: list[str] = []
        self.unclear: set[str] = set()

    @cached_property
    def _names(self) -> NameIndex:
        return NameIndex(list(self._by_name))

    @cached_property
    def _stems(self) -> NameIndex:
        return NameIndex(list(self._by_stem))

    def find(self, record: Mapping[str, Any]) -> CocoImage:
        """Return the image of a record. Raise BadRecord where there is none."""
        key = parse_key(record.get("image_id"))
        if isinstance(key, int) and self.numbers_are_names:
            images = self._by_number.get(key, [])
            if len(images) == 1:
                return self._note_name(key, images[0])
        elif key is not None and key in self.known.image_keys:
            return self.known.image_keys[key]
        for text in (key, record.get("file_name")):
            if isinstance(text, str) and (image := self._find_name(text)) is not None:
                return self._note_name(text, image)
        if key is None:
            raise BadRecord("without an image_id")
        if str(key) in self.unclear:
            raise BadRecord("with an image_id that is the name of several images")
        raise BadRecord(f"with an image_id that {self.known.path.name} does not have")

    def _find_name(self, text: str) -> CocoImage | None:
        """Return the image whose file has this name, with or without its ending."""
        images = [image for name in self._names.find(text).ids for image in self._by_name[name]]
        if not images:
            stems = self._stems.find(text).ids
            images = [image for stem in stems for image in self._by_stem[stem]]
        if len(images) > 1:
            self.unclear.add(text)
        return images[0] if len(images) == 1 else None

    def _note_name(self, key: Key, image: CocoImage) -> CocoImage:
        self.by_name.append(f"{key}: {image.file_name}")
        return image

    def notes(self, where: str) -> list[Note]:
        """Return a note on records that name their image by its file."""
        if not self.by_name:
            return []
        why = "whose image_id is the name of the image's file: matched by it"
        return [count_note(self.by_name, "record", why, where=where)]
