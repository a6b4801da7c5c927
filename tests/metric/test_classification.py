import numpy as np
import pytest

from pipeline.metric.classification import Classification, ranks, top_k_accuracy


def test_ranks_and_ties() -> None:
    scores = np.array([[0.1, 0.7, 0.2], [0.4, 0.4, 0.2], [0.4, 0.4, 0.2]])
    labels = np.array([2, 0, 1])
    assert ranks(scores, labels).tolist() == [1, 0, 1]
    assert top_k_accuracy(scores, labels, 1) == pytest.approx(1 / 3)
    assert top_k_accuracy(scores, labels, 2) == 1


def test_accumulator() -> None:
    metric = Classification()
    metric.add(3, [3, 1, 2, 0, 4])
    metric.add(3, [1, 2, 0, 3, 4])
    metric.add(9, [1, 2, 0, 3, 4])
    assert [(s.name, s.value) for s in metric.compute()] == [
        ("classification_top1", pytest.approx(1 / 3)),
        ("classification_top5", pytest.approx(2 / 3)),
    ]
    assert metric.compute(np.zeros(3, bool)) == []


def test_errors() -> None:
    with pytest.raises(ValueError, match="expected 0 to 2, got 0 to 3"):
        ranks(np.zeros((2, 3)), np.array([0, 3]))
    with pytest.raises(ValueError, match=r"\[n, C\]"):
        ranks(np.zeros((2, 3)), np.array([0]))
