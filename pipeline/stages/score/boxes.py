"""Boxes of a COCO results file against a COCO data set: units, their boxes, their numbers.

A unit is one class in one annotated image, and its box the best-scored of that class; a unit
without a box counts as not found. COCO's numbers are pycocotools' own, on all images listed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.engine.progress import show_progress
from pipeline.errors import UserError
from pipeline.formats import coco, coco_results
from pipeline.formats.files import atomic_write
from pipeline.metric.baselines import Baselines
from pipeline.metric.box_counts import BoxCounts, f1_of, match
from pipeline.metric.coco import Kind, coco_scores
from pipeline.metric.groups import number_group, size_group
from pipeline.metric.gt_known import Localization
from pipeline.ops.bootstrap import first
from pipeline.ops.iou import best_iou
from pipeline.ops.text import list_some
from pipeline.results.comparison import Pairs, Place
from pipeline.stages.score.scored import Asked, Grouped, Scored, subsets
from pipeline.types import Size

if TYPE_CHECKING:
    from jaxtyping import Float32, Float64


@dataclass(frozen=True)
class Unit:
    """One class in one annotated image."""

    image: int  # its place in the file
    label: int
    true: Float32[np.ndarray, "M 4"]


class Known:
    """A COCO annotation file, as units."""

    def __init__(self, file: coco.CocoFile) -> None:
        self.file = file
        self.numbers = list(file.categories)  # category ids, in the file's order
        self.classes = _distinct(file.categories)
        label = {number: n for n, number in enumerate(self.numbers)}
        self.sizes: list[Size] = []
        self.units: dict[int, list[Unit]] = {}
        bare = []
        for place, image in enumerate(file.images):
            if image.size is None:
                raise UserError(
                    f"{file.path}, images[{image.record}]: the fields 'width' and 'height' are "
                    "missing; sizes of objects and baselines stand on them, add them"
                )
            self.sizes.append(image.size)
            if not image.boxes:
                bare.append(image.file_name)
                continue
            boxes = np.array(image.boxes, np.float32).reshape(-1, 4)
            own = np.array([label[number] for number in image.categories], int)
            self.units[place] = [Unit(place, c, boxes[own == c]) for c in np.unique(own).tolist()]
        self.notes = list(file.notes)
        if bare:
            self.notes.append(
                f"{file.path.name}: {list_some(bare, 'image')} have no annotation: COCO's AP and "
                "AR "
                "count boxes there as wrong, as pycocotools does; all else leaves them out"
            )
        if not self.units:
            raise UserError(
                f"{file.path}: it annotates no box, so nothing can be scored against it"
            )

    @property
    def one_class_each(self) -> bool:
        return all(len(units) == 1 for units in self.units.values())

    @cached_property
    def content(self) -> dict[str, Any]:
        """The file as it is, for pycocotools."""
        return dict(coco.read_json(self.file.path))


def _distinct(categories: Mapping[int, str]) -> list[str]:
    """Names of classes; with the number where a name is there twice."""
    given = list(categories.values())
    return [
        name if given.count(name) == 1 else f"{name} ({number})"
        for number, name in categories.items()
    ]


class ScoredBoxes(Scored):
    def __init__(self, known: Known, asked: Asked) -> None:
        self.known, self.asked = known, asked
        self.classes = known.classes
        self.notes = []
        self.fixed = Localization(asked.ious, None, asked.seed)
        self.counts = BoxCounts(asked.ious, None, asked.seed)
        self.input_independent_baselines = Baselines(asked.ious, asked.seed)
        self.labels: list[int] = []  # of the units
        self.sizes: list[str] = []
        self.numbers: list[str] = []
        self.count_labels: list[int] = []  # of the units and of what was found beside them
        self.count_units: list[int] = []  # which unit each of these is; -1: none
        self.ids: list[tuple[int, int]] = []
        self.per_image: list[list[tuple[int, int, int]]] = []
        self.images: list[int] = []
        self.right: list[list[bool]] = []  # Top-1, of each unit at each IoU
        self.coco: list[Grouped] = []
        self.with_top: tuple[int, ...] = ()  # the k of the Top-k Loc that are told
        self.unit = "images" if known.one_class_each else "units (a class in an image, each)"

    def add(self, units: Sequence[Unit], found: Found, size: Size) -> Iterator[dict[str, Any]]:
        """One annotated image."""
        ranking = list(found)
        totals = np.zeros((len(self.asked.ious), 3), int)
        own = {unit.label: unit for unit in units}
        for label in dict.fromkeys([*own, *ranking]):
            boxes, scores = found.get(label, NOTHING)
            unit = own.get(label)
            true = np.zeros((0, 4), np.float32) if unit is None else unit.true
            self.counts.add(boxes, scores, true)
            self.count_labels.append(label)
            self.count_units.append(-1 if unit is None else len(self.labels))
            for n, iou in enumerate(self.asked.ious):
                totals[n] += (match(boxes, scores, true, iou), len(boxes), len(true))
            if unit is None:
                continue
            fit = best_iou(boxes[0] if len(boxes) else None, true)
            self.labels.append(label)
            self.sizes.append(size_group(true, size))
            self.numbers.append(number_group(true))
            self.ids.append((unit.image, label))
            self.fixed.add(label, fit, ranking if self.with_top else None)
            self.right.append([fit >= iou and ranking[:1] == [label] for iou in self.asked.ious])
            self.input_independent_baselines.add(true, size)
            yield {
                "position": unit.image,
                "id": self.known.file.images[unit.image].file_name,
                "class": label,
                "predicted": ranking[0] if self.with_top and ranking else label,
                "score": float(scores[0]) if len(scores) else None,
                "iou": round(fit, 5),
                "true": true.tolist(),
                "found": np.round(boxes, 2).tolist(),
            }
        self.images.append(units[0].image)
        self.per_image.append([tuple(row) for row in totals.tolist()])

    def scores(self, method: str) -> list[Grouped]:
        found: list[Grouped] = []
        count_labels, count_units = np.array(self.count_labels), np.array(self.count_units)
        for part in subsets(self.labels, self.sizes, self.numbers, self.classes):
            own = [
                score
                for score in self.fixed.compute(part.select, part.label)
                if score.name not in ("top1_loc", "top5_loc") or int(score.name[3]) in self.with_top
            ]
            counted = None
            if part.group == "class":
                counted = count_labels == self.classes.index(str(part.label))
            elif part.select is not None:
                counted = (count_units >= 0) & part.select[count_units]
            counts = self.counts.compute(counted, part.label)
            if part.group in ("size", "number"):  # a box that fits nothing is of no size
                counts = [score for score in counts if score.name == "box_recall"]
            own += [*counts, *self.input_independent_baselines.compute(part.select, part.label)]
            found += [(score, part.group) for score in own]
        every = [*found, *self.coco]
        return [(replace(score, method=method), group) for score, group in every]

    def pairs(self) -> dict[Place, Pairs]:
        ious = sorted(self.asked.ious, key=lambda iou: (abs(iou - 0.5), iou))
        found: dict[Place, Pairs] = {}
        for iou in ious:
            found["gt_known_loc", iou, ""] = Pairs(self.fixed.iou >= iou, first, self.ids)
        right = np.array(self.right, bool).reshape(len(self.ids), -1)
        for iou in ious if 1 in self.with_top else ():
            column = right[:, list(self.asked.ious).index(iou)]
            found["top1_loc", iou, ""] = Pairs(column, first, self.ids)
        found["mean_iou", None, ""] = Pairs(self.fixed.iou, first, self.ids)
        counts = np.array(self.per_image, float)
        for iou in ious:
            rows = counts[:, list(self.asked.ious).index(iou)]
            found["box_f1", iou, ""] = Pairs(rows, f1_of, self.images)
        return found


Found = dict[int, tuple["Float32[np.ndarray, 'n 4']", "Float64[np.ndarray, n]"]]
"""Boxes of an image by class, best score first; the class with the best score first."""
NOTHING = (np.zeros((0, 4), np.float32), np.zeros(0))


def score_boxes(path: Path, known: Known, asked: Asked, images: Path) -> ScoredBoxes:
    given = coco_results.read(path, known.file)
    by_image = given.of_images()
    scored = ScoredBoxes(known, asked)
    scored.notes += given.notes
    label = {number: n for n, number in enumerate(known.numbers)}

    def of_image(place: int) -> Found:
        rows = by_image.get(known.file.images[place].id, np.zeros(0, int))
        classes = np.array([label[int(n)] for n in given.category_ids[rows]], int)
        return {
            c: (given.boxes[rows[classes == c]], given.scores[rows[classes == c]])
            for c in dict.fromkeys(classes.tolist())
        }

    scored.with_top = _told_top(known, of_image, scored.notes, path)
    none = [known.file.images[place].file_name for place in known.units if not of_image(place)]
    if none:
        scored.notes.append(
            f"{path.name}: {list_some(none, 'annotated image')} have no box, and count as not found"
        )

    def records() -> Iterator[dict[str, Any]]:
        with show_progress("score", len(known.units)) as advance:
            for place, units in known.units.items():
                yield from scored.add(units, of_image(place), known.sizes[place])
                advance(1)

    with atomic_write(images) as temporary:
        coco.dump(temporary, records())
    scored.coco = list(_coco(given, known, scored.notes))
    return scored


def _told_top(
    known: Known, of_image: Callable[[int], Found], notes: list[str], path: Path
) -> tuple[int, ...]:
    """Top-k Loc needs images of one class, and results that predict it."""
    if not known.one_class_each:
        return ()
    ranks = [(list(of_image(place)), units[0].label) for place, units in known.units.items()]
    if not any(set(ranking) - {label} for ranking, label in ranks):
        notes.append(
            f"{path.name}: every box is of the class that its image has: it was given, not "
            "predicted, so there is no Top-1 Loc"
        )
        return ()
    return (1, 5) if any(len(ranking) >= 2 for ranking, _ in ranks) else (1,)


def _coco(given: coco_results.Results, known: Known, notes: list[str]) -> Iterator[Grouped]:
    """pycocotools' own numbers: all, and each class on the images that it is in."""
    kinds: list[Kind] = ["bbox"]
    if any(mask is not None for mask in given.masks):
        bare = [one for one in known.content["annotations"] if not one.get("segmentation")]
        if given.all_masked and not bare:
            kinds.append("segm")
        else:
            missing = "records" if not given.all_masked else "annotations"
            notes.append(f"{given.path.name}: not all {missing} have masks: no AP of masks")
    notes.append("COCO's AP and AR have no interval: they are no mean over images")
    held = {one["category_id"] for one in known.content["annotations"]}
    each = {n: name for n, name in zip(known.numbers, known.classes, strict=True) if n in held}
    for kind in kinds:
        records = list(given.records(masks=kind == "segm"))
        for score in coco_scores(known.content, records, kind, each=each):
            yield score, None if score.label is None else "class"
