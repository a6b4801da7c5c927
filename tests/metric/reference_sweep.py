"""wsolevaluation's box sweep, written again from its description: the oracle of the tests and
the benchmark. Slow on purpose: one findContours for each of the 1000 thresholds."""

from __future__ import annotations

import cv2
import numpy as np

THRESHOLDS = np.arange(0, 1, 0.001)


def boxes_at(levels: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Inclusive xyxy of the largest contour [1, 4] and of all contours [n, 4]."""
    height, width = levels.shape
    _, mask = cv2.threshold(levels, int(threshold * np.max(levels)), 255, cv2.THRESH_BINARY)
    contours, _ = cv2.findContours(mask, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
    if len(contours) == 0:
        none = np.zeros((1, 4), np.int64)
        return none, none
    found = []
    for contour in contours:
        x, y, w, h = cv2.boundingRect(contour)
        found.append((x, y, min(x + w, width - 1), min(y + h, height - 1)))
    first_largest = max(range(len(contours)), key=lambda i: cv2.contourArea(contours[i]))
    boxes = np.array(found)
    return boxes[first_largest : first_largest + 1], boxes


def inclusive_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[n, 4], [m, 4] -> [n, m]"""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.maximum(high - low + 1, 0).prod(2)
    area_a = (a[:, 2:] - a[:, :2] + 1).prod(1)
    area_b = (b[:, 2:] - b[:, :2] + 1).prod(1)
    return shared / (area_a[:, None] + area_b[None] - shared)


def sweep(
    values: np.ndarray, boxes: np.ndarray, thresholds: np.ndarray = THRESHOLDS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The best IoU of the largest contour and of any contour, and the largest's box, for each
    threshold."""
    levels = (values.astype(np.float64) * 255).astype(np.uint8)
    boxes = np.asarray(boxes)
    single, multi, largest = [], [], []
    for threshold in thresholds:
        one, every = boxes_at(levels, threshold)
        single.append(inclusive_iou(one, boxes).max())
        multi.append(inclusive_iou(every, boxes).max())
        largest.append(one[0])
    return np.array(single), np.array(multi), np.array(largest)
