"""wsolevaluation's box sweep, written again from its description: the oracle of the tests and
the benchmark. Slow on purpose: one findContours for each of the 1000 thresholds.

The IoUs of all boxes of a map are computed at once, as there, so that what is timed is the sweep.
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
    every = np.array(found)
    return inclusive_iou(every, np.asarray(boxes)).max(1), every


def sweep_any(
    values: np.ndarray, boxes: np.ndarray, thresholds: np.ndarray = THRESHOLDS
) -> np.ndarray:
    """The best IoU [T] of any contour, those of holes too."""
    found: list[tuple[int, int, int, int]] = []
    start: list[int] = []
    for contours in _contours(values, thresholds):
        start.append(len(found))
        found += [_box(contour, values.shape) for contour in contours] or [NOWHERE]
    fits = inclusive_iou(np.array(found), np.asarray(boxes)).max(1)
    return np.maximum.reduceat(fits, start)


def sweep(
    values: np.ndarray, boxes: np.ndarray, thresholds: np.ndarray = THRESHOLDS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The best IoU of the largest contour and of any contour, and the largest's box, for each
    threshold."""
    single, largest = sweep_largest(values, boxes, thresholds)
    return single, sweep_any(values, boxes, thresholds), largest


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
