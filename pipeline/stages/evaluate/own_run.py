"""Our own run as a source: its maps and boxes from their shards, its classification, annotations.

Scored is the split `val` alone, whatever was explained. Annotated images that could not be read
count as not found, and as not recognised; `missing=skip` leaves them out. Images without
annotation and those with no box of their own class are left out and counted. Maps are measured as
`protocol=` says; the boxes of the segmenter are measured as they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.engine import runtime
from pipeline.engine.progress import show_progress
from pipeline.errors import SkippedImage, UserError
from pipeline.metric.baselines import pyramid
from pipeline.metric.coco_records import coco_records
from pipeline.metric.measurement import merge_masks, pyramid_curves, refine_map, scale_map
from pipeline.metric.pointing import energy_inside, peak_distance
from pipeline.metric.pxap import histograms
from pipeline.ops.iou import best_iou
from pipeline.ops.text import count_notes
from pipeline.protocols import RefiningSegmenter
from pipeline.results.boxes import iterate_boxes
from pipeline.results.maps import iterate_maps, load_classification, load_skipped
from pipeline.results.shards import list_shards
from pipeline.stages.evaluate.alarm import describe_alarms, measure_alarm
from pipeline.stages.evaluate.maps import MapScale
from pipeline.stages.evaluate.not_found import Missing, boxes_not_found, pixels_not_found
from pipeline.stages.evaluate.regions import ignored_regions, own_masks
from pipeline.stages.evaluate.source import GUESSES, Blocks, Item, Offer
from pipeline.types import (
    Boxes,
    EvaluationSettings,
    Evidence,
    Example,
    GroundTruth,
    Note,
    Ranking,
    SaliencyMap,
)

if TYPE_CHECKING:
    from jaxtyping import Float, Float32

PLACES = 5  # Top-k Loc is known for k up to this


@dataclass(frozen=True, kw_only=True)
class Explained:
    """The images of a run, their annotations, and where its maps are.

    Attributes:
        ids, labels: of all images that were explained, by position.
        scored: ids of the split that is scored.
        truth: annotations by id.
        maps: the folder of stage explain.
        workers: threads.
        missing: whether an annotated image that could not be read counts as not found.
        drawn: ids of the images with boxes that the threshold was chosen on, not in `truth`.
        negatives: classes without an object.
    """

    ids: Sequence[str]
    labels: Sequence[int]
    scored: frozenset[str]
    truth: Mapping[str, GroundTruth]
    maps: Path
    workers: int
    missing: Missing = "not_found"
    drawn: frozenset[str] = frozenset()
    negatives: frozenset[int] = frozenset()

    @property
    def total(self) -> int:
        """Return how many images the split that is scored has."""
        return sum(id in self.scored for id in self.ids)

    def unread(self) -> Iterator[tuple[int, GroundTruth | None]]:
        """Yield the scored images that have no map at all, by position, with their annotations."""
        for position in sorted(load_skipped(self.maps)):
            if self.ids[position] in self.scored:
                yield position, self.known(self.ids[position])

    def known(self, id: str) -> GroundTruth | None:
        """Return the annotations of an image that is scored."""
        return self.truth.get(id) if id in self.scored else None

    def predicted(self) -> dict[int, list[int]]:
        """Return the classes predicted for each image, most likely first, by position."""
        seen = load_classification(self.maps)
        return dict(zip(seen.image.tolist(), seen.top.tolist(), strict=True))

    def iterate_maps(self) -> Iterator[tuple[int, SaliencyMap]]:
        """Yield all maps with the positions of their images."""
        for shard in list_shards(self.maps):
            yield from iterate_maps(shard, self.ids)


@dataclass(frozen=True)
class Seen:
    """All maps of an image, and its boxes by class."""

    position: int
    maps: Sequence[SaliencyMap]
    boxes: Mapping[int, Boxes]

    @property
    def id(self) -> str:
        """Return the name of the image."""
        return self.maps[0].id


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
    unexplained: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    alarms: dict[str, float] = field(default_factory=dict)  # of images without an object
    unread_boxed: list[str] = field(default_factory=list)  # of these, those with boxes to be found

    unit = "images"
    first_compared: Sequence[str] = ()

    @property
    def total(self) -> int:
        """Return how many images the split that is scored has."""
        return self.explained.total

    @property
    def blocks(self) -> Blocks:
        """Return what the evidence has.

        Images without annotations have a class, but no size; the pyramid is the same for all
        classes.
        """
        guesses = [Offer("guesses")] if self.has_guesses else []
        confidence = [Offer("confidence", ())] if self.confidences is not None else []
        return [[
            Offer("classification", ("class",)), Offer("ranking"), Offer("box"), Offer("cuts"),
            Offer("boxes"), Offer("pointing"), Offer("curves"), Offer("true"), Offer("pyramid"),
            Offer("pixels"), Offer("pyramid_pixels", ()), *guesses,
            Offer("coco_boxes", ()), Offer("coco_masks", ()), *confidence, Offer("alarm", ()),
        ]]  # fmt: skip

    def items(self) -> Iterator[Item]:
        """Yield the evidence of each image that is scored, by position."""
        top = self.explained.predicted()

        def of_image(seen: Seen) -> tuple[Seen, Evidence | None]:
            if seen.id not in self.explained.scored:
                return seen, None
            return seen, self._evidence(seen, top[seen.position])

        images = _iterate_images(self.explained, self.boxes, self.confidences)
        with show_progress("evaluate", len(self.explained.truth)) as advance:
            for seen, evidence in runtime.map_in_threads(of_image, images, self.explained.workers):
                if evidence is not None:
                    advance(evidence.iou is not None)
                    yield self._item(seen, evidence)
            for position, known in self.explained.unread():
                if known is not None and len(known.of_label()):
                    self.unread_boxed.append(self.explained.ids[position])
                if self.explained.labels[position] >= 0 or known is not None:
                    self.unread.append(self.explained.ids[position])
                if self.explained.missing == "not_found":
                    yield Item(self._not_found(position, known))

    def _not_found(self, position: int, known: GroundTruth | None) -> Evidence:
        """Return the evidence of an image that could not be read: neither recognised nor found."""
        fields = self._describe(position, (), {})
        if known is not None and len(fields["true"]):
            fields |= _boxes_and_pixels_not_found(known, self.scale)
            self.true[known.id] = hash_boxes(fields["true"])
        return Evidence(**fields)

    def _evidence(self, seen: Seen, top: Sequence[int]) -> Evidence:
        """Measure an image."""
        label, known = self.explained.labels[seen.position], self.explained.known(seen.id)
        if label in self.explained.negatives:
            fields = self._describe(seen.position, top, {})
            if self.confidences is not None:
                given = seen.maps, seen.boxes, top[0], self.explained.negatives
                fields["alarm"] = measure_alarm(*given)
            return Evidence(**fields)
        if known is None:
            return Evidence(**self._describe(seen.position, top, seen.boxes))
        check_sizes(known, seen.maps[0])
        fields = self._describe(seen.position, top, seen.boxes)
        true = fields["true"]
        saliency = next((m for m in seen.maps if m.explained == label), None)
        if saliency is not None and len(true):
            scaled = scale_map(saliency.raw(), saliency.size, self.scale.protocol)
            fields |= box_evidence(seen.boxes.get(label), true)
            fields |= map_evidence(scaled, known, self.scale)
        return Evidence(**fields)

    def _describe(
        self, position: int, top: Sequence[int], boxes: Mapping[int, Boxes]
    ) -> dict[str, Any]:
        """Return the fields of Evidence that need no map.

        `top`: the classes predicted for the image; `boxes`: its boxes by class.
        """
        id, label = self.explained.ids[position], self.explained.labels[position]
        fields: dict[str, Any] = {
            "id": id, "image": id, "label": label, "ranking": Ranking(top, PLACES),
            "classification": top if label >= 0 else None,
        }  # fmt: skip
        if (known := self.explained.known(id)) is None:
            return fields
        guesses = [(c, _best_box(boxes.get(c))) for c in top[:GUESSES]]
        return fields | {
            "size": known.size,
            "true": known.of_label(),
            "coco": coco_records(position + 1, known, boxes.values()),
            "guesses": guesses if self.has_guesses else None,
        }

    def _item(self, seen: Seen, evidence: Evidence) -> Item:
        """Return the evidence with the records of its maps; note what is missing.

        These are the maps of the image's class, or all its maps where it has no class.
        """
        label, known = evidence.label, self.explained.known(seen.id)
        own = [m for m in seen.maps if m.explained == label or label < 0]
        if label in self.explained.negatives:
            if evidence.alarm is not None:
                self.alarms[seen.id] = evidence.alarm
        elif known is None:
            (self.drawn if seen.id in self.explained.drawn else self.missing).append(seen.id)
        elif evidence.true is None or not len(evidence.true):
            self.of_other_class.append(seen.id)
        elif not own:
            self.unexplained.append(seen.id)
        if evidence.iou is not None and evidence.true is not None:
            self.true[seen.id] = hash_boxes(evidence.true)
        return Item(evidence, [_record(seen, m, evidence) for m in own])

    def notes(self, of_metrics: Sequence[str]) -> list[str]:
        """Return what was odd, and which images were not scored."""
        notes = [*self.given_notes, *self.box_notes]
        if self.unread:
            text = (
                f"evaluate: {len(self.unread)} of {self.total} images could not be read (the note "
                f"of stage explain says why): {self._describe_unread()}"
            )
            notes.append(Note(text, self.unread))
        return [*notes, *self._notes_on_unscored(), *describe_alarms(self.alarms), *of_metrics]

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
        truth, total = self.explained.truth, self.total
        why = "have boxes that the threshold was chosen on (calibrate.boxes): not scored"
        drawn = (self.drawn, why, "draw boxes on images of train to score all of these")
        if not truth:
            return _count_kinds([drawn], total)
        if not any(len(known.boxes) for known in truth.values()):
            # The data set says so, with the remedy: that each image has no box says it again.
            why = "has an annotated box, so none is localized; annotate objects with boxes"
            return [] if self.given_notes else [f"evaluate: none of the {total} images {why}"]
        kinds = [
            drawn,
            (self.missing, "have no annotation: not scored", "annotate them, if they are to be"),
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
        return _count_kinds(kinds, total)


def _count_kinds(kinds: Sequence[tuple[Sequence[str], str, str]], total: int) -> list[str]:
    """Return a note for each kind of images, of which there are some: which, why and a remedy."""
    of_total = ((names, f"of {total} {why}", remedy) for names, why, remedy in kinds)
    return [*count_notes(of_total, "image", where="evaluate")]


@dataclass
class RefinedMaps:
    """The maps that a segmenter makes of map and image before it segments them, scored as maps.

    At the threshold used its boxes themselves are scored, by OwnRun. `read_image` reads an image
    at the size that the segmenter wants.
    """

    name: str
    explained: Explained
    settings: EvaluationSettings
    scale: MapScale
    segmenter: RefiningSegmenter
    read_image: Callable[[int, SaliencyMap], Example | SkippedImage]

    unit = "images"
    first_compared: Sequence[str] = ()
    blocks: Blocks = field(default_factory=lambda: [[Offer("ranking"), Offer("cuts"),
                                                     Offer("curves")]])  # fmt: skip

    @property
    def total(self) -> int:
        """Return how many images the split that is scored has."""
        return self.explained.total

    def items(self) -> Iterator[Item]:
        """Yield the evidence of each image whose map could be refined, and of the unread ones."""
        top = self.explained.predicted()

        def of_map(item: tuple[int, SaliencyMap]) -> Evidence | None:
            return self._evidence(*item, top[item[0]])

        maps = self.explained.iterate_maps()
        for evidence in runtime.map_in_threads(of_map, maps, self.explained.workers):
            if evidence is not None:
                yield Item(evidence)
        if self.explained.missing == "not_found":
            for position, known in self.explained.unread():
                if known is not None and len(known.of_label()):
                    yield Item(self._not_found(position, known, ()))

    def _not_found(self, position: int, known: GroundTruth, top: Sequence[int]) -> Evidence:
        """Return the evidence of an image that could not be read."""
        fields = boxes_not_found(known.of_label(), known.size, self.scale)
        return Evidence(
            id=known.id, image=known.id, label=self.explained.labels[position], size=known.size,
            ranking=Ranking(top, PLACES), curves=fields["curves"], cuts=fields["cuts"],
        )  # fmt: skip

    def _evidence(
        self, position: int, saliency: SaliencyMap, top: Sequence[int]
    ) -> Evidence | None:
        known = self.explained.known(saliency.id)
        label = self.explained.labels[position]
        if known is None or saliency.explained != label or not len(known.of_label()):
            return None
        example = self.read_image(position, saliency)
        if isinstance(example, SkippedImage):
            skips = self.explained.missing == "skip"
            return None if skips else self._not_found(position, known, top)
        scaled = refine_map(self.segmenter, saliency, example, self.scale.protocol)
        measured = self.scale.measure(scaled, known.of_label(), known.size, known.id)
        return Evidence(
            id=saliency.id, image=saliency.id, label=label, size=known.size,
            ranking=Ranking(top, PLACES), curves=measured.curves, cuts=measured.cuts,
        )  # fmt: skip

    def notes(self, of_metrics: Sequence[str]) -> list[str]:
        """Return nothing: images that could not be read are named where boxes are cut."""
        return []


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


def _iterate_images(
    explained: Explained, boxes: Path, confidences: Float32[np.ndarray, n] | None
) -> Iterator[Seen]:
    """Yield image by image, maps and boxes both streamed from their shards, in the same order."""
    ids = explained.ids
    boxed = groupby(iterate_boxes(boxes, ids, confidences), key=lambda item: item[0])
    at, found = -1, dict[int, Boxes]()
    for position, group in groupby(explained.iterate_maps(), key=lambda item: item[0]):
        while at < position:  # an image whose maps could not be segmented has no boxes
            at, own = next(boxed, (len(ids), iter(())))
            found = {each.label: each for _, each in own}
        yield Seen(position, [m for _, m in group], found if at == position else {})


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
