"""Evaluate: boxes and maps against annotations, classification against labels.

    metrics.json  every number with what it stands on      table.json, table.txt  the main ones
    images.json   each image's boxes and IoU                curve.json  accuracy over the threshold

Scored is the split `val` alone, whatever was explained; images that were set aside, and those with
no box of their own class, are left out and counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import runtime, shards, store
from pipeline.metric.baselines import Baselines, pyramid
from pipeline.metric.box_counts import BoxCounts
from pipeline.metric.classification import Classification
from pipeline.metric.components import THRESHOLDS, Curves, curves
from pipeline.metric.groups import NUMBERS, SIZES, number_group, size_group, subsets
from pipeline.metric.gt_known import Localization
from pipeline.metric.iou import best_iou
from pipeline.metric.max_box_acc import MaxBoxAcc, MaxBoxAccV2
from pipeline.metric.pointing import Pointing, energy_inside, pointing_hit
from pipeline.records import Boxes, GroundTruth, Problem, SaliencyMap, Score, Size
from pipeline.run import Run
from pipeline.segmenter.frame import frame_size, upsampled
from pipeline.stages import calibrate, explain, localize


def made_of(run: Run) -> dict[str, Any]:
    return {
        "source": run.sources("evaluate", "data"),
        "localize": run.key("localize"),
        "explain": run.key("explain"),
        "calibrate": run.key("calibrate") if "calibrate" in run.config["stages"] else None,
        "truth": run.data.truth_fingerprint("val"),
        "evaluate": run.config["evaluate"],
        "seed": run.config["seed"],
    }


def check(run: Run) -> None:
    """Raises Problem for annotations that cannot be read, before anything is computed."""
    run.data.truth("val")


class GtKnownOracle(MaxBoxAcc):
    """GT-known Loc at the best threshold for the scored images."""

    name = "gt_known_loc"


class Top1Oracle(GtKnownOracle):
    name = "top1_loc"


class Top5Oracle(GtKnownOracle):
    name = "top5_loc"


class PyramidOracle(MaxBoxAccV2):
    name = "pyramid_max_box_acc_v2"


NOWHERE = Curves(
    np.zeros(len(THRESHOLDS)), np.zeros(len(THRESHOLDS)), np.zeros((len(THRESHOLDS), 4), np.float32)
)


@dataclass(frozen=True)
class Measured:
    """What a map is worth against the boxes of its image."""

    curves: Curves
    hit: bool  # of the pointing game
    energy: float

    @classmethod
    def of(cls, scaled: np.ndarray, true: np.ndarray, size: Size) -> Measured:
        return cls(
            curves(scaled, true, size),
            pointing_hit(scaled, true, size) if len(true) else False,
            energy_inside(scaled, true, size) if len(true) else 0.0,
        )


class Evaluation:
    """All accumulators of one method; each gets every scored image in the same order."""

    def __init__(self, ious: Sequence[float], stands_on: Mapping[str, Any], seed: int) -> None:
        self.ious = tuple(ious)
        self.fixed = Localization(ious, stands_on, seed)
        # At each IoU its own threshold, or one for each half of the images.
        self.validation: dict[float, Localization] = {}
        self.thresholds: Mapping[str, Sequence[float]] = {}
        self.oracles = [kind(ious, seed) for kind in (GtKnownOracle, Top1Oracle, Top5Oracle)]
        self.map_metrics = [MaxBoxAcc((0.5,), seed), MaxBoxAccV2(seed=seed)]
        self.boxes_that_know_nothing = Baselines(ious, seed)
        self.pyramid = PyramidOracle(seed=seed)
        self.counts = BoxCounts(ious, stands_on, seed)
        self.pointing = Pointing(seed=seed)
        self.classification = Classification(seed=seed)
        self.labels: list[int] = []  # of the localized images
        self.sizes: list[str] = []  # their groups by size of the object
        self.numbers: list[str] = []  # and by number of objects
        self.class_labels: list[int] = []  # of all classified ones
        self.images: list[dict[str, Any]] = []

    def add(
        self,
        truth: GroundTruth,
        boxes: Boxes | None,
        measured: Measured,
        top: Sequence[int],
    ) -> float:
        true, found = truth.of_label(), measured.curves
        best = None if boxes is None or not len(boxes.boxes) else boxes.boxes[0]
        iou = best_iou(best, true)
        self.labels.append(truth.label)
        self.sizes.append(size_group(true, truth.size))
        self.numbers.append(number_group(true))
        self.counts.add(
            np.zeros((0, 4), np.float32) if boxes is None else boxes.boxes,
            np.zeros(0, np.float32) if boxes is None else boxes.scores,
            true,
        )
        self.pointing.append(measured.hit, measured.energy)
        self.fixed.add(truth.label, iou, top)
        for delta, validation in self.validation.items():
            values = self.thresholds[f"{delta:g}"]
            value = values[calibrate.fold_of(truth.id) if len(values) > 1 else 0]
            at = int(np.searchsorted(THRESHOLDS, value - 1e-9))
            validation.add(truth.label, float(found.largest[at]), top)
        for k, oracle in zip((None, 1, 5), self.oracles, strict=True):
            oracle.add(found if k is None or truth.label in top[:k] else NOWHERE)
        for metric in self.map_metrics:
            metric.add(found)
        self.boxes_that_know_nothing.add(true, truth.size)
        frame = frame_size(truth.size, 64)  # a pyramid has no detail
        self.pyramid.add(curves(pyramid(frame), true, truth.size))
        return iou

    def calibrated(self, thresholds: Mapping[str, Sequence[float]], source: str, seed: int) -> None:
        """Score at thresholds that stage calibrate chose on other images, too."""
        self.thresholds = thresholds
        for iou in self.ious:
            values = thresholds[f"{iou:g}"]
            value = values[0] if len(values) == 1 else list(values)
            stands_on = {"kind": "validation", "value": value, "source": source}
            self.validation[iou] = Localization([iou], stands_on, seed)

    def classified(self, label: int, top: Sequence[int]) -> None:
        self.class_labels.append(label)
        self.classification.add(label, top)

    def scores(self, classes: Sequence[str], method: str) -> list[Score]:
        """The headline first, then each class."""
        found = [*self._over(None, None, None)]
        labels, seen = np.array(self.labels, int), np.array(self.class_labels, int)
        for n, name in enumerate(classes):
            found += self._over(labels == n, seen == n, name)
        nobody = np.zeros(len(seen), bool)
        for group, own, every in (("size", self.sizes, SIZES), ("number", self.numbers, NUMBERS)):
            for name, select in subsets(own, every).items():
                found += self._over(select, nobody, f"{group}: {name}")
        return [replace(score, method=method) for score in found]

    def _over(
        self, located: np.ndarray | None, seen: np.ndarray | None, name: str | None
    ) -> Iterator[Score]:
        if seen is None or seen.any():
            yield from self.classification.compute(seen, name)
        if not self.labels or (located is not None and not located.any()):
            return
        yield from self.fixed.compute(located, name)
        for validation in self.validation.values():
            found = validation.compute(located, name)
            yield from (s for s in found if s.name in ("gt_known_loc", "top1_loc", "top5_loc"))
        yield from self.counts.compute(located, name)
        yield from self.pointing.compute(located, name)
        for oracle in self.oracles:
            # The mean over IoUs belongs to V2 alone.
            yield from (s for s in oracle.compute(located, name) if s.iou is not None)
        for metric in self.map_metrics:
            yield from metric.compute(located, name)
        yield from self.boxes_that_know_nothing.compute(located, name)
        yield from self.pyramid.compute(located, name)


def make(run: Run, folder: Path) -> None:
    maps, cut = run.folder("explain"), run.folder("localize")
    truth = run.data.truth("val")
    evaluation = Evaluation(
        run.config["evaluate"]["ious"], run.segmenter().stands_on, run.config["seed"]
    )
    if "calibrate" in run.config["stages"]:
        picked = calibrate.read(run.folder("calibrate"))
        if picked["source"] is not None:
            evaluation.calibrated(picked["thresholds"], picked["source"], run.config["seed"])
        # What somebody drew to choose the threshold is not scored with it.
        truth = {id: one for id, one in truth.items() if id not in set(picked["images"])}
    notes = _score(run, maps, cut, truth, evaluation)
    scores = evaluation.scores(run.classes, run.method)
    store.write_json(folder / "metrics.json", [score.record() for score in scores], indent=1)
    store.write_json(folder / "images.json", evaluation.images)
    store.write_json(folder / "curve.json", _curve(evaluation))
    store.write_json(folder / "notes.json", [*run.data.truth_notes(), *notes])
    table = table_of(scores, run.classes)
    store.write_json(folder / "table.json", table)
    store.write_text(folder / "table.txt", text_of(run.method, table) if table["rows"] else "")


def _score(
    run: Run,
    maps: Path,
    cut: Path,
    truth: Mapping[str, GroundTruth],
    evaluation: Evaluation,
) -> list[str]:
    ids = run.data.ids(run.split)
    labels = run.data.labels(run.split)
    scored = set(run.data.ids("val"))
    seen = explain.classification(maps)
    top = dict(zip(seen.image.tolist(), seen.top.tolist(), strict=True))
    for position, classes in top.items():
        if labels[position] >= 0 and ids[position] in scored:
            evaluation.classified(int(labels[position]), classes)

    missing: list[str] = []
    other_class: list[str] = []
    found_boxes = {(p, boxes.label): boxes for p, boxes in localize.boxes_of(cut, ids)}
    found_maps = ((p, s) for shard in shards.written(maps) for p, s in explain.maps_in(shard, ids))

    def measure(item: tuple[int, SaliencyMap]) -> tuple[int, SaliencyMap, Measured | None]:
        position, saliency = item
        known = truth.get(saliency.id)
        if known is None or saliency.explained != labels[position]:
            return position, saliency, None
        check_sizes(known, saliency)
        scaled = upsampled(saliency.raw(), frame_size(saliency.size))
        return position, saliency, Measured.of(scaled, known.of_label(), saliency.size)

    with runtime.progress("evaluate", len(truth)) as advance:
        for position, saliency, found in runtime.stream(measure, found_maps, run.workers):
            if saliency.explained != labels[position] and labels[position] >= 0:
                continue
            if saliency.id not in scored:
                continue
            boxes = found_boxes.get((position, saliency.explained))
            known, iou = truth.get(saliency.id), None
            if known is None:
                missing.append(saliency.id)
            elif not len(known.of_label()):
                other_class.append(saliency.id)
            elif found is not None:
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
    if truth and not evaluation.labels:
        notes.append("no image could be scored: explain.target=true gives maps of the true class")
    return notes


def check_sizes(known: GroundTruth, saliency: SaliencyMap) -> None:
    """Raises Problem where annotations and image are not of one size."""
    if known.size != saliency.size:
        (h, w), (height, width) = known.size, saliency.size
        raise Problem(
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
    if not evaluation.labels:
        return {"fixed": None, "lines": []}
    n = len(evaluation.labels)
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
    fixed = (evaluation.fixed.threshold or {}).get("value")
    return {"fixed": fixed, "lines": lines}


# -- tables --------------------------------------------------------------------------------------

ROWS = {
    "gt_known_loc": "GT-known Loc",
    "top1_loc": "Top-1 Loc",
    "top5_loc": "Top-5 Loc",
    "corloc": "CorLoc",
    "full_image_loc": "full image",
    "centre_box_loc": "best centre box",
}
BASELINES = ("full_image_loc", "centre_box_loc", "pyramid_max_box_acc_v2")
CHOSEN = ("validation", "oracle")  # thresholds that differ from number to number
FAR_BEHIND = 0.05  # of the oracle: then the threshold is worth a word


def table_of(scores: Sequence[Score], classes: Sequence[str]) -> dict[str, Any]:
    """The main numbers in percent, a row each, a column for each IoU."""
    # Among five classes the true one is always within the first five.
    headline = [s for s in scores if s.label is None and (len(classes) > 5 or "top5" not in s.name)]
    ious = sorted({s.iou for s in headline if s.iou is not None and s.name == "gt_known_loc"})
    rows: list[dict[str, Any]] = []
    for name, title in ROWS.items():
        kinds = dict.fromkeys(_kind(s) for s in headline if s.name == name and s.iou is not None)
        for kind in kinds:
            own = {s.iou: s for s in headline if s.name == name and _kind(s) == kind}
            cells = [_cell(own.get(iou), kind in CHOSEN) for iou in ious]
            rows.append({"cells": [f"{title}{_named(own, kind)}", *cells, ""],
                         "baseline": name in BASELINES})  # fmt: skip
    for name, title in (("max_box_acc_v2", "MaxBoxAccV2 (oracle)"),
                        ("pyramid_max_box_acc_v2", "centred pyramid, V2 (oracle)")):  # fmt: skip
        own = {s.iou: s for s in headline if s.name == name}
        if own:
            cells = [_cell(own.get(iou), True) for iou in ious]
            rows.append({"cells": [title, *cells, _cell(own.get(None), False)],
                         "baseline": name in BASELINES})  # fmt: skip
    for k in (1, 5):
        own = {s.iou: s for s in headline if s.name == f"classification_top{k}"}
        if own:
            cells = [f"classification, top-{k}", *[""] * len(ious), _cell(own[None], False)]
            rows.append({"cells": cells, "baseline": False})
    head = ["percent", *(f"IoU {iou:g}" for iou in ious), "mean" if ious else "all images"]
    return {"head": head, "rows": rows, "cards": _cards(headline), "advice": _advice(headline),
            "classes": _per_class(scores, classes)}  # fmt: skip


Place = tuple[str, float | None, str]  # name, IoU, and whether at the boxes' own threshold


def _place(score: Score) -> Place:
    return score.name, score.iou, _kind(score) if _kind(score) in CHOSEN else "own"


def _kind(score: Score) -> str:
    return "" if score.threshold is None else str(score.threshold["kind"])


def _named(own: Mapping[float | None, Score], kind: str) -> str:
    told = [kind]
    if kind not in CHOSEN:
        values = dict.fromkeys(s.threshold["value"] for s in own.values() if s.threshold)
        told += [f"{value:g}" for value in values if value is not None]
    return kind and f" ({' '.join(told)})"


def percent(value: float) -> str:
    """Equal shares are written alike, however they were added up."""
    return f"{round(100 * value, 9):.1f}"


def _cell(score: Score | None, with_threshold: bool) -> str:
    if score is None:
        return ""
    at = ""
    if (
        with_threshold
        and score.threshold is not None
        and not isinstance(score.threshold["value"], list)
    ):
        at = f" @{score.threshold['value']:.2f}"
    return f"{percent(score.value)}{at}"


CARDS: dict[Place, tuple[str, str, Place | None]] = {
    ("gt_known_loc", 0.5, "own"): (
        "GT-known Loc", "full image", ("full_image_loc", 0.5, "own")),
    ("gt_known_loc", 0.5, "validation"): (
        "GT-known Loc", "full image", ("full_image_loc", 0.5, "own")),
    ("gt_known_loc", 0.5, "oracle"): (
        "GT-known Loc", "best centre box", ("centre_box_loc", 0.5, "oracle")),
    ("max_box_acc_v2", None, "oracle"): (
        "MaxBoxAccV2", "centred pyramid", ("pyramid_max_box_acc_v2", None, "oracle")),
    ("top1_loc", 0.5, "own"): ("Top-1 Loc", "", None),
    ("classification_top1", None, "own"): ("classification, top-1", "", None),
}  # fmt: skip


def _cards(headline: Sequence[Score]) -> list[dict[str, Any]]:
    """The few numbers to look at first, each beside what knows nothing of the image."""
    found = {_place(s): s for s in headline}
    return [
        {
            "title": title,
            "at": _stands_on(found[place]),
            "number": found[place].value,
            "value": _cell(found[place], False),
            "threshold": _cell(found[place], place[2] in CHOSEN).partition(" ")[2],
            "spread": _spread(found[place]),
            "n": found[place].n,
            "of_boxes": not place[0].startswith("classification"),
            "baseline": [baseline, percent(found[beside].value)] if beside in found else None,
        }
        for place, (title, baseline, beside) in CARDS.items()
        if place in found
    ]


def _stands_on(score: Score) -> str:
    at = "" if score.iou is None else f"IoU {score.iou:g}"
    return ", ".join(filter(None, [at, _named({score.iou: score}, _kind(score)).strip(" ()")]))


def _spread(score: Score) -> str:
    """The 95 % interval in words. Where all images agree the bootstrap has no width, which would be
    read as certainty: there it is Wilson's bound (JASA 1927), n / (n + z^2) for a share of 1."""
    if score.value in (0, 1):
        bound = score.n / (score.n + 1.96**2)
        return (f"at least {percent(bound)} (Wilson)" if score.value else
                f"at most {percent(1 - bound)} (Wilson)")  # fmt: skip
    if score.interval is None:
        return ""
    return f"{percent(score.interval[0])} to {percent(score.interval[1])}"


def _advice(headline: Sequence[Score]) -> str | None:
    found = {s.threshold["kind"]: s for s in headline
             if s.name == "gt_known_loc" and s.iou == 0.5 and s.threshold}  # fmt: skip
    if not {"fixed", "oracle"} <= set(found):
        return None
    reached = {kind: percent(s.value) for kind, s in found.items()}
    at = {kind: s.threshold["value"] for kind, s in found.items() if s.threshold}
    if found["oracle"].value - found["fixed"].value < FAR_BEHIND:
        return None
    advice = (
        f"At IoU 0.5 the curve prefers a threshold of {at['oracle']:.2f} ({reached['oracle']} %) "
        f"to the fixed {at['fixed']:g} ({reached['fixed']} %); it was chosen on the very images "
        "that are scored, so what it reaches here is optimistic"
    )
    if "validation" in found and not isinstance(at["validation"], list):
        return (f"{advice}. One chosen on other images, segmenter.threshold={at['validation']:g}, "
                f"reaches {reached['validation']} %.")  # fmt: skip
    if "validation" in found:
        advice += f" (chosen on one half, used on the other: {reached['validation']} %)"
    return f"{advice}. segmenter.threshold={at['oracle']:.2f} would use it."


def _per_class(scores: Sequence[Score], classes: Sequence[str]) -> dict[str, Any] | None:
    columns: dict[str, Place] = {
        "GT-known @0.5": ("gt_known_loc", 0.5, "own"),
        "validation": ("gt_known_loc", 0.5, "validation"),
        "oracle": ("gt_known_loc", 0.5, "oracle"),
        "MaxBoxAccV2": ("max_box_acc_v2", None, "oracle"),
        "top-1": ("classification_top1", None, "own"),
    }
    found = {(s.label, _place(s)): s for s in scores if s.label is not None}
    there = {place for _, place in found}
    columns = {title: place for title, place in columns.items() if place in there}
    rows = []
    for name in classes:
        own = [found.get((name, place)) for place in columns.values()]
        counted = next((s.n for s in own if s is not None), 0)
        rows.append([name, str(counted), *(_cell(s, False) for s in own)])
    return {"head": ["class", "n", *columns], "rows": rows} if found else None


def text_of(method: str, table: Mapping[str, Any]) -> str:
    """The table as a terminal shows it."""
    lines = [[f"{method}, {table['head'][0]}", *table["head"][1:]]]
    lines += [row["cells"] for row in table["rows"]]
    widths = [max(len(line[n]) for line in lines) for n in range(len(lines[0]))]
    text = [
        "  ".join([line[0].ljust(widths[0]),
                   *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))]).rstrip()
        for line in lines
    ]  # fmt: skip
    text.insert(1, "-" * max(map(len, text)))
    return "\n".join(text) + "\n"
