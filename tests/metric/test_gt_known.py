import numpy as np
import pytest

from pipeline.metric.components import THRESHOLDS
from pipeline.metric.gt_known import (
    IlsvrcError,
    Localization,
    corloc,
    gt_known_loc,
    ilsvrc_error,
    oracle,
    top_k_loc,
)

TRUE = np.array([[0, 0, 10, 10]], np.float32)
GOOD, BAD = np.array([0, 0, 10, 8]), np.array([8, 8, 20, 20])


def test_shares_by_hand() -> None:
    ious = np.array([0.5, 0.6, 0.4, 0.9])
    rank = np.array([0, 3, 0, 7])
    assert gt_known_loc(ious) == 0.75
    assert top_k_loc(ious, rank, 1) == 0.25
    assert top_k_loc(ious, rank, 5) == 0.5


def test_ilsvrc_error() -> None:
    assert ilsvrc_error([(3, GOOD)], 3, TRUE) == 0
    assert ilsvrc_error([(3, BAD), (2, GOOD)], 3, TRUE) == 1  # never both in one guess
    assert ilsvrc_error([(0, None)] * 5 + [(3, GOOD)], 3, TRUE) == 1  # the sixth guess
    assert ilsvrc_error([], 3, TRUE) == 1


def test_ilsvrc_error_of_many() -> None:
    metric = IlsvrcError({"kind": "fixed", "value": 0.2})
    assert metric.compute() == []
    for guesses in ([(3, GOOD)], [(2, GOOD), (3, GOOD)], [(3, BAD)], [(3, None)]):
        metric.add(guesses, 3, TRUE)
    (score,) = metric.compute()
    assert (score.name, score.value, score.n, score.iou) == ("ilsvrc_loc_error", 0.5, 4, 0.5)
    assert score.interval is not None
    (half,) = metric.compute(np.array([True, True, False, False]), "easy")
    assert (half.value, half.label) == (0, "easy")


def test_corloc_is_a_mean_over_classes_and_more_than_half() -> None:
    value, each = corloc(np.array([0.5, 0.6, 0.6, 0.7]), np.array([0, 0, 0, 4]))
    assert each == {0: pytest.approx(2 / 3), 4: 1.0}
    assert value == pytest.approx(5 / 6)


def test_oracle_takes_one_threshold_for_all() -> None:
    ious = np.zeros((2, 1000))
    ious[0, :500] = ious[1, 500:] = 1
    assert oracle(ious)[0] == 0.5
    ious[1, 499] = 1
    assert oracle(ious) == (1.0, THRESHOLDS[499])


def test_accumulator() -> None:
    metric = Localization(ious=(0.5,), threshold={"kind": "fixed", "value": 0.2})
    assert metric.compute() == []
    metric.add(0, 0.8, [0, 1, 2, 3, 4])
    metric.add(1, 0.6, [5, 6, 7, 1, 2])
    metric.add(1, 0.2, [1, 2, 3, 4, 5])
    metric.add(1, 0.9, [2, 3, 4, 5, 6])
    assert metric.rank.tolist() == [0, 3, 0, 5]
    found = {s.name: s for s in metric.compute()}
    values = {name: s.value for name, s in found.items()}
    assert values == pytest.approx(
        {
            "gt_known_loc": 0.75,
            "top1_loc": 0.25,
            "top5_loc": 0.5,
            "corloc": (1 + 2 / 3) / 2,
            "mean_iou": 2.5 / 4,
        }
    )
    for score in found.values():
        assert score.threshold == {"kind": "fixed", "value": 0.2}
        assert score.n == 4
        assert score.interval is not None
        assert score.interval[0] <= score.value
    (small,) = [
        s for s in metric.compute(np.array([True, False, False, False]), "small")
        if s.name == "mean_iou"
    ]  # fmt: skip
    assert (small.value, small.label, small.n) == (0.8, "small", 1)


def test_without_predictions_there_is_no_top_k() -> None:
    metric = Localization()
    metric.add(0, 0.8)
    names = {s.name for s in metric.compute()}
    assert names == {"gt_known_loc", "corloc", "mean_iou"}
    with pytest.raises(ValueError, match=r"expected 0 to 1, got 1\.5"):
        metric.add(0, 1.5)
