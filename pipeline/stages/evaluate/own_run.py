"""Our own run as a source: its maps and boxes from their shards, its classification, annotations.

Scored is the split `val` alone, whatever was explained. Annotated images that could not be read
count as not found, and as not recognised; `missing=skip` leaves them out. Images without
annotation and those with no box of their own class are left out and counted. Maps are measured as
`protocol=` says; the boxes of the segmenter are measured as they are.

Where images may have several classes, evidence is of a class in an image, against the objects of
this class alone: each class that the image is labelled with is looked for. Top-k accuracy, Top-k
Loc and the ILSVRC error have no meaning there; the probabilities of all classes are measured in
their place. COCO's numbers, and those of VOC's devkit, are of the images with all their boxes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.engine.progress import show_progress
from pipeline.engine.spread_items import map_items
from pipeline.errors import UserError
from pipeline.metric.baselines import pyramid
from pipeline.metric.coco_records import coco_records
from pipeline.metric.measurement import merge_masks, pyramid_curves, scale_map
from pipeline.metric.pointing import energy_inside, is_difficult, peak_distance
from pipeline.metric.pxap import histograms
from pipeline.ops.iou import best_iou
from pipeline.ops.label_sets import PAIRS
from pipeline.ops.memory import keep_freed_memory
from pipeline.ops.text import count_notes
from pipeline.results.human import FILE as REVIEWS
from pipeline.stages.evaluate.alarm import describe_alarms, describe_backgrounds, measure_alarm
from pipeline.stages.evaluate.explained import (
    Explained,
    Seen,
    Unit,
    has_other_class,
    iterate_images,
)
from pipeline.stages.evaluate.maps import MapScale
from pipeline.stages.evaluate.not_found import boxes_not_found, pixels_not_found
from pipeline.stages.evaluate.regions import ignored_regions, own_masks
from pipeline.stages.evaluate.source import GUESSES, PLACES, Blocks, Item, Offer
from pipeline.stages.evaluate.true_masks import trace_masks
from pipeline.types import (
    Boxes,
    EvaluationSettings,
    Evidence,
    GroundTruth,
    Note,
    Ranking,
    SaliencyMap,
)

if TYPE_CHECKING:
    from jaxtyping import Float, Float32


Traced = Mapping[str, Any]
"""Outlines of masks, as true_masks.py gives them."""


@dataclass(frozen=True)
class Predicted:
    """The classes predicted for an image, the most likely first, and the probability of each class.

    Probabilities are known where an image may have several classes.
    """

    top: Sequence[int]
    probabilities: Float32[np.ndarray, C] | None = None


@dataclass
class OwnRun:
    """The source.

    Attributes:
        boxes: the folder of stage localize.
        has_guesses: whether the classes predicted first have boxes.
        given_notes: what was odd about the annotations.
        box_notes: what stage localize notes on its boxes.
        confidences: of all boxes, by stage rank; None: it did not run.
    """

    name: str
    explained: Explained
    boxes: Path
    settings: EvaluationSettings
    scale: MapScale
    has_guesses: bool
    given_notes: Sequence[str] = ()
    box_notes: Sequence[str] = ()
    confidences: Float32[np.ndarray, n] | None = None
    true: dict[str, str] = field(default_factory=dict)  # what stands for the boxes of an image
    missing: list[str] = field(default_factory=list)
    drawn: list[str] = field(default_factory=list)
    of_other_class: list[str] = field(default_factory=list)
    uncounted: list[str] = field(default_factory=list)  # whose class is in crowds alone
    unexplained: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    alarms: dict[str, float] = field(default_factory=dict)  # of images without an object
    unread_boxed: list[str] = field(default_factory=list)  # of these, those with boxes to be found
    wrong_boxes: dict[str, int] = field(default_factory=dict)  # of each image of no class
    true_masks: dict[str, dict[str, Any]] = field(default_factory=dict)  # outlines, for the report

    first_compared: Sequence[str] = ()

    @property
    def unit(self) -> str:
        """Return what a piece of evidence is, in the plural."""
        return PAIRS if self.explained.is_multi_label else "images"

    @property
    def total(self) -> int:
        """Return how many images, or classes of images, the split that is scored has."""
        return self.explained.total

    @property
    def blocks(self) -> Blocks:
        """Return what the evidence has.

        Images without annotations have a class, but no size; the pyramid is the same for all
        classes.
        """
        if self.explained.is_multi_label:
            return self._blocks_of_several
        guesses = [Offer("guesses")] if self.has_guesses else []
        confidence = [Offer("confidence", ())] if self.confidences is not None else []
        return [[
            Offer("classification", ("class",)), Offer("ranking"), Offer("box"), Offer("cuts"),
            Offer("boxes"), Offer("pointing"), Offer("curves"), Offer("true"), Offer("pyramid"),
            Offer("pixels"), Offer("pyramid_pixels", ()), *guesses,
            Offer("coco_boxes", ()), Offer("coco_masks", ()), *confidence, Offer("alarm", ()),
        ]]  # fmt: skip

    @property
    def _blocks_of_several(self) -> Blocks:
        """What the evidence of classes of images has, and that of whole images."""
        confidence = [Offer("confidence", ())] if self.confidences is not None else []
        return [[
            Offer("label_scores", ()), Offer("box"), Offer("cuts"), Offer("boxes"),
            Offer("pointing"), Offer("difficult", ("class",)), Offer("curves"), Offer("true"),
            Offer("pyramid"), Offer("pixels"), Offer("pyramid_pixels", ()), Offer("voc_boxes", ()),
            Offer("coco_boxes", ()), Offer("coco_masks", ()), *confidence,
        ]]  # fmt: skip

    def items(self) -> Iterator[Item]:
        """Yield the evidence of each image that is scored, by position."""
        top, probabilities = self.explained.predicted(), self.explained.probabilities()

        def of_image(seen: Seen) -> tuple[Seen, Sequence[tuple[Evidence, Traced | None]]]:
            if seen.id not in self.explained.scored:
                return seen, ()
            predicted = Predicted(top[seen.position], probabilities.get(seen.position))
            units = self.explained.units(seen.position)
            return seen, [(self._evidence(seen, u, predicted), self._trace(u)) for u in units]

        keep_freed_memory()
        images = iterate_images(self.explained, self.boxes, self.confidences)
        without_map = {*self.explained.scored_backgrounds} & top.keys()
        with show_progress("evaluate", len(self.explained.truth)) as advance:
            for seen, measured in map_items(of_image, images, self.explained.workers):
                advance(any(evidence.iou is not None for evidence, _ in measured))
                without_map.discard(seen.position)
                for evidence, traced in measured:
                    if traced is not None:
                        self.true_masks[evidence.id] = {"id": seen.id, **traced}
                    yield self._item(seen, evidence)
            for position in sorted(without_map):
                yield self._background_item(position, probabilities.get(position))
            for position in self.explained.unread():
                yield from self._unread_items(position)

    def _background_item(self, position: int, probabilities: Float32[np.ndarray, C] | None) -> Item:
        """Return the evidence of an image of no class without map: how it is classified."""
        (unit,) = self.explained.units(position)
        self.wrong_boxes[unit.id] = 0
        return Item(Evidence(**self._describe(unit, Predicted((), probabilities), {})))

    def _unread_items(self, position: int) -> Iterator[Item]:
        """Yield the evidence of an image that could not be read, where it counts; note it."""
        id, units = self.explained.ids[position], self.explained.units(position)
        known_of = [self.explained.known_of(unit) for unit in units]
        if any(known is not None and len(known.of_label()) for known in known_of):
            self.unread_boxed.append(id)
        is_background = position in self.explained.backgrounds
        if units[0].label >= 0 or known_of[0] is not None or is_background:
            self.unread.append(id)
        if self.explained.missing == "not_found":
            for unit, known in zip(units, known_of, strict=True):
                yield Item(self._not_found(unit, known))

    def _not_found(self, unit: Unit, known: GroundTruth | None) -> Evidence:
        """Return the evidence of an image that could not be read: neither recognised nor found."""
        fields = self._describe(unit, Predicted(()), {})
        if known is not None and len(fields["true"]):
            fields |= _boxes_and_pixels_not_found(known, self.scale)
            self.true[unit.id] = hash_boxes(fields["true"])
        return Evidence(**fields)

    def _evidence(self, seen: Seen, unit: Unit, predicted: Predicted) -> Evidence:
        """Measure an image, or a class in it."""
        known = self.explained.known_of(unit)
        if unit.label in self.explained.negatives:
            fields = self._describe(unit, predicted, {})
            if self.confidences is not None:
                given = seen.maps, seen.boxes, predicted.top[0], self.explained.negatives
                fields["alarm"] = measure_alarm(*given)
            return Evidence(**fields)
        if known is None:
            return Evidence(**self._describe(unit, predicted, seen.boxes))
        check_sizes(known, seen.maps[0])
        fields = self._describe(unit, predicted, seen.boxes)
        true = fields["true"]
        saliency = next((m for m in seen.maps if m.explained == unit.label), None)
        if saliency is not None and len(true):
            scaled = scale_map(saliency.raw(), saliency.size, self.scale.protocol)
            fields |= box_evidence(seen.boxes.get(unit.label), true)
            fields |= map_evidence(scaled, known, self.scale)
        return Evidence(**fields)

    def _trace(self, unit: Unit) -> Traced | None:
        """Return the outlines of the masks of what is scored, if it has some."""
        known = None if unit.label in self.explained.negatives else self.explained.known_of(unit)
        return None if known is None else trace_masks(known)

    def _describe(
        self, unit: Unit, predicted: Predicted, boxes: Mapping[int, Boxes]
    ) -> dict[str, Any]:
        """Return the fields of Evidence that need no map; `boxes`: of the image, by class."""
        fields: dict[str, Any] = {"id": unit.id, "image": unit.image, "label": unit.label}
        is_multi_label = self.explained.is_multi_label
        if not is_multi_label:
            fields["ranking"] = Ranking(predicted.top, PLACES)
            fields["classification"] = predicted.top if unit.label >= 0 else None
        elif unit.is_first:
            given = unit.position, predicted.probabilities
            fields["label_scores"] = self.explained.label_scores(*given)
        if (known := self.explained.known_of(unit)) is None:
            return fields
        true = known.of_label()
        fields |= {"size": known.size, "true": true}
        if unit.is_first:
            fields["coco"] = coco_records(unit.position + 1, known, boxes.values())
        if is_multi_label:
            has_other = has_other_class(known, unit.label)
            return {**fields, "is_difficult": is_difficult(true, known.size, has_other)}
        guesses = [(c, _best_box(boxes.get(c))) for c in predicted.top[:GUESSES]]
        return {**fields, "guesses": guesses if self.has_guesses else None}

    def _item(self, seen: Seen, evidence: Evidence) -> Item:
        """Return the evidence with the records of its maps; note what is missing.

        These are the maps of the image's class, or all its maps where it has no class.
        """
        label, known = evidence.label, self.explained.known(seen.id)
        own = [m for m in seen.maps if m.explained == label or label < 0]
        if label in self.explained.negatives:
            if evidence.alarm is not None:
                self.alarms[seen.id] = evidence.alarm
        elif seen.position in self.explained.backgrounds:
            self.wrong_boxes[seen.id] = sum(len(each.boxes) for each in seen.boxes.values())
        elif known is None:
            unscored = self.drawn if seen.id in self.explained.drawn else self.missing
            unscored.append(evidence.id)
        elif evidence.true is None or not len(evidence.true):
            is_uncounted = self.explained.is_multi_label and is_in_crowds(known, label)
            (self.uncounted if is_uncounted else self.of_other_class).append(evidence.id)
        elif not own:
            self.unexplained.append(evidence.id)
        if evidence.iou is not None and evidence.true is not None:
            self.true[evidence.id] = hash_boxes(evidence.true)
        return Item(evidence, [_record(seen, m, evidence) for m in own])

    def notes(self, of_metrics: Sequence[str]) -> list[str]:
        """Return what was odd, and which images were not scored."""
        notes = [*self.given_notes, *self.box_notes]
        if self.unread:
            text = (
                f"evaluate: {len(self.unread)} of {self.explained.image_count} images could not be "
                f"read (the note of stage explain says why): {self._describe_unread()}"
            )
            notes.append(Note(text, self.unread))
        backgrounds = describe_backgrounds(self.wrong_boxes, self.explained.image_count)
        notes += [*backgrounds, *self._notes_on_unscored(), *describe_alarms(self.alarms)]
        return [*notes, *of_metrics]

    def _describe_unread(self) -> str:
        """Return what images that could not be read count as."""
        if self.explained.missing == "skip":
            return "not scored (missing=skip); missing=not_found counts them"
        count = len(self.unread_boxed)
        if count == len(self.unread):
            counted = "counted as not found and as not recognised"
        elif count:
            counted = f"counted as not recognised, and the {count} with boxes as not found"
        else:
            counted = "counted as not recognised"
        return f"{counted}; missing=skip leaves them out"

    def _notes_on_unscored(self) -> list[str]:
        """Return which images are not scored, or not by all numbers, and what helps."""
        truth = self.explained.truth
        origin = self.explained.drawn_in
        why = f"have boxes of a person that the threshold was chosen on ({origin}): not scored"
        remedy = "draw boxes on images of train to score all of these"
        if origin == REVIEWS:
            remedy = "human_boxes=none scores them, and uses no review"
        drawn = (self.drawn, why, remedy)
        if not truth:
            return self._count_kinds([drawn])
        if not any(len(known.boxes) for known in truth.values()):
            # The data set says so, with the remedy: that each image has no box says it again.
            why = "has an annotated box, so none is localized; annotate objects with boxes"
            images = self.explained.image_count
            return [] if self.given_notes else [f"evaluate: none of the {images} images {why}"]
        kinds = [
            drawn,
            (self.missing, "have no annotation: not scored", "annotate them, if they are to be"),
            (
                self.uncounted,
                "of a class in regions alone where nothing is counted (crowds): not scored",
                "",
            ),
            (
                self.of_other_class,
                "have no box of their own class: not scored",
                "correct the category of their boxes, or the class folder of the images",
            ),
            (
                self.unexplained,
                "have no map of their own class: GT-known Loc and what else is measured on it "
                + ("leaves them out, which flatters it" if self.true else "has no image left"),
                "explain.target=[true,...] gives them one",
            ),
        ]
        return self._count_kinds(kinds)

    def _count_kinds(self, kinds: Sequence[tuple[Sequence[str], str, str]]) -> list[str]:
        """Return a note for each kind of images, of which there are some: which, why, a remedy."""
        what = "class of an image" if self.explained.is_multi_label else "image"
        of_total = ((names, f"of {self.total} {why}", remedy) for names, why, remedy in kinds)
        return [*count_notes(of_total, what, where="evaluate")]


def is_in_crowds(known: GroundTruth, label: int) -> bool:
    """Return whether an image has regions with uncounted objects of a class.

    Args:
        known: the annotations of the image.
        label: the class.
    """
    crowds = known.crowds
    if crowds is None or not len(crowds.boxes):
        return False
    return crowds.classes is None or label in crowds.classes.tolist()


def hash_boxes(true: Float32[np.ndarray, "M 4"]) -> str:
    """Return what stands for the annotated boxes of an image in a comparison."""
    return hashlib.sha256(true.tobytes()).hexdigest()[:16]


def _boxes_and_pixels_not_found(known: GroundTruth, scale: MapScale) -> dict[str, Any]:
    """Return the evidence of an annotated image without map and boxes."""
    fields = {**box_evidence(None, known.of_label())}
    fields |= boxes_not_found(known.of_label(), known.size, scale)
    if masks := own_masks(known):
        frame = scale.choose_frame(known.size)
        fields |= pixels_not_found(merge_masks(masks, ignored_regions(known), frame))
    return fields


def box_evidence(boxes: Boxes | None, true: Float32[np.ndarray, "M 4"]) -> dict[str, Any]:
    """Return the boxes of the image's class; none where its map could not be segmented."""
    nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.float32)
    found, scores = nothing if boxes is None else (boxes.boxes, boxes.scores)
    return {
        "iou": best_iou(_best_box(boxes), true),
        "boxes": found,
        "scores": scores,
        "confidence": _confidence(boxes),
    }


def map_evidence(
    scaled: Float[np.ndarray, "h w"], known: GroundTruth, scale: MapScale
) -> dict[str, Any]:
    """Return what a map in [0, 1] over the whole image is worth against boxes and masks."""
    true, size = known.of_label(), known.size
    measured = scale.measure(scaled, true, size, known.id)
    fields: dict[str, Any] = {
        "curves": measured.curves,
        "cuts": measured.cuts,
        "pyramid": pyramid_curves(true, size, scale.protocol),
        "pointing": (peak_distance(scaled, true, size), energy_inside(scaled, true, size)),
    }
    if masks := own_masks(known):
        frame = scaled.shape[0], scaled.shape[1]
        mask = merge_masks(masks, ignored_regions(known), frame)
        fields["pixels"] = histograms(scaled, mask)
        fields["pyramid_pixels"] = histograms(pyramid(frame), mask)
    return fields


def _best_box(boxes: Boxes | None) -> np.ndarray | None:
    """Return the best-scored box, where there is one."""
    return None if boxes is None or not len(boxes.boxes) else np.asarray(boxes.boxes[0])


def _confidence(boxes: Boxes | None) -> float | None:
    """Return the confidence of the best-scored box, where it is known."""
    if boxes is None or boxes.confidences is None or not len(boxes.confidences):
        return None
    return float(boxes.confidences[0])


def _record(seen: Seen, saliency: SaliencyMap, evidence: Evidence) -> dict[str, Any]:
    """Return the record of a map in images.json."""
    boxes = seen.boxes.get(saliency.explained)
    return {
        "position": seen.position,
        "id": saliency.id,
        "class": saliency.explained,
        "predicted": saliency.predicted,
        "score": round(saliency.score, 5),
        "iou": None if evidence.iou is None else round(evidence.iou, 5),
        "true": [] if evidence.true is None else evidence.true.tolist(),
        "found": [] if boxes is None else np.round(boxes.boxes, 2).tolist(),
        **({} if (sure := _confidence(boxes)) is None else {"confidence": round(sure, 5)}),
    }


def check_sizes(known: GroundTruth, saliency: SaliencyMap) -> None:
    """Raise UserError where annotations and image are not of one size."""
    if known.size != saliency.size:
        (h, w), (height, width) = known.size, saliency.size
        raise UserError(
            f"{known.id}: annotated as {w} x {h} pixels, the image is {width} x {height} "
            "(width x height, upright); make the boxes anew for the images that are there"
        )
