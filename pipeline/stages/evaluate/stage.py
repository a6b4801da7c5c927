"""Evaluate: boxes and maps against annotations, classification against labels.

    metrics.json  every number with what it stands on      table.json, table.txt  the main ones
    images.json   each image's boxes and IoU                curve.json  accuracy over the threshold
    rows.safetensors  a row for each scored image: what stage compare takes

Scored is the split `val` alone, whatever was explained; images that were set aside, and those with
no box of their own class, are left out and counted. Maps are measured as `protocol=` says; the
boxes of the segmenter are measured as they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from pipeline.engine import runtime
from pipeline.engine.images import read_for_segmenter
from pipeline.engine.methods import parse_targets
from pipeline.engine.progress import show_progress
from pipeline.engine.run import Run
from pipeline.engine.thresholds import used_thresholds, uses_validation_threshold
from pipeline.errors import SkippedImage, UserError
from pipeline.formats.arrays import write_arrays
from pipeline.formats.files import write_json, write_text
from pipeline.metric.baselines import Baselines, pyramid
from pipeline.metric.box_counts import BoxCounts
from pipeline.metric.classification import Classification
from pipeline.metric.components import THRESHOLDS, Curves
from pipeline.metric.groups import NUMBERS, SIZES, number_group, size_group
from pipeline.metric.gt_known import IlsvrcError, Localization
from pipeline.metric.max_box_acc import (
    GtKnownOracle,
    MaxBoxAcc,
    MaxBoxAccV2,
    Protocol,
    PyramidOracle,
    Top1Oracle,
    Top5Oracle,
    map_curves,
)
from pipeline.metric.measurement import (
    FIXED_THRESHOLD,
    merge_masks,
    pyramid_curves,
    refine_map,
    scale_map,
)
from pipeline.metric.pointing import Pointing, energy_inside, pointing_hit
from pipeline.metric.pxap import PxAP, histograms
from pipeline.ops.iou import best_iou
from pipeline.protocols import AnnotatedDataSet, RefiningSegmenter
from pipeline.results.boxes import iterate_boxes, load_notes
from pipeline.results.maps import iterate_maps, load_classification
from pipeline.results.shards import list_shards
from pipeline.results.table import build_table, format_table
from pipeline.results.thresholds import (
    USED_IOU,
    load_thresholds,
    threshold_for_image,
    validation_threshold_info,
)
from pipeline.segmenter.auto import auto_threshold
from pipeline.types import Boxes, GroundTruth, Rle, SaliencyMap, Score

if TYPE_CHECKING:
    from jaxtyping import Bool, Int

GUESSES = 5  # of ILSVRC: a class with a box each


def cache_key(run: Run) -> dict[str, Any]:
    return {
        "source": run.sources(__name__, "data"),
        "localize": run.key("localize"),
        "explain": run.key("explain"),
        "calibrate": run.key("calibrate") if "calibrate" in run.config["stages"] else None,
        "truth": annotated_data(run).truth_fingerprint("val"),
        "evaluate": run.config["evaluate"],
        "protocol": run.config["protocol"],
        "seed": run.config["seed"],
    }


def annotated_data(run: Run) -> AnnotatedDataSet:
    """Return the data set with the annotations that it may have."""
    return cast(AnnotatedDataSet, run.data)


def check(run: Run) -> None:
    """Raises UserError for annotations that cannot be read, before anything is computed."""
    annotated_data(run).truth("val")


NOWHERE = Curves(
    np.zeros(len(THRESHOLDS)), np.zeros(len(THRESHOLDS)), np.zeros((len(THRESHOLDS), 4), np.float32)
)


@dataclass(frozen=True)
class Measured:
    """What a map is worth against the boxes of its image, and against its masks where it has some:
    pixels by value, of background and of the object."""

    curves: Curves
    auto: float  # the threshold that segmenter.threshold=auto would cut this map at
    pyramid: Curves
    hit: bool  # of the pointing game
    energy: float
    pixels: Int[np.ndarray, "2 1001"] | None
    pyramid_pixels: Int[np.ndarray, "2 1001"] | None

    @classmethod
    def of(cls, scaled: np.ndarray, known: GroundTruth, protocol: Protocol = "default") -> Measured:
        """`scaled`: a map in [0, 1] over the whole image; see `measure.scaled`."""
        true, size = known.of_label(), known.size
        frame = scaled.shape[0], scaled.shape[1]
        pixels = bare = None
        if masks := own_masks(known):
            mask = merge_masks(masks, ignored(known), frame)
            pixels, bare = histograms(scaled, mask), histograms(pyramid(frame), mask)
        return cls(
            map_curves(scaled, true, size, protocol),
            auto_threshold(np.asarray(scaled, np.float32)),
            pyramid_curves(true, size, protocol),
            pointing_hit(scaled, true, size),
            energy_inside(scaled, true, size),
            pixels,
            bare,
        )


def own_masks(known: GroundTruth) -> list[Rle]:
    """Masks of the objects of the image's own class."""
    masks = known.masks or ()
    if known.classes is None:
        return list(masks)
    return [mask for mask, c in zip(masks, known.classes, strict=False) if c == known.label]


def ignored(known: GroundTruth) -> list[Rle]:
    """Regions of the image's own class that are neither object nor background."""
    if known.crowds is None:
        return []
    classes, label = known.crowds.classes, known.label
    regions = _crowd_masks(known)
    return [one for n, one in enumerate(regions) if classes is None or classes[n] == label]


def _crowd_masks(known: GroundTruth) -> list[Rle]:
    """The mask of each crowd; where it has none, its box."""
    from pycocotools import mask as coco_mask

    crowds = known.crowds
    assert crowds is not None
    found: list[Rle] = []
    for box, mask in zip(crowds.boxes, crowds.masks, strict=True):
        if mask is None:
            x0, y0, x1, y1 = box.astype(float).tolist()
            (mask,) = coco_mask.frPyObjects([[x0, y0, x1, y0, x1, y1, x0, y1]], *known.size)
        found.append(mask)
    return found


class Members:
    """The images that an accumulator holds, in its order, by the groups that each is of."""

    def __init__(self) -> None:
        self._of: dict[str, list[Any]] = {"class": [], "size": [], "number": []}

    def add(self, known: GroundTruth) -> None:
        true = known.of_label()
        self._of["class"].append(known.label)
        self._of["size"].append(size_group(true, known.size))
        self._of["number"].append(number_group(true))

    def __len__(self) -> int:
        return len(self._of["class"])

    def select(self, part: Part) -> Bool[np.ndarray, n]:
        return np.asarray(np.array(self._of[part.group], object) == part.value, bool)


@dataclass(frozen=True)
class Part:
    """A group of images that numbers are also given for."""

    group: Literal["class", "size", "number"]
    value: int | str
    label: str


def parts(classes: Sequence[str]) -> Iterator[Part]:
    yield from (Part("class", n, name) for n, name in enumerate(classes))
    yield from (Part("size", name, f"size: {name}") for name in SIZES)
    yield from (Part("number", name, f"number: {name}") for name in NUMBERS)


class Evaluation:
    """All accumulators of one method; each gets every scored image in the same order."""

    def __init__(
        self,
        ious: Sequence[float],
        threshold_info: Mapping[str, Any],
        seed: int,
        guesses: bool = False,
    ) -> None:
        """`guesses`: the five classes predicted first have boxes."""
        self.ious = tuple(ious)
        self.located = Members()  # of most accumulators
        self.used = Localization(ious, threshold_info, seed)
        # What else the maps could have been cut at without a look at these images' boxes.
        others = {"fixed": FIXED_THRESHOLD, "auto": None}
        self.beside = {
            kind: Localization(ious, {"kind": kind, "value": value}, seed)
            for kind, value in others.items()
            if kind != threshold_info["kind"]
        }
        # At each IoU its own threshold, or one for each half of the images.
        self.validation: dict[float, Localization] = {}
        self.thresholds: Mapping[str, Sequence[float]] = {}
        self.oracles = [kind(ious, seed) for kind in (GtKnownOracle, Top1Oracle, Top5Oracle)]
        self.single, self.multi = MaxBoxAcc((0.5,), seed), MaxBoxAccV2(seed=seed)
        self.input_independent_baselines = Baselines(ious, seed)
        self.pyramid = PyramidOracle(seed=seed)
        self.counts = BoxCounts(ious, threshold_info, seed)
        self.pointing = Pointing(seed=seed)
        self.true: list[str] = []  # what stands for the annotated boxes of each image
        self.ids: list[str] = []

        self.masked = Members()
        for_all = None if isinstance(threshold_info["value"], list) else threshold_info
        self.pixels, self.pyramid_pixels = PxAP(for_all, seed), PxAP(seed=seed)

        self.guessed = Members()
        self.guesses = IlsvrcError(threshold_info, seed) if guesses else None
        self.detections = Detections(threshold_info)

        self.class_labels: list[int] = []  # of all classified images
        self.classification = Classification(seed=seed)
        self.images: list[dict[str, Any]] = []

    def detected(self, known: GroundTruth, boxes: Mapping[int, Boxes], top: Sequence[int]) -> None:
        """An annotated image: its boxes of all classes that were explained."""
        self.detections.add(known, boxes.values())
        if self.guesses is not None and len(known.of_label()):
            each = [(c, _first(boxes.get(c))) for c in top[:GUESSES]]
            self.guesses.add(each, known.label, known.of_label())
            self.guessed.add(known)

    def add(
        self,
        known: GroundTruth,
        boxes: Boxes | None,
        measured: Measured,
        top: Sequence[int],
    ) -> float:
        """An image with boxes of its own class, and its map of that class."""
        true, found = known.of_label(), measured.curves
        iou = best_iou(_first(boxes), true)
        self.located.add(known)
        self.ids.append(known.id)
        self.true.append(hashlib.sha256(true.tobytes()).hexdigest()[:16])
        self.counts.add(
            np.zeros((0, 4), np.float32) if boxes is None else boxes.boxes,
            np.zeros(0, np.float32) if boxes is None else boxes.scores,
            true,
        )
        self.pointing.append(measured.hit, measured.energy)
        self.used.add(known.label, iou, top)
        for kind, beside in self.beside.items():
            value = measured.auto if kind == "auto" else FIXED_THRESHOLD
            beside.add(known.label, at_threshold(found, value), top)
        for delta, validation in self.validation.items():
            value = threshold_for_image(self.thresholds[f"{delta:g}"], known.id)
            validation.add(known.label, at_threshold(found, value), top)
        for k, oracle in zip((None, 1, 5), self.oracles, strict=True):
            oracle.add(found if k is None or known.label in top[:k] else NOWHERE)
        for metric in (self.single, self.multi):
            metric.add(found)
        self.input_independent_baselines.add(true, known.size)
        self.pyramid.add(measured.pyramid)
        if measured.pixels is not None and measured.pyramid_pixels is not None:
            self.masked.add(known)
            self.pixels.append(measured.pixels)
            self.pyramid_pixels.append(measured.pyramid_pixels)
        return iou

    def calibrated(self, thresholds: Mapping[str, Sequence[float]], source: str, seed: int) -> None:
        """Score at thresholds that stage calibrate chose on other images, too."""
        self.thresholds = thresholds
        for iou in self.ious:
            threshold_info = validation_threshold_info(thresholds[f"{iou:g}"], source)
            self.validation[iou] = Localization([iou], threshold_info, seed)

    def classified(self, label: int, top: Sequence[int]) -> None:
        self.class_labels.append(label)
        self.classification.add(label, top)

    def scores(self, classes: Sequence[str], method: str) -> list[Score]:
        """The headline first, then each class and each group."""
        of_coco = self.detections.scores(classes)
        found = [*self._over(None), *(score for score in of_coco if score.label is None)]
        for part in parts(classes):
            found += self._over(part)
        found += [score for score in of_coco if score.label is not None]
        return [replace(score, method=method) for score in found]

    def headline(self) -> Iterator[Score]:
        """Over all images."""
        return self._over(None)

    def _over(self, part: Part | None) -> Iterator[Score]:
        """All numbers over the images of a group; None: over all."""
        label = None if part is None else part.label
        if part is None or part.group == "class":
            seen = None if part is None else np.array(self.class_labels, int) == part.value
            yield from self.classification.compute(seen, label)
        if (located := _of(self.located, part)) is not NOBODY:
            yield from self.used.compute(located, label)
            for other in (*self.beside.values(), *self.validation.values()):
                found = other.compute(located, label)
                yield from (s for s in found if s.name in ("gt_known_loc", "top1_loc", "top5_loc"))
            yield from self.counts.compute(located, label)
            yield from self.pointing.compute(located, label)
            for oracle in self.oracles:
                # The mean over IoUs belongs to V2 alone.
                yield from (s for s in oracle.compute(located, label) if s.iou is not None)
            yield from self.single.compute(located, label)
            yield from self.multi.compute(located, label)
            yield from self.input_independent_baselines.compute(located, label)
            yield from self.pyramid.compute(located, label)
        if (masked := _of(self.masked, part)) is not NOBODY:
            yield from self.pixels.compute(masked, label)
            if part is None:
                bare = self.pyramid_pixels.compute()
                yield from (replace(score, name=f"pyramid_{score.name}") for score in bare)
        if self.guesses is not None and (guessed := _of(self.guessed, part)) is not NOBODY:
            yield from self.guesses.compute(guessed, label)

    def rows(self) -> dict[str, np.ndarray]:
        """What a paired comparison takes: a row for each image, in the order of `ids`."""
        rows = {
            "iou": self.used.iou,
            "rank": self.used.rank,
            "counts": self.counts.rows,
            "max_box_acc": self.single.correct.packed,
            "max_box_acc_v2": self.multi.correct.packed,
            "hit": self.pointing.hit,
            "energy": self.pointing.energy,
            **{f"{kind}_iou": other.iou for kind, other in self.beside.items()},
        }
        if self.validation:
            each = [validation.iou for validation in self.validation.values()]
            rows["validation_iou"] = np.stack(each, 1)
        return {name: np.ascontiguousarray(values) for name, values in rows.items()}


NOBODY = np.zeros(0, bool)


def at_threshold(found: Curves, value: float) -> float:
    """IoU of the largest component at a threshold: a multiple of a thousandth, as the curves are
    made."""
    return float(found.largest[int(np.searchsorted(THRESHOLDS, value - 1e-9))])


def _of(members: Members, part: Part | None) -> Bool[np.ndarray, n] | None:
    """Which of the images are of a group; None: all; NOBODY where that is none."""
    if not len(members):
        return NOBODY
    if part is None:
        return None
    select = members.select(part)
    return select if select.any() else NOBODY


def _first(boxes: Boxes | None) -> np.ndarray | None:
    """The best-scored box, where there is one."""
    return None if boxes is None or not len(boxes.boxes) else np.asarray(boxes.boxes[0])


class Detections:
    """What pycocotools takes: all annotated boxes of all classes, and those that were found of the
    classes that were explained."""

    def __init__(self, threshold: Mapping[str, Any] | None = None) -> None:
        self.threshold = threshold
        self.images: list[dict[str, Any]] = []
        self.true: list[dict[str, Any]] = []
        self.found: list[dict[str, Any]] = []
        self.notes: list[str] = []

    def add(self, known: GroundTruth, boxes: Iterable[Boxes]) -> None:
        number = len(self.images) + 1
        height, width = known.size
        self.images.append({"id": number, "height": height, "width": width})

        def record(box: np.ndarray, label: int, mask: Rle | None) -> dict[str, Any]:
            x0, y0, x1, y1 = box.astype(float).tolist()
            one = {"image_id": number, "category_id": int(label) + 1,
                   "bbox": [x0, y0, x1 - x0, y1 - y0]}  # fmt: skip
            return one if mask is None else {**one, "segmentation": mask}

        for n, box in enumerate(known.boxes):
            label = known.label if known.classes is None else int(known.classes[n])
            if label < 0:  # of no class of the data set
                continue
            one = record(box, label, known.masks[n] if known.masks is not None else None)
            self.true.append({**one, "area": _area(one)})
        if known.crowds is not None:
            classes = known.crowds.classes
            regions = zip(known.crowds.boxes, _crowd_masks(known), strict=True)
            for n, (box, mask) in enumerate(regions):
                label = known.label if classes is None else int(classes[n])
                if label >= 0:
                    one = record(box, label, mask)
                    self.true.append({**one, "area": _area(one), "iscrowd": 1})
        for each in boxes:
            for n, (box, score) in enumerate(zip(each.boxes, each.scores.tolist(), strict=True)):
                own = None if each.masks is None else each.masks[n]
                self.found.append({**record(box, each.label, own), "score": score})

    def scores(self, classes: Sequence[str]) -> list[Score]:
        """COCO's numbers of boxes, and of masks where both sides have them all; then the AP of
        each class."""
        if not self.true:
            return []
        # The metric imports pycocotools, which a run that is all kept does not need.
        from pipeline.metric.coco import Kind, coco_scores

        kinds: list[Kind] = ["bbox"]
        if self.found and all("segmentation" in one for one in self.found):
            if all("segmentation" in one for one in self.true):
                kinds.append("segm")
            else:
                self.notes.append("not all annotations have masks: no AP of masks")
        content = {
            "images": self.images,
            "annotations": [{"id": n, "iscrowd": 0, **one} for n, one in enumerate(self.true, 1)],
            "categories": [{"id": n, "name": name} for n, name in enumerate(classes, 1)],
        }
        held = {one["category_id"] for one in self.true if not one.get("iscrowd")}
        each = {n: name for n, name in enumerate(classes, 1) if n in held}
        return [
            score
            for kind in kinds
            for score in coco_scores(content, self.found, kind, threshold=self.threshold, each=each)
        ]


def _area(one: Mapping[str, Any]) -> float:
    """As COCO has it: that of the mask, also where boxes are measured."""
    from pycocotools import mask as coco_mask

    if "segmentation" in one:
        return float(coco_mask.area(one["segmentation"]))
    return float(one["bbox"][2] * one["bbox"][3])


def guesses_have_boxes(run: Run) -> bool:
    """Whether the classes predicted first were explained, as many as ILSVRC lets guess."""
    wanted = min(GUESSES, len(run.classes))
    rules = [one for one in parse_targets(run) if one not in run.classes]
    tops = [one.removeprefix("top") for one in rules if one.startswith("top")]
    return any(top.isdecimal() and int(top) >= wanted for top in tops)


def threshold_info(run: Run, picked: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The threshold that the boxes were cut at, with its value where calibrate chose it."""
    if not uses_validation_threshold(run) or picked is None or picked["source"] is None:
        return run.segmenter().threshold_info
    values = picked["thresholds"][f"{USED_IOU:g}"]
    return validation_threshold_info(values, picked["source"])


def make(run: Run, folder: Path) -> None:
    maps, cut = run.folder("explain"), run.folder("localize")
    truth = annotated_data(run).truth("val")
    picked = None
    if uses_validation_threshold(run):
        picked = used_thresholds(run)
    elif "calibrate" in run.config["stages"]:
        picked = load_thresholds(run.folder("calibrate"))
    evaluation, of_refined = (
        Evaluation(
            run.config["evaluate"]["ious"], threshold_info(run, picked), run.config["seed"], each
        )
        for each in (guesses_have_boxes(run), False)
    )
    if picked is not None:
        # Boxes that were cut there are measured themselves.
        if not uses_validation_threshold(run):
            for one, own in ((evaluation, picked), (of_refined, picked["refined"])):
                if own is not None and own["source"] is not None:
                    one.calibrated(own["thresholds"], own["source"], run.config["seed"])
        # What somebody drew to choose the threshold is not scored with it.
        truth = {id: one for id, one in truth.items() if id not in set(picked["images"])}
    notes = _score(run, maps, cut, truth, evaluation)
    scores = evaluation.scores(run.classes, run.method)
    notes += evaluation.detections.notes
    if isinstance(run.segmenter(), RefiningSegmenter):
        scores += refined_scores(run, maps, truth, of_refined)
    write_json(folder / "metrics.json", [score.record() for score in scores], indent=1)
    write_json(folder / "images.json", evaluation.images)
    write_json(folder / "curve.json", _curve(evaluation))
    write_json(
        folder / "notes.json", [*annotated_data(run).truth_notes(), *load_notes(cut), *notes]
    )
    write_arrays(
        folder / "rows.safetensors",
        evaluation.rows(),
        method=run.method,
        protocol=run.config["protocol"],
        ious=evaluation.ious,
        threshold=evaluation.used.threshold,
        ids=evaluation.ids,
        true=evaluation.true,
    )
    table = build_table(scores, run.classes)
    write_json(folder / "table.json", table)
    write_text(folder / "table.txt", format_table(run.method, table) if table["rows"] else "")


@dataclass(frozen=True)
class Seen:
    """All maps of an image, and its boxes by class."""

    position: int
    maps: Sequence[SaliencyMap]
    boxes: Mapping[int, Boxes]

    @property
    def id(self) -> str:
        return self.maps[0].id


def _images(maps: Path, cut: Path, ids: Sequence[str]) -> Iterator[Seen]:
    """Image by image, both streamed from their shards, in the same order."""
    every = (one for shard in list_shards(maps) for one in iterate_maps(shard, ids))
    boxed = groupby(iterate_boxes(cut, ids), key=lambda one: one[0])
    at, found = -1, dict[int, Boxes]()
    for position, group in groupby(every, key=lambda one: one[0]):
        while at < position:  # an image whose maps could not be cut has no boxes
            at, own = next(boxed, (len(ids), iter(())))
            found = {boxes.label: boxes for _, boxes in own}
        yield Seen(position, [one for _, one in group], found if at == position else {})


def _score(
    run: Run,
    maps: Path,
    cut: Path,
    truth: Mapping[str, GroundTruth],
    evaluation: Evaluation,
) -> list[str]:
    ids = run.data.ids(run.split)
    labels = run.data.labels(run.split).tolist()
    scored = set(run.data.ids("val"))
    seen = load_classification(maps)
    top = dict(zip(seen.image.tolist(), seen.top.tolist(), strict=True))
    for position, classes in top.items():
        if labels[position] >= 0 and ids[position] in scored:
            evaluation.classified(labels[position], classes)

    missing: list[str] = []
    other_class: list[str] = []
    unexplained: list[str] = []
    protocol = run.config["protocol"]

    def of_image(one: Seen) -> tuple[Seen, Measured | None]:
        known = truth.get(one.id) if one.id in scored else None
        own = next((m for m in one.maps if m.explained == labels[one.position]), None)
        if known is None:
            return one, None
        check_sizes(known, one.maps[0])
        if own is None or not len(known.of_label()):
            return one, None
        scaled = scale_map(own.raw(), own.size, protocol)
        return one, Measured.of(scaled, known, protocol)

    with show_progress("evaluate", len(truth)) as advance:
        for one, found in runtime.map_in_threads(of_image, _images(maps, cut, ids), run.workers):
            if one.id not in scored:
                continue
            position, known = one.position, truth.get(one.id)
            own = [m for m in one.maps if m.explained == labels[position] or labels[position] < 0]
            if known is None:
                missing.append(one.id)
            else:
                evaluation.detected(known, one.boxes, top[position])
                if not len(known.of_label()):
                    other_class.append(one.id)
                elif not own:
                    unexplained.append(one.id)
            for saliency in own:
                iou = None
                boxes = one.boxes.get(saliency.explained)
                if found is not None and known is not None:
                    iou = evaluation.add(known, boxes, found, top[position])
                    advance(1)
                evaluation.images.append(_image(position, saliency, boxes, known, iou))
    notes = []
    if truth and missing:
        notes.append(f"{len(missing)} images have no annotation and were not scored, "
                     f"{missing[0]!r} for one")  # fmt: skip
    if other_class:
        notes.append(f"{len(other_class)} images have no box of their own class and were not "
                     f"scored, {other_class[0]!r} for one")  # fmt: skip
    if unexplained:
        notes.append(f"{len(unexplained)} images have no map of their own class: GT-known Loc and "
                     "what else is measured on it leaves them out, which flatters it; "
                     "explain.target=[true,...] gives them one")  # fmt: skip
    if truth and not len(evaluation.located):
        notes.append("no image could be scored: explain.target=true gives maps of the true class")
    return notes


OF_MAPS = ("gt_known_loc", "top1_loc", "top5_loc", "max_box_acc", "max_box_acc_v2")


def refined_scores(
    run: Run, maps: Path, truth: Mapping[str, GroundTruth], evaluation: Evaluation
) -> list[Score]:
    """What the segmenter made of each map before it cut it, scored as maps are. At the threshold
    used its boxes themselves are scored."""
    segmenter, protocol = run.segmenter(), run.config["protocol"]
    assert isinstance(segmenter, RefiningSegmenter)
    ids, labels = run.data.ids(run.split), run.data.labels(run.split).tolist()
    scored = set(run.data.ids("val"))
    seen = load_classification(maps)
    top = dict(zip(seen.image.tolist(), seen.top.tolist(), strict=True))

    def of_map(item: tuple[int, SaliencyMap]) -> tuple[int, GroundTruth, Measured] | None:
        position, saliency = item
        known = truth.get(saliency.id) if saliency.id in scored else None
        if known is None or saliency.explained != labels[position] or not len(known.of_label()):
            return None
        example = read_for_segmenter(run, segmenter, position, saliency)
        if isinstance(example, SkippedImage):
            return None
        scaled = refine_map(segmenter, saliency, example, protocol)
        return position, known, Measured.of(scaled, known, protocol)

    every = (one for shard in list_shards(maps) for one in iterate_maps(shard, ids))
    for found in runtime.map_in_threads(of_map, every, run.workers):
        if found is not None:
            position, known, measured = found
            evaluation.add(known, None, measured, top[position])
    method = f"{run.method}+{run.config['segmenter']['_target_'].split('.')[-2]}"
    used = (evaluation.used.threshold or {"kind": None})["kind"]
    return [
        replace(score, method=method)
        for score in evaluation.headline()
        if score.name in OF_MAPS and score.threshold is not None and score.threshold["kind"] != used
    ]


def check_sizes(known: GroundTruth, saliency: SaliencyMap) -> None:
    """Raises UserError where annotations and image are not of one size."""
    if known.size != saliency.size:
        (h, w), (height, width) = known.size, saliency.size
        raise UserError(
            f"{known.id}: annotated as {w} x {h} pixels, the image is {width} x {height} "
            "(width x height, upright); make the boxes anew for the images that are there"
        )


def _image(
    position: int,
    saliency: SaliencyMap,
    boxes: Boxes | None,
    known: GroundTruth | None,
    iou: float | None,
) -> dict[str, Any]:
    return {
        "position": position,
        "id": saliency.id,
        "class": saliency.explained,
        "predicted": saliency.predicted,
        "score": round(saliency.score, 5),
        "iou": None if iou is None else round(iou, 5),
        "true": [] if known is None else known.of_label().tolist(),
        "found": [] if boxes is None else np.round(boxes.boxes, 2).tolist(),
    }


def _curve(evaluation: Evaluation) -> dict[str, Any]:
    """GT-known Loc over the threshold, a point for every hundredth, for the report."""
    n = len(evaluation.located)
    if not n:
        return {"fixed": None, "lines": []}
    lines = [
        {
            "iou": iou,
            "points": [
                [round(float(t), 3), round(float(c) / n, 4)]
                for t, c in zip(THRESHOLDS[::10], correct[::10], strict=True)
            ],
        }
        for iou, correct in evaluation.oracles[0].num_correct.items()
    ]
    value = (evaluation.used.threshold or {}).get("value")
    return {"fixed": None if isinstance(value, list) else value, "lines": lines}
