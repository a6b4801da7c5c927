"""The curve of precision over recall, and the area under it, against definitions written out."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.metric.precision_recall import area_under, eleven_points, precision_recall


def reference(scores: np.ndarray, is_right: np.ndarray, total: int) -> tuple[float, float]:
    """Area and 11 points from the definition: every threshold, every recall."""
    points = []
    for threshold in np.unique(scores)[::-1]:
        chosen = scores >= threshold
        points.append((is_right[chosen].mean(), is_right[chosen].sum() / total))
    area, before = 0.0, 0.0
    for n, (_, recall) in enumerate(points):
        area += (recall - before) * max(precision for precision, _ in points[n:])
        before = recall
    best = [
        max([p for p, r in points if r > k / 10 - 1e-9], default=0.0) for k in range(11)
    ]  # fmt: skip
    return area, float(np.mean(best))


@pytest.mark.parametrize("levels", [5, 1000])
@pytest.mark.parametrize("extra", [0, 7])
def test_average_precision_is_that_of_the_definition(levels: int, extra: int) -> None:
    rng = np.random.default_rng(levels + extra)
    for _ in range(20):
        scores = rng.integers(0, levels, 60) / levels
        is_right = rng.random(60) < 0.2 + 0.6 * scores
        total = int(is_right.sum()) + extra
        curve = precision_recall(scores, is_right, total)
        both = area_under(*curve), eleven_points(*curve)
        assert both == pytest.approx(reference(scores, is_right, total), abs=1e-12)
        shuffled = rng.permutation(60)
        again = area_under(*precision_recall(scores[shuffled], is_right[shuffled], total))
        assert again == pytest.approx(both[0], abs=1e-12), "equal scores enter together"


def test_by_hand() -> None:
    right = np.array([True, False, True, False, True])
    scores = np.array([5, 4, 3, 2, 1])
    assert area_under(*precision_recall(scores, right)) == pytest.approx((1 + 2 / 3 + 3 / 5) / 3)
    assert area_under(*precision_recall(scores, ~right)) == pytest.approx(0.5), "1/2 and 2/4"
    precision, recall = precision_recall(scores, right)
    assert recall.tolist() == pytest.approx([1 / 3, 1 / 3, 2 / 3, 2 / 3, 1])
    # Recalls 0 to 0.3 have 1, 0.4 to 0.6 have 2/3, 0.7 to 1 have 3/5.
    assert eleven_points(precision, recall) == pytest.approx((4 * 1 + 3 * 2 / 3 + 4 * 3 / 5) / 11)
    one_score = precision_recall(np.ones(4), np.array([True, False, False, False]))
    assert area_under(*one_score) == 0.25
    nothing = precision_recall(np.zeros(0), np.zeros(0, bool))
    assert (area_under(*nothing), eleven_points(*nothing)) == (0, 0)


def test_perfect_and_of_a_recall_in_tenths() -> None:
    scores, right = np.arange(20)[::-1], np.arange(20) < 10
    precision, recall = precision_recall(scores, right)
    assert eleven_points(precision, recall) == 1, "no tenth is missed by rounding"
    assert area_under(precision, recall) == 1
