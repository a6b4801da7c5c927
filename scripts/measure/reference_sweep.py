"""wsolevaluation's box sweep, implemented from its description: the reference of the tests.

It is slow on purpose: findContours is called for each of the 1000 thresholds. It does the same work
as that evaluator: the IoUs of all boxes of a map at once, but their maximum over the true boxes
separately for each threshold.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np

THRESHOLDS = np.arange(0, 1, 0.001)
NOWHERE = (0, 0, 0, 0)  # the box of no contour


def sweep_largest(
    values: np.ndarray, boxes: np.ndarray, thresholds: np.ndarray = THRESHOLDS
) -> tuple[np.ndarray, np.ndarray]:
    """Return IoU [T] and inclusive xyxy [T, 4] of the largest contour; of equals the first."""
    swept = []
    for contours in _contours(values, thresholds):
        largest = max(contours, key=cv2.contourArea) if contours else None
        swept.append(NOWHERE if largest is None else _box(largest, values.shape))
    return _best(swept, [1] * len(swept), boxes), np.array(swept)


def sweep_any(
    values: np.ndarray, boxes: np.ndarray, thresholds: np.ndarray = THRESHOLDS
) -> np.ndarray:
    """Return the best IoU [T] of any contour, those of holes included."""
    swept: list[tuple[int, int, int, int]] = []
    counts: list[int] = []
    for contours in _contours(values, thresholds):
        some = [_box(contour, values.shape) for contour in contours] or [NOWHERE]
        swept += some
        counts.append(len(some))
    return _best(swept, counts, boxes)


def _best(
    swept: list[tuple[int, int, int, int]], counts: list[int], boxes: np.ndarray
) -> np.ndarray:
    """Return the best IoU of each threshold, to which the next `counts` of the boxes belong."""
    fits = inclusive_iou(np.array(swept), np.asarray(boxes))
    best, start = [], 0
    for count in counts:
        best.append(max(fits.max(1)[start : start + count]))
        start += count
    return np.array(best)


def sweep(
    values: np.ndarray, boxes: np.ndarray, thresholds: np.ndarray = THRESHOLDS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the results of `sweep_largest` and `sweep_any` in less time, for tests.

    Returns:
        The IoU [T] of the largest contour, the best IoU [T] of any contour, and the box [T, 4] of
        the largest contour, inclusive xyxy.
    """
    largest: list[tuple[int, int, int, int]] = []
    swept: list[tuple[int, int, int, int]] = []
    start: list[int] = []
    for contours in _contours(values, thresholds):
        some = [_box(contour, values.shape) for contour in contours] or [NOWHERE]
        areas = [cv2.contourArea(contour) for contour in contours] or [0]
        largest.append(some[int(np.argmax(areas))])
        start.append(len(swept))
        swept += some
    single, fits = (
        inclusive_iou(np.array(of), np.asarray(boxes)).max(1) for of in (largest, swept)
    )
    return single, np.maximum.reduceat(fits, start), np.array(largest)


def _contours(values: np.ndarray, thresholds: np.ndarray) -> Iterator[Any]:
    levels = (values.astype(np.float64) * 255).astype(np.uint8)
    for threshold in thresholds:
        level = int(threshold * np.max(levels))
        _, mask = cv2.threshold(levels, level, 255, cv2.THRESH_BINARY)
        yield cv2.findContours(mask, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[0]


def _box(contour: np.ndarray, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    x, y, w, h = cv2.boundingRect(contour)
    return x, y, min(x + w, shape[1] - 1), min(y + h, shape[0] - 1)


def inclusive_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the IoU [n, m] of inclusive xyxy boxes [n, 4] and [m, 4]."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.maximum(high - low + 1, 0).prod(2)
    area_a = (a[:, 2:] - a[:, :2] + 1).prod(1)
    area_b = (b[:, 2:] - b[:, :2] + 1).prod(1)
    return np.asarray(shared / (area_a[:, None] + area_b[None] - shared))
