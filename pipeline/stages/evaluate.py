"""Evaluate: boxes and maps against annotations, classification against labels.

    metrics.json  every number with what it stands on      table.json, table.txt  the main ones
    images.json   each image's boxes and IoU                curve.json  accuracy over the threshold

Scored is the split `val` alone, whatever was explained; images that were set aside, and those with
no box of their own class, are left out and counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import runtime, shards, store
from pipeline.metric.baselines import Baselines, pyramid
from pipeline.metric.classification import Classification
from pipeline.metric.components import THRESHOLDS, Curves, curves
from pipeline.metric.gt_known import Localization
from pipeline.metric.iou import best_iou
from pipeline.metric.max_box_acc import MaxBoxAcc, MaxBoxAccV2
from pipeline.records import Boxes, GroundTruth, Problem, SaliencyMap, Score
from pipeline.run import Run
from pipeline.segmenter.frame import frame_size, upsampled
from pipeline.stages import explain, localize


def made_of(run: Run) -> dict[str, Any]:
    return {
        "source": run.sources("evaluate", "data"),
        "localize": run.key("localize"),
        "explain": run.key("explain"),
        "truth": run.data.truth_fingerprint("val"),
        "evaluate": run.config["evaluate"],
        "seed": run.config["seed"],
    }


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


class Evaluation:
    """All accumulators of one method; each gets every scored image in the same order."""

    def __init__(self, ious: Sequence[float], stands_on: Mapping[str, Any], seed: int) -> None:
        self.ious = tuple(ious)
        self.fixed = Localization(ious, stands_on, seed)
        self.oracles = [kind(ious, seed) for kind in (GtKnownOracle, Top1Oracle, Top5Oracle)]
        self.map_metrics = [MaxBoxAcc((0.5,), seed), MaxBoxAccV2(seed=seed)]
        self.boxes_that_know_nothing = Baselines(ious, seed)
        self.pyramid = PyramidOracle(seed=seed)
        self.classification = Classification(seed=seed)
        self.labels: list[int] = []  # of the localized images
        self.class_labels: list[int] = []  # of all classified ones
        self.images: list[dict[str, Any]] = []

    def add(
        self,
        truth: GroundTruth,
        boxes: Boxes | None,
        found: Curves,
        top: Sequence[int],
    ) -> float:
        true = truth.of_label()
        best = None if boxes is None or not len(boxes.boxes) else boxes.boxes[0]
        iou = best_iou(best, true)
        self.labels.append(truth.label)
        self.fixed.add(truth.label, iou, top)
        for k, oracle in zip((None, 1, 5), self.oracles, strict=True):
            oracle.add(found if k is None or truth.label in top[:k] else NOWHERE)
        for metric in self.map_metrics:
            metric.add(found)
        self.boxes_that_know_nothing.add(true, truth.size)
        frame = frame_size(truth.size, 64)  # a pyramid has no detail
        self.pyramid.add(curves(pyramid(frame), true, truth.size))
        return iou

    def classified(self, label: int, top: Sequence[int]) -> None:
        self.class_labels.append(label)
        self.classification.add(label, top)

    def scores(self, classes: Sequence[str], method: str) -> list[Score]:
        """The headline first, then each class."""
        found = [*self._over(None, None, None)]
        labels, seen = np.array(self.labels, int), np.array(self.class_labels, int)
        for n, name in enumerate(classes):
            found += self._over(labels == n, seen == n, name)
        return [replace(score, method=method) for score in found]

    def _over(
        self, located: np.ndarray | None, seen: np.ndarray | None, name: str | None
    ) -> Iterator[Score]:
        if seen is None or seen.any():
            yield from self.classification.compute(seen, name)
        if not self.labels or (located is not None and not located.any()):
            return
        yield from self.fixed.compute(located, name)
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
    found_boxes = _own_class(localize.boxes_of(cut, ids), labels)
    found_maps = ((p, s) for shard in shards.written(maps) for p, s in explain.maps_in(shard, ids))

    def measure(item: tuple[int, SaliencyMap]) -> tuple[int, SaliencyMap, Curves | None]:
        position, saliency = item
        known = truth.get(saliency.id)
        if known is None or saliency.explained != labels[position]:
            return position, saliency, None
        check_sizes(known, saliency)
        scaled = upsampled(saliency.raw(), frame_size(saliency.size))
        return position, saliency, curves(scaled, known.of_label(), saliency.size)

    with runtime.progress("evaluate", len(truth)) as advance:
        for position, saliency, found in runtime.stream(measure, found_maps, run.workers):
            if saliency.explained != labels[position] and labels[position] >= 0:
                continue
            if saliency.id not in scored:
                continue
            boxes = found_boxes.get(position)
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


def _own_class(found: Iterable[tuple[int, Boxes]], labels: np.ndarray) -> dict[int, Boxes]:
    """Boxes of each image's true class, or of the only one that an unlabelled image has."""
    own: dict[int, Boxes] = {}
    for position, boxes in found:
        if labels[position] < 0 or boxes.label == labels[position]:
            own.setdefault(position, boxes)
    return own


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


def table_of(scores: Sequence[Score], classes: Sequence[str]) -> dict[str, Any]:
    """The main numbers in percent, a row each, a column for each IoU."""
    headline = [score for score in scores if score.label is None]
    ious = sorted({s.iou for s in headline if s.iou is not None and s.name == "gt_known_loc"})
    rows: list[dict[str, Any]] = []
    for name, title in ROWS.items():
        kinds = dict.fromkeys(_kind(s) for s in headline if s.name == name and s.iou is not None)
        for kind in kinds:
            own = {s.iou: s for s in headline if s.name == name and _kind(s) == kind}
            cells = [_cell(own.get(iou), kind == "oracle") for iou in ious]
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
    head = ["percent", *(f"IoU {iou:g}" for iou in ious), "mean"]
    return {"head": head, "rows": rows, "cards": _cards(headline),
            "classes": _per_class(scores, classes)}  # fmt: skip


def _kind(score: Score) -> str:
    return "" if score.threshold is None else str(score.threshold["kind"])


def _named(own: Mapping[float | None, Score], kind: str) -> str:
    if not kind:
        return ""
    values = {s.threshold["value"] for s in own.values() if s.threshold is not None}
    return f" ({kind} {values.pop():g})" if kind != "oracle" and len(values) == 1 else f" ({kind})"


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
    return f"{100 * score.value:.1f}{at}"


def _cards(headline: Sequence[Score]) -> list[dict[str, str]]:
    wanted = {
        ("gt_known_loc", 0.5, "fixed"): "GT-known Loc, IoU 0.5, fixed threshold",
        ("gt_known_loc", 0.5, "oracle"): "GT-known Loc, IoU 0.5, oracle",
        ("max_box_acc_v2", None, "oracle"): "MaxBoxAccV2, oracle",
        ("classification_top1", None, ""): "classification, top-1",
    }
    found = {(s.name, s.iou, _kind(s)): s for s in headline}
    cards = []
    for place, name in wanted.items():
        if place in found:
            score = found[place]
            low, high = score.interval or (score.value, score.value)
            spread = f"95 %: {100 * low:.1f} to {100 * high:.1f}, n {score.n}"
            cards.append({"value": f"{100 * score.value:.1f} %", "name": f"{name} ({spread})"})
    return cards


def _per_class(scores: Sequence[Score], classes: Sequence[str]) -> dict[str, Any] | None:
    columns = {
        "GT-known @0.5": ("gt_known_loc", 0.5, "fixed"),
        "oracle": ("gt_known_loc", 0.5, "oracle"),
        "MaxBoxAccV2": ("max_box_acc_v2", None, "oracle"),
        "top-1": ("classification_top1", None, ""),
    }
    found = {(s.label, s.name, s.iou, _kind(s)): s for s in scores if s.label is not None}
    rows = []
    for name in classes:
        own = [found.get((name, *place)) for place in columns.values()]
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
