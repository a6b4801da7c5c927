"""What holds of every metric: it declares its numbers, computes them, selects, and is compared."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any, get_args

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from pipeline.engine.choices import list_choices
from pipeline.engine.metrics import list_numbers, load_metrics
from pipeline.metric.coco_records import coco_records
from pipeline.metric.components import curves
from pipeline.metric.measurement import merge_masks, pyramid_curves
from pipeline.metric.pointing import energy_inside, peak_distance
from pipeline.metric.pxap import histograms
from pipeline.ops.bootstrap import means
from pipeline.ops.iou import best_iou
from pipeline.protocols import Metric
from pipeline.types import (
    Boxes,
    Cut,
    EvaluationSettings,
    Evidence,
    EvidenceKind,
    GroundTruth,
    LabelScores,
    Ranking,
    Score,
)

METRICS = list_choices("metric")
SIZE = (32, 40)
COUNT = 24
CUTS = (
    Cut({"kind": "fixed", "value": 0.2}, (0.3, 0.5)),
    *(Cut({"kind": "validation", "value": 0.4, "source": "split"}, (iou,)) for iou in (0.3, 0.5)),
)
SETTINGS = EvaluationSettings(
    ious=(0.3, 0.5), threshold={"kind": "auto", "value": None}, cuts=CUTS, classes=["a", "b", "c"]
)


def boxed(rng: np.random.Generator, count: int) -> np.ndarray:
    """Boxes within the image."""
    low = rng.integers(0, 16, (count, 2))
    return np.concatenate([low, low + rng.integers(6, 16, (count, 2))], 1).astype(np.float32)


def filled(box: np.ndarray) -> dict[str, Any]:
    """A mask of a box."""
    mask = np.zeros(SIZE, np.uint8, order="F")
    x0, y0, x1, y1 = box.astype(int)
    mask[y0:y1, x0:x1] = 1
    packed = coco_mask.encode(mask)
    return {"size": list(SIZE), "counts": packed["counts"].decode()}


def evidence_of(number: int) -> Evidence:
    """An image that has everything: annotated boxes and masks, boxes found, map, classes."""
    rng = np.random.default_rng(number)
    true, label, id = boxed(rng, int(rng.integers(1, 4))), int(rng.integers(0, 3)), f"{number}.jpg"
    found = np.concatenate([true[:1] + rng.integers(0, 5), boxed(rng, 1)]).astype(np.float32)
    scores = np.array([0.9, 0.5], np.float32)
    values = np.clip(rng.random(SIZE) * 0.4 + (coco_mask.decode(filled(true[0])) > 0) * 0.6, 0, 1)
    masks = [filled(box) for box in true]
    known = GroundTruth(id, label, SIZE, true, masks=masks)
    boxes = Boxes(id, label, found, scores, SIZE, [filled(box) for box in found])
    mask, order = merge_masks(masks, [], SIZE), rng.permutation(3).tolist()
    measured = curves(values, true, SIZE)
    return Evidence(
        id=id,
        image=id,
        label=label,
        size=SIZE,
        fold=number % 2,
        true=true,
        iou=best_iou(found[0], true),
        cuts=(measured.largest[200], measured.largest[400], measured.largest[400]),
        boxes=found,
        scores=scores,
        confidence=float(rng.random()),
        alarm=float(rng.random()),
        ranking=Ranking(order, 5),
        classification=order,
        curves=measured,
        pyramid=pyramid_curves(true, SIZE, "default"),
        pointing=(peak_distance(values, true, SIZE), energy_inside(values, true, SIZE)),
        pixels=histograms(values, mask),
        pyramid_pixels=histograms(values[::-1], mask),
        guesses=[(c, found[0] if c == label else None) for c in order],
        coco=coco_records(number + 1, known, [boxes]),
        label_scores=LabelScores(
            rng.random(3).astype(np.float32), np.arange(3) == label, np.zeros(3, bool)
        ),
        is_difficult=True,
    )


@cache
def images() -> tuple[Evidence, ...]:
    return tuple(evidence_of(number) for number in range(COUNT))


def accumulated(
    name: str, settings: EvaluationSettings = SETTINGS, select: np.ndarray | None = None
) -> Metric:
    """The metric with evidence about the images, or some of them."""
    metric = load_metrics()[name].with_settings(settings)
    for number, evidence in enumerate(images()):
        if select is None or select[number]:
            metric.update(evidence)
    return metric


def by_place(scores: list[Score]) -> dict[tuple[str, float | None, str], Score]:
    places = {(s.name, s.iou, str((s.threshold or {}).get("kind", ""))): s for s in scores}
    assert len(places) == len(scores), "each number once"
    return places


def test_generated_evidence_has_everything() -> None:
    assert images()[0].kinds() == set(get_args(EvidenceKind))


@pytest.mark.parametrize("name", METRICS)
def test_it_declares_its_numbers_and_what_it_needs(name: str) -> None:
    metric = load_metrics()[name]
    assert metric.numbers
    assert metric.needs
    assert metric.needs <= set(get_args(EvidenceKind))
    assert isinstance(metric.order, int)
    for number in metric.numbers:
        assert number.name
        assert number.title
        assert number.row != ""


def test_what_the_numbers_refer_to_is_there_and_no_two_rows_are_alike() -> None:
    numbers = list_numbers(load_metrics().values())
    for number in numbers.values():
        assert set(number.beside) <= numbers.keys()
        assert {card.baseline[0] for card in number.cards if card.baseline} <= numbers.keys()
    rows = [number for number in numbers.values() if number.in_table]
    assert len({number.row or number.title for number in rows}) == len(rows)
    assert len({number.order for number in rows}) == len(rows)


@pytest.mark.parametrize("name", METRICS)
def test_it_computes_what_it_declares(name: str) -> None:
    metric = accumulated(name)
    scores = metric.compute()
    assert scores
    by_place(scores)
    declared = {number.name: number for number in metric.numbers}
    for score in scores:
        assert np.isfinite(score.value)
        assert score.n == COUNT
        assert score.label is None
        if declared[score.name].unit == "percent":
            assert 0 <= score.value <= 1
        if score.interval is not None:
            assert score.interval[0] <= score.interval[1]
    assert {score.name for score in metric.compute_classes()} <= declared.keys()
    assert all(score.label in SETTINGS.classes for score in metric.compute_classes())
    if name != "confidence":  # it says where confidences rank backwards, as these do by chance
        assert metric.notes() == []
    assert metric.compute() == scores, "computing changes nothing"
    for line in metric.curve():
        assert line["iou"] in SETTINGS.ious
        assert all(0 <= value <= 1 for point in line["points"] for value in point)


@pytest.mark.parametrize("name", METRICS)
def test_without_evidence_there_is_no_number(name: str) -> None:
    template = load_metrics()[name]
    used = template.with_settings(SETTINGS)
    for evidence in images():
        used.update(evidence)
    empty = template.with_settings(SETTINGS)
    assert type(empty) is type(template)
    assert empty.compute() == [], "accumulators share nothing"
    assert empty.compute_classes() == []
    assert list(empty.curve()) == []
    assert {len(values) for values in empty.rows().values()} <= {0}


@pytest.mark.parametrize("name", METRICS)
def test_a_selection_is_scored_as_if_nothing_else_were_there(name: str) -> None:
    select = np.arange(COUNT) % 3 > 0
    selected = accumulated(name).compute(select, "some")
    alone = accumulated(name, select=select).compute()
    assert by_place(selected).keys() == by_place(alone).keys()
    for place, score in by_place(selected).items():
        assert score.label == "some"
        assert score.n == select.sum()
        expected = by_place(alone)[place]
        assert dataclasses.replace(score, label=None) == expected
    with pytest.raises(ValueError, match=r"."):
        accumulated(name).compute(np.ones(COUNT + 1, bool))


@pytest.mark.parametrize("min_two_fold", [None, 2])
@pytest.mark.parametrize("name", METRICS)
def test_what_is_compared_is_what_is_computed(name: str, min_two_fold: int | None) -> None:
    settings = dataclasses.replace(SETTINGS, min_two_fold=min_two_fold)
    metric = accumulated(name, settings)
    rows = metric.rows()
    assert {len(values) for values in rows.values()} <= {COUNT}
    if not metric.row_names or not set(metric.row_names) <= rows.keys():
        return
    scores, declared = by_place(metric.compute()), {number.name for number in metric.numbers}
    # As another run that reads the rows of this one from its file.
    pairs = list(load_metrics()[name].with_settings(settings).pairs(rows))
    assert pairs
    for pair in pairs:
        assert pair.name in declared
        assert len(pair.rows) == COUNT
        table = np.asarray(pair.rows[:])
        value = float(pair.statistic(means(table.reshape(COUNT, -1))))
        kinds = [pair.kind] if pair.kind else ["auto", ""]
        expected = next(s for k in kinds if (s := scores.get((pair.name, pair.iou, k))))
        assert value == pytest.approx(expected.value, abs=1e-12)


def test_no_two_metrics_keep_rows_of_one_name() -> None:
    kept = [row for name in METRICS for row in accumulated(name).rows()]
    assert len(kept) == len(set(kept))
