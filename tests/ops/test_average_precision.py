"""Average precision, against its definition by counting."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.ops.average_precision import average_precision, mean_average_precision


def count(scores: np.ndarray, positive: np.ndarray) -> float:
    """Sum precision times the step of recall over all different scores."""
    total, before = 0.0, 0.0
    for score in sorted(set(scores.tolist()), reverse=True):
        found = scores >= score
        recall = (found & positive).sum() / positive.sum()
        total += (recall - before) * (found & positive).sum() / found.sum()
        before = recall
    return total


@pytest.mark.parametrize("seed", range(8))
def test_it_is_the_definition_also_with_equal_scores(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, positive = rng.integers(0, 6, 30) / 6, rng.random(30) < 0.3
    positive[0] = True
    assert average_precision(scores, positive) == pytest.approx(count(scores, positive))
    order = rng.permutation(30)
    assert average_precision(scores[order], positive[order]) == pytest.approx(
        average_precision(scores, positive)
    )


def test_classes_without_images_do_not_count() -> None:
    sets = np.array([[True, False], [False, False]])
    assert mean_average_precision(np.array([[0.9, 0.1], [0.1, 0.9]]), sets) == 1
    assert mean_average_precision(np.zeros((0, 2)), np.zeros((0, 2), bool)) == 0
    assert np.isnan(average_precision(np.zeros(3), np.zeros(3, bool)))
