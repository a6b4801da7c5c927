"""A COCO results file with a COCO data set as a source, whoever made it.

A unit is one class in one annotated image, and its box the best-scored of that class; a unit
without a box counts as not found. COCO's numbers are pycocotools' own, on all images listed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.engine.progress import show_progress
from pipeline.errors import UserError
from pipeline.formats import coco_results
from pipeline.formats.coco_records import CocoFile
from pipeline.ops.iou import best_iou
from pipeline.ops.text import count_note
from pipeline.stages.evaluate.source import Blocks, Item, Offer
from pipeline.types import CocoRecords, EvaluationSettings, Evidence, Note, Ranking

if TYPE_CHECKING:
    from jaxtyping import Float32, Float64


@dataclass(frozen=True)
class Unit:
    """One class in one annotated image."""

    image: int  # its place in the file
    label: int
    true: Float32[np.ndarray, "M 4"]


class Annotations:
    """A COCO annotation file, as units."""

    def __init__(self, file: CocoFile) -> None:
        self.file = file
        self.numbers = list(file.categories)  # category ids, in the file's order
        self.classes = _distinct(file.categories)
        self.label_of = {number: n for n, number in enumerate(self.numbers)}
        self.units: dict[int, list[Unit]] = {}
        for place, image in enumerate(file.images):
            if image.boxes:
                boxes = np.array(image.boxes, np.float32).reshape(-1, 4)
                labels = np.array([self.label_of[number] for number in image.categories], int)
                self.units[place] = [
                    Unit(place, c, boxes[labels == c]) for c in np.unique(labels).tolist()
                ]
        self.notes = [*file.notes, *self._list_notes()]
        if not self.units:
            reasons = "".join(f"\n  {note}" for note in file.notes)
            raise UserError(
                f"{file.path}: it annotates no box, so nothing can be scored against it{reasons}"
            )

    def _list_notes(self) -> list[Note]:
        """Return notes on images that are not scored, or not by all numbers."""
        images, where = self.file.images, self.file.path.name
        bare = [image.name for place, image in enumerate(images) if place not in self.units]
        unsized = [images[place].name for place in self.units if images[place].size is None]
        notes = []
        if bare:
            why = (
                "have no annotation: COCO's AP and AR count boxes there as wrong, as pycocotools "
                f"does; all else leaves them out, and is over {len(self.units)} of {len(images)} "
                "images"
            )
            notes.append(count_note(bare, "image", why, where=where))
        if unsized:
            why = "without width and height: baselines and groups by size leave them out"
            notes.append(count_note(unsized, "image", why, where=where, remedy="add them"))
        return notes

    @property
    def one_class_each(self) -> bool:
        """Return whether no image has boxes of two classes."""
        return all(len(units) == 1 for units in self.units.values())


def _distinct(categories: Mapping[int, str]) -> list[str]:
    """Return the names of classes; with the number where a name is there twice."""
    given = list(categories.values())
    return [
        name if given.count(name) == 1 else f"{name} ({number})"
        for number, name in categories.items()
    ]


Found = dict[int, tuple["Float32[np.ndarray, 'n 4']", "Float64[np.ndarray, n]"]]
"""Boxes of an image by class, best score first; the class with the best score first."""
NOTHING = (np.zeros((0, 4), np.float32), np.zeros(0))


class CocoResults:
    """The source: a results file against annotations."""

    first_compared: Sequence[str] = ()

    def __init__(
        self, path: Path, name: str, known: Annotations, settings: EvaluationSettings
    ) -> None:
        """Read the file. Raises UserError where none of its records can be scored."""
        self.path, self.name, self.known, self.settings = path, name, known, settings
        self.unit = "images" if known.one_class_each else "units (a class in an image, each)"
        self.given = coco_results.read(path, known.file, name)
        self._by_image = self.given.group_by_image()
        self._notes = list(self.given.notes)
        self.places = self._ranking_places()
        without = [known.file.images[place].name for place in known.units
                   if not self._found(place)]  # fmt: skip
        if without:
            why = "have no box: counted as not found"
            self._notes.append(count_note(without, "annotated image", why, where=name))

    @property
    def total(self) -> int | None:
        """Return how many images the annotations have, where each has a class."""
        return len(self.known.file.images) if self.known.one_class_each else None

    @property
    def blocks(self) -> Blocks:
        """Return what the evidence has; COCO's numbers come last, boxes before masks.

        VOC's AP is given where images have objects of several classes.
        """
        ranking = [Offer("ranking")] if self.places else []
        voc = [] if self.known.one_class_each else [[Offer("voc_boxes", ())]]
        return [
            [*ranking, Offer("box"), Offer("boxes"), Offer("true")],
            [Offer("coco_boxes", ())],
            [Offer("coco_masks", ())],
            *voc,
        ]

    def items(self) -> Iterator[Item]:
        """Yield the units of each image in the file's order, with its boxes of other classes."""
        with show_progress("evaluate", len(self.known.units)) as advance:
            for place, image in enumerate(self.known.file.images):
                if place in self.known.units:
                    yield from self._image_items(place)
                    advance(1)
                else:
                    yield Item(Evidence(id=str(place), image=str(place),
                                        coco=self._coco_records(place, image.id)))  # fmt: skip

    def _image_items(self, place: int) -> Iterator[Item]:
        """Yield one annotated image: its classes, then classes that were found beside them."""
        found = self._found(place)
        units = {unit.label: unit for unit in self.known.units[place]}
        records: CocoRecords | None = self._coco_records(place, self.known.file.images[place].id)
        for label in dict.fromkeys([*units, *found]):
            fields: dict[str, Any] = {"coco": records, "label": label}
            records = None  # once for an image
            if label in units:
                yield self._unit_item(units[label], found, fields)
            else:
                boxes, scores = found[label]
                yield Item(Evidence(id=f"{place} {label}", image=str(place), boxes=boxes,
                                    scores=scores, is_extra=True, **fields))  # fmt: skip

    def _unit_item(self, unit: Unit, found: Found, fields: dict[str, Any]) -> Item:
        boxes, scores = found.get(unit.label, NOTHING)
        ranking = list(found)
        iou = best_iou(boxes[0] if len(boxes) else None, unit.true)
        evidence = Evidence(
            id=f"{unit.image} {unit.label}",
            image=str(unit.image),
            size=self.known.file.images[unit.image].size,
            true=unit.true,
            iou=iou,
            boxes=boxes,
            scores=scores,
            ranking=Ranking(ranking, self.places) if self.places else None,
            **fields,
        )
        record = {
            "position": unit.image,
            "id": self.known.file.images[unit.image].name,
            "class": unit.label,
            "predicted": ranking[0] if self.places and ranking else unit.label,
            "score": float(scores[0]) if len(scores) else None,
            "iou": round(iou, 5),
            "true": unit.true.tolist(),
            "found": np.round(boxes, 2).tolist(),
        }
        return Item(evidence, [record])

    def _found(self, place: int) -> Found:
        """Return the boxes of an image."""
        rows = self._by_image.get(self.known.file.images[place].id, np.zeros(0, int))
        label_of = self.known.label_of
        labels = np.array([label_of[int(n)] for n in self.given.category_ids[rows]], int)
        return {
            c: (self.given.boxes[rows[labels == c]], self.given.scores[rows[labels == c]])
            for c in dict.fromkeys(labels.tolist())
        }

    def _coco_records(self, place: int, number: int) -> CocoRecords:
        """Return an image with its annotations as they are used, and its results."""
        given = self.given
        results = []
        for n in self._by_image.get(number, np.zeros(0, int)).tolist():
            result = {
                "image_id": number,
                "category_id": int(given.category_ids[n]),
                "score": float(given.scores[n]),
                "bbox": list(given.bbox[n]),
            }
            mask = given.masks[n]
            results.append(result if mask is None else {**result, "segmentation": mask})
        known = self.known.file.images[place]
        image: dict[str, Any] = {"id": number, "file_name": known.file_name}
        if known.size is not None:
            image |= {"height": known.size[0], "width": known.size[1]}
        return CocoRecords(image, known.coco, results)

    def _ranking_places(self) -> int:
        """Return up to which k Top-k Loc is known; 0 where it is not.

        It needs images of one class, and results that predict the class.
        """
        if not self.known.one_class_each:
            return 0
        ranks = [(list(self._found(place)), units[0].label)
                 for place, units in self.known.units.items()]  # fmt: skip
        if not any(set(ranking) - {label} for ranking, label in ranks):
            self._notes.append(
                f"{self.name}: every box is of the class that its image has: it was given, "
                "not predicted, so there is no Top-1 Loc"
            )
            return 0
        return 5 if any(len(ranking) >= 2 for ranking, _ in ranks) else 1

    def notes(self, of_metrics: Sequence[str]) -> list[str]:
        """Return which records and units were left out, and what there is no number of."""
        return [
            *self._notes,
            *(f"{self.name}: {note}" for note in of_metrics),
            "COCO's AP and AR have no interval: they are no mean over images",
        ]
