import numpy as np
import pytest

from pipeline.metric.components import THRESHOLDS, Curves
from pipeline.metric.max_box_acc import (
    MaxBoxAcc,
    MaxBoxAccV2,
    best_threshold,
    map_curves,
    max_box_acc,
    steady_threshold,
)

from . import reference


def curve(low: int, high: int, value: float) -> np.ndarray:
    """An IoU that holds at the thresholds low..high - 1."""
    found = np.zeros(1000)
    found[low:high] = value
    return found


def both(largest: np.ndarray, any_: np.ndarray | None = None) -> Curves:
    return Curves(largest, largest if any_ is None else any_, np.zeros((1000, 4), np.float32))


def test_best_threshold_is_that_of_the_set() -> None:
    metric = MaxBoxAcc()
    for low, high in ((0, 400), (300, 500), (350, 600), (700, 800)):
        metric.add(both(curve(low, high, 0.5)))
    (score,) = metric.compute()
    assert score.name == "max_box_acc"
    assert score.value == 0.75
    assert score.n == 4
    assert score.threshold == {"kind": "oracle", "value": THRESHOLDS[374]}  # amid 350..399
    assert score.iou == 0.5
    assert score.interval is not None
    assert score.interval[0] <= 0.75 <= score.interval[1]


def test_second_version_takes_the_best_threshold_of_each_iou() -> None:
    metric = MaxBoxAccV2()
    nothing = np.zeros(1000)
    metric.add(both(nothing, curve(0, 10, 0.7)))
    metric.add(both(nothing, curve(20, 30, 0.5)))
    metric.add(both(nothing, curve(20, 30, 0.3)))
    scores = metric.compute()
    assert [s.iou for s in scores] == [None, 0.3, 0.5, 0.7]
    assert [s.value for s in scores[1:]] == [2 / 3, 1 / 3, 1 / 3]
    assert scores[0].value == pytest.approx(4 / 9)
    assert metric.statistic(np.stack([metric.correct[:].mean(0)])).item() == scores[0].value


def test_subsets_and_nothing() -> None:
    metric = MaxBoxAcc()
    assert metric.compute() == []
    for i in range(70):  # more than the rows it begins with
        metric.add(both(curve(0, 1000, 0.9 if i < 20 else 0.1)))
    chosen = np.arange(70) < 40
    (score,) = metric.compute(chosen, "small")
    assert (score.value, score.n, score.label) == (0.5, 40, "small")
    assert metric.compute(np.zeros(70, bool)) == []
    with pytest.raises(ValueError, match=r"expected bool \[70\]"):
        metric.compute(np.ones(69, bool))


def test_pure_function() -> None:
    correct = np.zeros((4, 1000), bool)
    correct[:3, 7] = True
    assert max_box_acc(correct) == 0.75
    assert best_threshold(correct.mean(0)) == (0.75, THRESHOLDS[7])


def test_protocols() -> None:
    values = np.zeros((224, 224), np.float32)
    values[50:100, 60:120] = 1
    boxes = np.array([[120, 100, 240, 200]], np.float32)
    assert map_curves(values, boxes, (448, 448)).largest[500] == 1
    there = map_curves(values, boxes, (448, 448), "wsolevaluation")
    assert there.largest[500] == 60 * 50 / (61 * 51)  # its box is one pixel too large
    with pytest.raises(ValueError, match="protocol"):
        map_curves(values, boxes, (448, 448), "other")  # type: ignore[arg-type]


@reference.needed
@pytest.mark.parametrize("group", ["cam", "gradient", "all"])
def test_accumulators_equal_the_reference(group: str) -> None:
    from pipeline.metric.components import wsolevaluation_curves

    answer = reference.answers()["groups"][group]
    first, second = MaxBoxAcc(ious=(0.3, 0.5, 0.7)), MaxBoxAccV2()
    for i in answer["index"]:
        found = wsolevaluation_curves(reference.arrays()["maps"][i], reference.true_boxes(i))
        first.add(found)
        second.add(found)
    for metric, kind in ((first, "single"), (second, "multi")):
        best = answer[kind]["max_box_acc"]
        mean, *each = metric.compute()
        assert mean.value * 100 == pytest.approx(np.mean(list(best.values())), abs=1e-12)
        for score in each:
            percent = f"{100 * score.iou:.0f}"
            assert score.value * 100 == pytest.approx(best[percent], abs=1e-12)
            counts = answer[kind]["num_correct"][percent]
            np.testing.assert_array_equal(metric.num_correct[score.iou], counts)


def test_the_steady_threshold_is_the_middle_of_what_is_high_not_a_lucky_peak() -> None:
    accuracy = np.where((THRESHOLDS > 0.2) & (THRESHOLDS < 0.5), 0.8, 0.3)
    assert steady_threshold(accuracy) == pytest.approx(0.35, abs=0.01)
    accuracy[900] = 1.0
    assert best_threshold(accuracy)[1] == pytest.approx(0.9, abs=0.01)
    assert steady_threshold(accuracy) == pytest.approx(0.35, abs=0.01)
    assert steady_threshold(np.linspace(0, 1, len(THRESHOLDS))) > 0.9  # up to the very end
    with pytest.raises(ValueError, match="expected"):
        steady_threshold(accuracy[:5])


@pytest.mark.parametrize("kind", [MaxBoxAcc, MaxBoxAccV2])
@pytest.mark.parametrize("count", [1, 2, 50, 1500])
def test_intervals_from_changes_are_those_over_every_threshold(
    kind: type[MaxBoxAcc], count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(count)
    metric = kind(seed=3)
    for n in range(count):
        steps = rng.random(8) if n % 5 else np.zeros(8)
        values = steps[np.searchsorted(np.sort(rng.random(7)), THRESHOLDS)]
        metric.add(both(values))
    from_changes = metric.compute()
    monkeypatch.setattr("pipeline.metric.max_box_acc.draw_counts", lambda *_: None)
    assert from_changes == metric.compute()
