"""Intersection over union of boxes: xyxy, half-open, so that the width is x1 - x0.

Jaccard, "The distribution of the flora in the alpine zone", 1912. In float64 throughout: an IoU is
compared with 0.3, 0.5 or 0.7 and must not fall short of it by a rounding to float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float, Float64


def pairwise_iou(
    a: Float[np.ndarray, "N 4"], b: Float[np.ndarray, "M 4"]
) -> Float64[np.ndarray, "N M"]:
    """Return the intersection over union of each box of `a` with each of `b`.

    Args:
        a: Boxes, half-open `xyxy`, in any unit.
        b: Boxes in the same coordinates.

    Returns:
        IoU in [0, 1]; 0 where both boxes are empty.

    Raises:
        ValueError: If the boxes are not [N, 4].

    Examples:
        >>> a = np.array([[0, 0, 10, 10], [20, 20, 30, 30]])
        >>> pairwise_iou(a, np.array([[0, 0, 10, 10], [5, 0, 15, 10]])).round(3)
        array([[1.   , 0.333],
               [0.   , 0.   ]])
    """
    a = _boxes(a)[:, None]
    b = _boxes(b)[None]
    low = np.maximum(a[..., :2], b[..., :2])
    high = np.minimum(a[..., 2:], b[..., 2:])
    shared = np.maximum(high - low, 0).prod(-1)
    union = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - shared
    return np.asarray(np.divide(shared, union, out=np.zeros_like(shared), where=union > 0))


def best_iou(box: Float[np.ndarray, "4"] | None, true: Float[np.ndarray, "M 4"]) -> float:
    """Return the IoU of a box with the true box that it fits best.

    Args:
        box: A box, half-open `xyxy`; None where nothing was predicted.
        true: The annotated boxes in the same coordinates.

    Returns:
        IoU in [0, 1]; 0 where there is no box, or no true box.

    Examples:
        >>> best_iou(np.array([0, 0, 7, 1]), np.array([[0, 0, 10, 1], [20, 0, 30, 1]]))
        0.7
    """
    if box is None or len(true) == 0:
        return 0.0
    return float(pairwise_iou(np.asarray(box)[None], true).max())


def _boxes(boxes: np.ndarray) -> Float64[np.ndarray, "N 4"]:
    boxes = np.asarray(boxes, np.float64)
    if boxes.size == 0:
        return boxes.reshape(0, 4)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes: expected [N, 4] xyxy, got {list(boxes.shape)}")
    return boxes
