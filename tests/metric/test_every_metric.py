"""What holds of every metric: numbers that it names, nothing of nothing, a comparison that fits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipeline.engine.metrics import list_numbers, load_metrics
from pipeline.metric.coco_records import coco_records
from pipeline.metric.measurement import pyramid_curves
from pipeline.ops.rle import encode_rle
from pipeline.stages.evaluate.maps import MapScale, list_cuts
from pipeline.stages.evaluate.own_run import box_evidence, map_evidence
from pipeline.types import (
    Boxes,
    EvaluationSettings,
    Evidence,
    GroundTruth,
    Ranking,
    Score,
)

METRICS = load_metrics()
IOUS = (0.3, 0.5, 0.7)
VALIDATION = {"source": "held_back", "thresholds": {f"{iou:g}": [0.4] for iou in IOUS}}
CUTS = tuple(list_cuts("fixed", IOUS, VALIDATION))
SETTINGS = EvaluationSettings(
    ious=IOUS, threshold={"kind": "fixed", "value": 0.2}, cuts=CUTS, min_two_fold=4,
    classes=("robin", "wren"), category_ids=(1, 2),
)  # fmt: skip
SIZE = (40, 60)


def evidence_of(number: int) -> Evidence:
    """All that can be known of an image: boxes and map are now and then beside the object."""
    rng = np.random.default_rng(number)
    x, y = (int(value) for value in rng.integers(2, 14, 2))
    true = np.array([[x, y, x + 24, y + 18]], np.float32)
    mask = np.zeros(SIZE, np.uint8)
    mask[y : y + 18, x : x + 24] = 1
    label = number % 2
    known = GroundTruth(str(number), label, SIZE, true, masks=[encode_rle(mask, SIZE)])
    shift = [0, 5, 12][number % 3]
    corners = np.array([[x + shift, y, x + 24 + shift, y + 18], [0, 0, 8, 8]], np.float32)
    found = Boxes(str(number), label, corners, np.array([0.9, 0.4], np.float32), SIZE,
                  [encode_rle(mask, SIZE)] * 2)  # fmt: skip
    values = np.zeros(SIZE, np.float32)
    values[y : y + 18, x + shift : x + 24 + shift] = 1
    values += 0.3 * rng.random(SIZE, np.float32)
    top = [label, 1 - label] if number % 4 else [1 - label, label]
    return Evidence(
        id=str(number), image=str(number), label=label, size=SIZE, fold=number % 2, true=true,
        ranking=Ranking(top, 5), classification=top,
        guesses=[(place, corners[0]) for place in top],
        coco=coco_records(number + 1, known, [found]),
        **box_evidence(found, true),
        **map_evidence(values / values.max(), known, MapScale("default", CUTS)),
    )  # fmt: skip


EVIDENCE = [evidence_of(number) for number in range(8)]


def filled(name: str, evidence: list[Evidence] = EVIDENCE) -> Any:
    metric = METRICS[name].with_settings(SETTINGS)
    for item in evidence:
        metric.update(item)
    return metric


def test_evidence_holds_all_kinds() -> None:
    kinds = {kind for metric in METRICS.values() for kind in metric.needs}
    assert kinds <= EVIDENCE[0].kinds()
    assert np.array_equal(EVIDENCE[0].pyramid.largest,
                          pyramid_curves(EVIDENCE[0].true, SIZE, "default").largest)  # fmt: skip


def test_metrics_say_the_same_of_a_number_that_they_share() -> None:
    numbers = list_numbers(METRICS.values())
    assert all(number.name == name and number.title for name, number in numbers.items())
    assert {other for number in numbers.values() for other in number.beside} <= {*numbers}


@pytest.mark.parametrize("name", METRICS)
def test_numbers_are_those_that_it_names(name: str) -> None:
    metric = filled(name)
    numbers = {number.name: number for number in metric.numbers}
    scores: list[Score] = metric.compute()
    assert scores
    assert numbers
    for score in [*scores, *metric.compute_classes()]:
        assert score.name in numbers
        assert np.isfinite(score.value)
        assert 0 < score.n <= len(EVIDENCE)
        if numbers[score.name].unit == "percent":
            assert 0 <= score.value <= 1
        if score.interval is not None:
            assert score.interval[0] <= score.interval[1]
    places = [(s.name, s.iou, (s.threshold or {}).get("kind")) for s in scores]
    assert len(set(places)) == len(places), "a number twice"


@pytest.mark.parametrize("name", METRICS)
def test_without_evidence_there_is_no_number(name: str) -> None:
    metric = filled(name, [])
    assert metric.compute() == []
    assert metric.compute_classes() == []
    assert not metric.curve()


@pytest.mark.parametrize("name", METRICS)
def test_settings_give_an_accumulator_of_its_own(name: str) -> None:
    first = filled(name)
    second = METRICS[name].with_settings(SETTINGS)
    assert type(second) is type(METRICS[name])
    assert second.compute() == [], "evidence of another accumulator"
    assert METRICS[name].with_settings(SETTINGS) is not second
    assert filled(name).compute() == first.compute()
    assert first.compute() == first.compute(), "computing changes nothing"


@pytest.mark.parametrize("name", METRICS)
def test_selected_evidence_is_as_if_it_were_alone(name: str) -> None:
    """Values alone: where a threshold is chosen on all images, a selection has its own."""
    metric = filled(name)
    whole = metric.compute(np.ones(len(EVIDENCE), bool), "all of them")
    assert [(s.name, s.value, s.n, s.iou) for s in whole] == [
        (s.name, s.value, s.n, s.iou) for s in metric.compute()
    ]
    assert {s.label for s in whole} == {"all of them"}
    select = np.arange(len(EVIDENCE)) < 5
    part = metric.compute(select, "some")
    assert {score.n for score in part} <= {*range(1, 6)}
    alone = {place(s): s.value for s in filled(name, EVIDENCE[:5]).compute()}
    compared = [(s.value, alone[place(s)]) for s in part if place(s) in alone]
    assert compared
    for value, expected in compared:
        assert value == pytest.approx(expected)


def place(score: Score) -> tuple[Any, ...]:
    return score.name, score.iou, (score.threshold or {}).get("kind")


@pytest.mark.parametrize("name", METRICS)
def test_what_is_compared_is_what_was_computed(name: str) -> None:
    """The statistic of the mean row is the number that the metric computes."""
    metric = filled(name)
    rows = metric.rows()
    assert set(metric.row_names) <= set(rows)
    assert all(len(values) == len(EVIDENCE) for values in rows.values())
    if not metric.row_names:
        return
    computed = {(s.name, s.iou, (s.threshold or {}).get("kind") or ""): s for s in metric.compute()}
    pairs = list(METRICS[name].with_settings(SETTINGS).pairs(rows))
    assert pairs, "rows, and nothing to compare"
    for pair in pairs:
        kind = pair.kind or pair.threshold
        assert pair.name in {number.name for number in metric.numbers}
        assert len(pair.rows) == len(EVIDENCE)
        means = np.asarray(pair.rows[:], float).reshape(len(EVIDENCE), -1).mean(0)
        value = float(pair.statistic(means))
        assert np.isfinite(value)
        if (pair.name, pair.iou, kind) in computed:
            assert value == pytest.approx(computed[pair.name, pair.iou, kind].value)


@pytest.mark.parametrize("name", METRICS)
def test_lines_over_the_threshold(name: str) -> None:
    metric = filled(name)
    for line in metric.curve():
        assert {"iou", "points"} <= {*line}
        assert len(line["points"]) > 1
    assert all(isinstance(note, str) for note in metric.notes())
