"""IoU: by hand, at its limits, and what holds for any boxes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.ops.iou import best_iou, pairwise_iou


def test_by_hand() -> None:
    a = np.array([[0, 0, 10, 10], [20, 20, 30, 30]], np.float32)
    b = np.array([[5, 0, 15, 10], [0, 0, 10, 10], [10, 0, 20, 10]], np.float32)
    np.testing.assert_allclose(pairwise_iou(a, b), np.array([[1 / 3, 1, 0], [0, 0, 0]]))


def test_exact_at_a_limit() -> None:
    # 7 of 10: in float32 this is below 0.7.
    assert best_iou(np.array([0, 0, 7, 1], np.float32), np.array([[0, 0, 10, 1]])) >= 0.7


def test_nothing_to_fit() -> None:
    assert best_iou(None, np.array([[0, 0, 1, 1]])) == 0
    assert best_iou(np.array([0, 0, 1, 1]), np.zeros((0, 4))) == 0
    assert pairwise_iou(np.zeros((0, 4)), np.zeros((3, 4))).shape == (0, 3)
    with pytest.raises(ValueError, match=r"\[N, 4\]"):
        pairwise_iou(np.zeros((2, 5)), np.zeros((3, 4)))


# -- any boxes

COORDINATES = st.floats(-1e6, 1e6, width=32)


def box_lists(at_least: int = 0) -> st.SearchStrategy[np.ndarray]:
    """Return a strategy of half-open `xyxy` float32 boxes [N, 4], some of them empty."""
    corners = st.tuples(COORDINATES, COORDINATES, COORDINATES, COORDINATES)
    boxes = corners.map(
        lambda c: (min(c[0], c[2]), min(c[1], c[3]), max(c[0], c[2]), max(c[1], c[3]))
    )
    lists = st.lists(boxes, min_size=at_least, max_size=5)
    return lists.map(lambda rows: np.array(rows, np.float32).reshape(-1, 4))


@given(box_lists(), box_lists())
def test_iou_is_symmetric_and_in_0_to_1(a: np.ndarray, b: np.ndarray) -> None:
    iou = pairwise_iou(a, b)
    assert iou.shape == (len(a), len(b))
    assert ((iou >= 0) & (iou <= 1)).all()
    np.testing.assert_array_equal(iou, pairwise_iou(b, a).T)


@given(box_lists(at_least=1))
def test_iou_of_a_box_with_itself_is_1_unless_empty(boxes: np.ndarray) -> None:
    exact = boxes.astype(np.float64)
    areas = (exact[:, 2:] - exact[:, :2]).prod(1)
    np.testing.assert_array_equal(np.diag(pairwise_iou(boxes, boxes)), areas > 0)


@given(box_lists(at_least=1), box_lists())
def test_best_iou_is_the_largest_of_the_pairwise_ones(a: np.ndarray, true: np.ndarray) -> None:
    assert best_iou(a[0], true) == max(pairwise_iou(a[:1], true)[0], default=0)
