"""wsolevaluation's box sweep, written again from its description: the oracle of the tests and
the benchmark. Slow on purpose: one findContours for each of the 1000 thresholds.

Its work is done as there, neither more nor less: the IoUs of all boxes of a map at once, but their
maximum over the true boxes anew for each threshold.
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
    """IoU [T] and inclusive xyxy [T, 4] of the contour of largest area, the first of equals."""
    found = []
    for contours in _contours(values, thresholds):
        largest = max(contours, key=cv2.contourArea) if contours else None
        found.append(NOWHERE if largest is None else _box(largest, values.shape))
    return _best(found, [1] * len(found), boxes), np.array(found)


def sweep_any(
    values: np.ndarray, boxes: np.ndarray, thresholds: np.ndarray = THRESHOLDS
) -> np.ndarray:
    """The best IoU [T] of any contour, those of holes too."""
    found: list[tuple[int, int, int, int]] = []
    counts: list[int] = []
    for contours in _contours(values, thresholds):
        some = [_box(contour, values.shape) for contour in contours] or [NOWHERE]
        found += some
        counts.append(len(some))
    return _best(found, counts, boxes)


def _best(
    found: list[tuple[int, int, int, int]], counts: list[int], boxes: np.ndarray
) -> np.ndarray:
    """The best IoU of each threshold, of which `counts` boxes were found."""
    fits = inclusive_iou(np.array(found), np.asarray(boxes))
    best, start = [], 0
    for count in counts:
        best.append(max(fits.max(1)[start : start + count]))
        start += count
    return np.array(best)


def sweep(
    values: np.ndarray, boxes: np.ndarray, thresholds: np.ndarray = THRESHOLDS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The best IoU of the largest contour and of any contour, and the largest's box, for each
    threshold: the same answers in less time, for tests."""
    largest: list[tuple[int, int, int, int]] = []
    found: list[tuple[int, int, int, int]] = []
    start: list[int] = []
    for contours in _contours(values, thresholds):
        some = [_box(contour, values.shape) for contour in contours] or [NOWHERE]
        areas = [cv2.contourArea(contour) for contour in contours] or [0]
        largest.append(some[int(np.argmax(areas))])
        start.append(len(found))
        found += some
    single, fits = (
        inclusive_iou(np.array(of), np.asarray(boxes)).max(1) for of in (largest, found)
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
    """[n, 4], [m, 4] -> [n, m]"""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.maximum(high - low + 1, 0).prod(2)
    area_a = (a[:, 2:] - a[:, :2] + 1).prod(1)
    area_b = (b[:, 2:] - b[:, :2] + 1).prod(1)
    return np.asarray(shared / (area_a[:, None] + area_b[None] - shared))
