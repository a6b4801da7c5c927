"""VOC's AP against the devkit's procedure written out, with difficult objects."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.metric.coco_records import coco_records
from pipeline.metric.voc_ap import VocAp, match
from pipeline.ops.iou import best_iou
from pipeline.types import Boxes, Crowds, EvaluationSettings, Evidence, GroundTruth, Score

SIZE = (60, 80)
CLASSES = ["a", "b", "c"]
Image = tuple[GroundTruth, list[Boxes]]


def boxed(rng: np.random.Generator, count: int) -> np.ndarray:
    low = rng.integers(0, 40, (count, 2))
    return np.concatenate([low, low + rng.integers(8, 20, (count, 2))], 1).astype(np.float32)


def image_of(number: int) -> Image:
    """An image with objects of two classes, difficult ones among them, and boxes found."""
    rng = np.random.default_rng(number)
    true, labels = boxed(rng, int(rng.integers(1, 5))), None
    labels = rng.integers(0, 2, len(true))
    hard = boxed(rng, int(rng.integers(0, 3)))
    crowds = Crowds(hard, rng.integers(0, 2, len(hard)), [None] * len(hard)) if len(hard) else None
    known = GroundTruth(str(number), int(labels[0]), SIZE, true, labels, crowds=crowds)
    found = []
    for label in range(3):
        near = np.concatenate([true[labels == label], hard, boxed(rng, 2)])
        near = near.repeat(2, 0) + rng.integers(-2, 3, (2 * len(near), 4))
        near = near[(near[:, 2:] > near[:, :2]).all(1)].clip(0, 80).astype(np.float32)
        scores = np.sort(rng.integers(0, 40, len(near)) / 40)[::-1].astype(np.float32)
        found.append(Boxes(str(number), label, rng.permutation(near), scores, SIZE))
    return known, found


def objects_of(known: GroundTruth, label: int) -> list[tuple[np.ndarray, int]]:
    """The boxes of a class, each with its number; -1: difficult."""
    assert known.classes is not None
    objects = [(box, m) for m, box in enumerate(known.boxes) if known.classes[m] == label]
    if known.crowds is not None:
        assert known.crowds.classes is not None
        pairs = zip(known.crowds.boxes, known.crowds.classes, strict=True)
        objects += [(box, -1) for box, c in pairs if c == label]
    return objects


def devkit_marks(images: list[Image], label: int) -> list[tuple[float, bool]]:
    """VOCevaldet of one class, box by box: score, and whether it is right, of those that count."""
    rows = [
        (score, n, box)
        for n, (_, found) in enumerate(images)
        for one in found
        if one.label == label
        for score, box in zip(one.scores.tolist(), one.boxes, strict=True)
    ]
    taken, marks = set(), []
    for score, n, box in sorted(rows, key=lambda row: -row[0]):
        best, at = -1.0, -1
        for true, m in objects_of(images[n][0], label):
            if (fit := best_iou(box, true[None])) > best:
                best, at = fit, m
        if best >= 0.5 and at == -1:
            continue  # difficult
        marks.append((score, best >= 0.5 and (n, at) not in taken))
        if best >= 0.5:
            taken.add((n, at))
    return marks


def devkit_ap(images: list[Image], label: int) -> tuple[float, float] | None:
    """VOCap of one class, by area and by 11 points; equal scores enter together."""
    total = sum(m >= 0 for known, _ in images for _, m in objects_of(known, label))
    if not total:
        return None
    marks, curve = devkit_marks(images, label), []
    for score in sorted({score for score, _ in marks}, reverse=True):
        kept = [is_right for value, is_right in marks if value >= score]
        curve.append((sum(kept) / len(kept), sum(kept) / total))
    area = before = 0.0
    for n, (_, recall) in enumerate(curve):
        area += (recall - before) * max(p for p, _ in curve[n:])
        before = recall
    points = [max([p for p, r in curve if r > k / 10 - 1e-9], default=0) for k in range(11)]
    return area, float(np.mean(points))


def scored(images: list[Image], select: np.ndarray | None = None) -> tuple[VocAp, list[Score]]:
    metric = VocAp().with_settings(EvaluationSettings(classes=CLASSES))
    for n, (known, found) in enumerate(images):
        records = coco_records(n + 1, known, found)
        metric.update(Evidence(id=str(n), image=str(n), coco=records))
    return metric, metric.compute(select)


def test_numbers_are_those_of_the_devkit() -> None:
    images = [image_of(n) for n in range(40)]
    assert any(known.crowds is not None for known, _ in images)
    each = [devkit_ap(images, label) for label in range(3)]
    assert each[2] is None, "no object of c: it is not in the mean"
    kept = [one for one in each if one is not None]
    metric, (area, points) = scored(images)
    assert 0.1 < area.value < 0.9, "or nothing is compared"
    assert (area.value, points.value) == pytest.approx(np.mean(kept, 0), abs=1e-12)
    assert (area.name, area.iou, area.n) == ("voc_ap", 0.5, 40)
    of_class = {(one.name, one.label): one.value for one in metric.compute_classes()}
    for label, name in enumerate("ab"):
        both = of_class["voc_ap", name], of_class["voc_ap_11", name]
        assert both == pytest.approx(each[label], abs=1e-12)
    half = np.arange(40) < 20
    _, (area, _) = scored(images, half)
    expected = [devkit_ap(images[:20], label) for label in range(2)]
    assert area.value == pytest.approx(np.mean([one[0] for one in expected if one]), abs=1e-12)


def test_a_difficult_object_is_neither_found_nor_missed() -> None:
    true = np.array([[0, 0, 10, 10], [20, 20, 30, 30]], np.float32)
    found = np.array([[20, 20, 30, 30], [20, 20, 30, 29], [0, 0, 10, 10], [0, 0, 10, 9]])
    is_right, counts = match(found, true, np.array([False, True]))
    assert is_right.tolist() == [False, False, True, False], "the last one comes second"
    assert counts.tolist() == [False, False, True, True]
    is_right, counts = match(found, true[:0], np.zeros(0, bool))
    assert not is_right.any()
    assert counts.all()
    assert match(found[:0], true, np.array([False, True]))[0].tolist() == []


def test_an_iou_of_half_is_enough() -> None:
    """As the devkit says, where CorLoc wants more."""
    true = np.array([[0, 0, 10, 10]], np.float32)
    assert match(np.array([[0, 0, 10, 5]]), true, np.array([False]))[0].tolist() == [True]
    assert match(np.array([[0, 0, 10, 4.9]]), true, np.array([False]))[0].tolist() == [False]
