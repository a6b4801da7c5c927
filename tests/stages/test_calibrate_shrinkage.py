"""A threshold on a few images: as far from the rule without boxes as they can tell."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.metric.components import THRESHOLDS, threshold_index
from pipeline.metric.max_box_acc import validation_threshold
from pipeline.stages.calibrate import shrinkage
from pipeline.stages.calibrate.calibration import (
    MeasuredImage,
    choose_thresholds,
    divide_into_folds,
    find_written_boxes,
)
from pipeline.stages.calibrate.shrinkage import (
    FOLDS,
    MAX_SINGLE_FOLDS,
    STRENGTH,
    count_folds,
    measure_gains,
    measure_gains_of_each,
)


def hill(at: float, height: float = 0.9, width: float = 0.8) -> np.ndarray:
    """An IoU curve with its top at a threshold; `width` is in logits."""
    logit = np.log(np.maximum(THRESHOLDS, 0.0005) / (1 - np.maximum(THRESHOLDS, 0.0005)))
    return np.asarray(height * np.exp(-0.5 * ((logit - np.log(at / (1 - at))) / width) ** 2))


def choose(rows: np.ndarray, prior: float, iou: float = 0.5) -> float:
    """The threshold that all rows choose."""
    return measure_gains(rows, iou, prior, np.zeros(len(rows), int)).choose()


def test_the_choice_is_that_of_the_formula() -> None:
    rng = np.random.default_rng(0)
    tops = zip(rng.uniform(0.05, 0.6, 12), rng.uniform(0.4, 1, 12), strict=True)
    rows = np.stack([hill(at, height) for at, height in tops])
    prior = 0.3
    clipped = [max(t, 0.0005) for t in THRESHOLDS]
    logit = np.array([np.log(t / (1 - t)) for t in clipped])
    spacing = np.gradient(logit)
    smooth = np.empty_like(rows)
    for n, row in enumerate(rows):
        step = 1 / (1 + np.exp((0.5 - row) / 0.06))
        for t in range(1000):
            weights = np.exp(-((logit - logit[t]) ** 2) / (2 * 0.3**2)) * spacing
            smooth[n, t] = np.average(step, weights=weights)
    gain = smooth - smooth[:, [300]]
    score = gain.mean(0) - STRENGTH * gain.std(0, ddof=1) / np.sqrt(12)
    assert choose(rows, prior) == pytest.approx(THRESHOLDS[score.argmax()], abs=0.0011)


def test_a_low_threshold_is_found_on_ten_images() -> None:
    rows = np.stack([hill(0.006)] * 10)
    assert choose(rows, 0.25) == pytest.approx(0.006, abs=0.002)
    assert validation_threshold((rows >= 0.5).mean(0)) > 0.02  # the mean over +-0.08 cannot


def test_contradictory_images_leave_the_prior_as_it_is() -> None:
    # Each of eight images is best somewhere else; at the prior nearly all are right.
    rng = np.random.default_rng(1)
    broad = [hill(at, 0.62, 2.0) for at in rng.uniform(0.1, 0.5, 8)]
    assert choose(np.stack(broad), 0.25) == pytest.approx(0.25, abs=0.06)
    same = np.full((10, 1000), 0.7)  # no threshold is better than another: the middle one
    assert choose(same, 0.25) == pytest.approx(0.5, abs=0.002)


def test_many_images_outvote_the_prior() -> None:
    rng = np.random.default_rng(2)
    rows = np.stack([hill(at) for at in rng.normal(0.4, 0.03, 400).clip(0.2, 0.6)])
    chosen = [choose(rows, prior) for prior in (0.02, 0.4, 0.9)]
    assert np.ptp(chosen) <= 0.004
    assert chosen[0] == pytest.approx(validation_threshold((rows >= 0.5).mean(0)), abs=0.03)


def test_a_fold_has_no_part_in_its_own_threshold() -> None:
    folds = np.array([0] * 6 + [1] * 6)
    gains = measure_gains(np.stack([hill(0.1)] * 6 + [hill(0.5)] * 6), 0.5, 0.3, folds)
    assert gains.choose(without=0) == pytest.approx(0.5, abs=0.02)
    assert gains.choose(without=1) == pytest.approx(0.1, abs=0.02)
    alone = measure_gains(np.stack([hill(0.1)] * 6), 0.5, 0.3, np.zeros(6, int))
    assert alone.choose(without=0) == 0.3  # nobody is left to choose another


def test_thresholds_have_positions_within_their_range() -> None:
    assert [threshold_index(value) for value in (-0.1, 0.0, 0.25, 0.999, 1.0)] == [
        0, 0, 250, 999, 999,
    ]  # fmt: skip


def test_folds_are_equal_and_depend_on_names_alone() -> None:
    ids = [f"{n}.jpg" for n in range(100)]
    folds = divide_into_folds(ids)
    assert np.bincount(folds).tolist() == [10] * FOLDS
    back = divide_into_folds(ids[::-1])
    np.testing.assert_array_equal(folds, back[::-1])
    assert count_folds(MAX_SINGLE_FOLDS) == MAX_SINGLE_FOLDS
    assert sorted(divide_into_folds(ids[:20])) == list(range(20))


def images(right: int, wrong: int, doubt: bool = False) -> dict[str, MeasuredImage]:
    """Images that are right at 0.3, and such as are right nowhere."""
    return {f"{doubt}{n}": MeasuredImage(hill(0.3) if n < right else hill(0.3, 0.2), 0.3, doubt)
            for n in range(right + wrong)}  # fmt: skip


def test_the_expected_accuracy_is_that_of_images_at_the_threshold_of_others() -> None:
    chosen = choose_thresholds(images(15, 5), [0.5, 0.95], "user")
    assert chosen["prior"] == {"rule": "auto", "threshold": 0.3, "strength": STRENGTH}
    expected = chosen["expected"]["0.5"]
    assert (expected["value"], expected["n"], expected["sample"]) == (0.75, 20, "all")
    assert expected["interval"] == [
        pytest.approx(0.5313, abs=1e-3),
        pytest.approx(0.8881, abs=1e-3),
    ]
    assert chosen["expected"]["0.95"]["value"] == 0


def test_a_lucky_threshold_is_not_expected_again() -> None:
    # Each image is right in a narrow range of its own: what serves the others does not serve it.
    at = np.linspace(0.05, 0.9, 12)
    lucky = {str(n): MeasuredImage(np.where(abs(THRESHOLDS - t) < 0.01, 0.9, 0.1), 0.3)
             for n, t in enumerate(at)}  # fmt: skip
    assert choose_thresholds(lucky, [0.5], "user")["expected"]["0.5"]["value"] == 0


def test_images_chosen_by_doubt_choose_and_are_not_expected() -> None:
    doubtful = images(2, 10, doubt=True)
    few = choose_thresholds({**images(8, 1), **doubtful}, [0.5], "user")["expected"]["0.5"]
    assert (few["sample"], few["n"], few["value"]) == ("doubt", 21, pytest.approx(10 / 21))
    enough = choose_thresholds({**images(9, 1), **doubtful}, [0.5], "user")
    assert enough["n"] == 22
    expected = enough["expected"]["0.5"]
    assert (expected["sample"], expected["n"], expected["value"]) == ("random", 10, 0.9)


def test_a_box_with_digits_that_was_written_is_found() -> None:
    written = np.array([[1.236, 2, 11.24, 22.5], [3, 4, 20, 30]], np.float32)
    drawn = np.array([[1.24, 2, 11.24, 22.5], [3, 4, 20, 30], [1.5, 2, 11.24, 22.5]], np.float32)
    # A box in whole pixels may have been drawn so.
    assert find_written_boxes(drawn, written).tolist() == [True, False, False]
    assert find_written_boxes(drawn[:0], written).tolist() == []


def test_several_divisions_smooth_once_and_are_each_what_it_is_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    random = np.random.default_rng(0)
    rows = random.random((1100, len(THRESHOLDS)))
    foldings = [divide_into_folds([str(n) for n in range(1100)]), random.integers(0, 2, 1100)]
    alone = [measure_gains(rows, 0.5, 0.2, folds) for folds in foldings]
    smoothed: list[int] = []
    weights = shrinkage._smoothing_weights

    def count() -> np.ndarray:
        smoothed.append(1)
        return weights()

    monkeypatch.setattr(shrinkage, "_smoothing_weights", count)
    together = measure_gains_of_each(rows, 0.5, 0.2, foldings)
    assert len(smoothed) == 2, "a time for each chunk of images, whatever the divisions"
    for one, other in zip(alone, together, strict=True):
        assert np.array_equal(one.total, other.total)
        assert np.array_equal(one.squares, other.squares)
        assert np.array_equal(one.count, other.count)
