"""Annotations of a COCO file: repaired where their meaning is plain, or left out and counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.formats import coco_masks
from pipeline.formats.coco_boxes import (
    SizeCheck,
    clip,
    describe_clipped_boxes,
    describe_swapped_sizes,
    is_fraction,
    xywh_to_xyxy,
)
from pipeline.formats.coco_records import SPELLING, CocoImage, Crowd, CrowdRule, name_record
from pipeline.formats.coco_review import has_score, is_reviewed
from pipeline.formats.coco_values import Key, parse_flag, parse_key, parse_number
from pipeline.formats.odd_records import BadRecord, OddRecords
from pipeline.ops.text import count_note
from pipeline.types import Note

NO_AREA = "whose area is no number of pixels: that of the mask or box is taken (COCO's sizes)"


class AnnotationReader:
    """Adds the annotations of a file to their images, and counts those that are odd.

    Args:
        path: The file.
        images: The images of the file.
        find_image: Returns the image of a record, or raises BadRecord.
        find_category: Returns the category of a record, or raises BadRecord.
        crowds: Whether crowds are regions apart or objects.
        with_records: Whether the images keep records for pycocotools.
    """

    def __init__(
        self,
        path: Path,
        images: Sequence[CocoImage],
        find_image: Callable[[Any], CocoImage],
        find_category: Callable[[Mapping[str, Any]], int],
        crowds: CrowdRule,
        with_records: bool,
    ) -> None:
        self.path, self.images = path, images
        self._find_image, self._find_category = find_image, find_category
        self.counts_crowds, self.with_records = crowds == "objects", with_records
        self.odd = OddRecords(path.name, "annotation")
        self.total = self.box_count = self.fraction_count = 0
        self.crowd_names: list[str] = []
        self.clipped: list[str] = []
        self._sizes = SizeCheck[int]()
        self._seen: dict[Key, tuple[Any, ...]] = {}
        self._emptied: dict[int, CocoImage] = {}

    def add_all(self, records: Sequence[Any], positions: Sequence[int] | None = None) -> None:
        """Add the records to their images; count those that cannot be used.

        Args:
            records: The list of the file, or a part of it.
            positions: Where each stands in the file; None: all are there, in its order.
        """
        self.total = len(records)
        for n, record in zip(positions or range(len(records)), records, strict=True):
            where, image = name_record("annotations", n, record), None
            try:
                image = self._find_image(record)
                self._add(n, record, image, where)
            except BadRecord as error:
                self.odd.leave_out(f"{where}{_name_references(record)}", str(error))
                if image is not None:
                    self._emptied[image.id] = image

    def _add(self, n: int, record: Mapping[str, Any], image: CocoImage, where: str) -> None:
        category = self._find_category(record)
        outline, mask, repairs = coco_masks.read_mask(record, image.size)
        if outline is not None and image.size is None:
            repairs = [coco_masks.NO_SIZE]
        bbox, bbox_repairs = coco_masks.read_bbox(record, outline)
        self.fraction_count += is_fraction(bbox) and image.size != (1, 1)
        box, was_clipped = xywh_to_xyxy(bbox), False
        if image.size is not None:
            self._sizes.add(image.id, box, image.size)
            box, was_clipped = clip(box, image.size)
        repairs += bbox_repairs + self._check_ids(record, (image.id, category, bbox))
        for repair in repairs:
            self.odd.repair(where, repair)
        if was_clipped:
            self.clipped.append(where)
        image.is_reviewed |= is_reviewed(record)
        is_crowd = parse_flag(record.get("iscrowd"))
        if is_crowd:
            self.crowd_names.append(where)
        if is_crowd and not self.counts_crowds:
            image.crowds.append(Crowd(box, category, mask))
        else:
            self.box_count += 1
            image.boxes.append(box)
            image.categories.append(category)
            image.masks.append(mask)
            image.records.append(n)
            image.scored.append(has_score(record))
        if self.with_records:
            shape = {"bbox": bbox} if mask is None else {"bbox": bbox, "segmentation": outline}
            ids = {"id": n + 1, "image_id": image.id, "category_id": category}
            crowd = int(is_crowd and not self.counts_crowds)
            area = self._read_area(record, where)
            image.coco.append({**ids, **shape, "iscrowd": crowd, **area})

    def _read_area(self, record: Mapping[str, Any], where: str) -> dict[str, float]:
        """Return the area as in the file, by its name; empty where it has none that can be used."""
        given = record.get("area")
        area = parse_number(given)
        if area is not None and 0 <= area < float("inf"):
            return {"area": area}
        if given is not None:
            self.odd.repair(where, NO_AREA)
        return {}

    def _check_ids(self, record: Mapping[str, Any], content: tuple[Any, ...]) -> list[str]:
        """Return what is odd about the ids. Raise BadRecord for a record that is there twice."""
        fields = [record.get(name) for name in ("id", "image_id", "category_id")]
        keys = [parse_key(value) for value in fields]
        is_odd = any(
            not isinstance(v, type(k)) for v, k in zip(fields, keys, strict=True) if k is not None
        )
        repairs = [SPELLING] if is_odd else []
        id = keys[0]
        if id is not None and id in self._seen:
            if self._seen[id] == content:
                raise BadRecord("that are there twice, with the same id and box")
            repairs.append("whose id another annotation has, too: used all the same")
        elif id is not None:
            self._seen[id] = content
        return repairs

    # -- what is said of them

    def notes(self, option: str | None) -> list[Note]:
        """Return what was left out, repaired, clipped, or a crowd.

        Args:
            option: The option that says what a crowd is; None: none does.
        """
        notes = self.odd.notes()
        emptied = [
            image.name for image in self._emptied.values() if not image.boxes and not image.crowds
        ]
        if emptied:
            why = "whose annotations are all left out: no number has them as annotated"
            notes.append(
                count_note(emptied, "image", why, where=self.path.name, remedy="correct the boxes")
            )
        if self.clipped:
            crowds = 0 if self.counts_crowds else len(self.crowd_names)
            count = self.box_count + crowds
            notes.append(describe_clipped_boxes(self.path, self.clipped, count))
        if swapped := self._sizes.swapped:
            names = [image.name for image in self.images if image.id in swapped]
            count = sum(bool(image.boxes or image.crowds) for image in self.images)
            notes.append(describe_swapped_sizes(self.path.name, names, max(count, len(names))))
        if self.crowd_names:
            notes += self._describe_crowds(option)
        return notes

    def _describe_crowds(self, option: str | None) -> list[Note]:
        """Return a note on the crowds, and one on images that have nothing else."""
        name, names = self.path.name, self.crowd_names
        if self.counts_crowds:
            why = f"marked as crowds (iscrowd) count as objects ({option}=objects)"
            return [count_note(names, "annotation", why, where=name)]
        remedy = f"{option}=objects counts them as objects" if option else ""
        are = "is a crowd" if len(names) == 1 else "are crowds"
        if not self.box_count:
            why = (
                f"{are} (iscrowd), all that can be used, so no object is left to measure "
                "against; CVAT writes brush masks so"
            )
            return [count_note(names, "annotation", why, where=name, remedy=remedy)]
        remedy = remedy or "nothing to do: COCO's own evaluation ignores crowds"
        why = (
            f"of {self.total} {are} (iscrowd): nothing is counted there by COCO's AP and by "
            "PxAP, and all else leaves them out"
        )
        notes = [count_note(names, "annotation", why, where=name, remedy=remedy)]
        alone = [image.name for image in self.images if image.crowds and not image.boxes]
        if alone:
            why = "with crowds alone: no number has them as annotated"
            notes.append(count_note(alone, "image", why, where=name, remedy=remedy))
        return notes


def _name_references(record: Any) -> str:
    """Return what an annotation says of its image and category, for messages."""
    fields = ("image_id", "category_id") if isinstance(record, dict) else ()
    named = [f"{name} {str(record[name])[:40]}" for name in fields if name in record]
    return f": {', '.join(named)}" if named else ""
