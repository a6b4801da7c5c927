import numpy as np
import pytest

from pipeline.ops.iou import best_iou, pairwise_iou


def test_by_hand() -> None:
    a = np.array([[0, 0, 10, 10], [20, 20, 30, 30]], np.float32)
    b = np.array([[5, 0, 15, 10], [0, 0, 10, 10], [10, 0, 20, 10]], np.float32)
    np.testing.assert_allclose(pairwise_iou(a, b), [[1 / 3, 1, 0], [0, 0, 0]])


def test_exact_at_a_limit() -> None:
    # 7 of 10: in float32 this is below 0.7.
    assert best_iou(np.array([0, 0, 7, 1], np.float32), np.array([[0, 0, 10, 1]])) >= 0.7


def test_nothing_to_fit() -> None:
    assert best_iou(None, np.array([[0, 0, 1, 1]])) == 0
    assert best_iou(np.array([0, 0, 1, 1]), np.zeros((0, 4))) == 0
    assert pairwise_iou(np.zeros((0, 4)), np.zeros((3, 4))).shape == (0, 3)
    with pytest.raises(ValueError, match=r"\[N, 4\]"):
        pairwise_iou(np.zeros((2, 5)), np.zeros((3, 4)))
