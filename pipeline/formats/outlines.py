"""Masks as polygons along the edges of their pixels, for formats that hold no run lengths.

A polygon has no hole: holes are filled, and the IoU with the mask says how much that changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.ops.text import count_note
from pipeline.types import Note, Rle

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from jaxtyping import Int


@dataclass(frozen=True)
class Outline:
    """The outline of a mask.

    Attributes:
        polygons: x, y in pixels of the image, corners of pixels; a polygon for each part of the
            mask, the largest first.
        iou: of the polygons with the mask; below 1 where holes are filled.
    """

    polygons: Sequence[Int[np.ndarray, "n 2"]]
    iou: float


def trace_outline(mask: Rle) -> Outline:
    """Return the polygons around the parts of a mask, of which those that touch are one.

    Args:
        mask: run lengths over the whole image.

    Returns:
        The outline, without polygons where the mask is empty.
    """
    import cv2
    from pycocotools import mask as coco_mask

    x, y, width, height = (int(side) for side in coco_mask.toBbox(mask))
    pixels = coco_mask.decode(mask)[y : y + height, x : x + width]
    if not pixels.any():
        return Outline([], 1.0)
    # Each pixel becomes 2x2, so that contours, which go through the middles of pixels, tell both
    # sides of a pixel apart: 2 * n is its left side n, 2 * n + 1 its right side n + 1.
    doubled = np.repeat(np.repeat(pixels, 2, 0), 2, 1)
    contours, _ = cv2.findContours(doubled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    inner = [_keep_corners((contour[:, 0].astype(np.int64) + 1) // 2) for contour in contours]
    areas = [_compute_area(polygon) for polygon in inner]
    order = sorted(range(len(inner)), key=lambda n: -areas[n])
    offset = np.array([x, y])
    return Outline([inner[n] + offset for n in order], float(pixels.sum()) / sum(areas))


def _keep_corners(points: Int[np.ndarray, "m 2"]) -> Int[np.ndarray, "n 2"]:
    """Return the points of a closed line at which it turns."""
    points = points[(points != np.roll(points, 1, 0)).any(1)]
    before, after = points - np.roll(points, 1, 0), np.roll(points, -1, 0) - points
    is_corner = before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]
    return np.asarray(points[is_corner], np.int64)


def _compute_area(polygon: Int[np.ndarray, "n 2"]) -> float:
    """Return the area inside a polygon, by the shoelace formula."""
    x, y = polygon.T
    return abs(float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum())) / 2


def join_polygons(polygons: Sequence[Int[np.ndarray, "n 2"]]) -> Int[np.ndarray, "m 2"]:
    """Return one polygon through several, joined by lines without width that lead there and back.

    Args:
        polygons: at least a polygon.
    """
    first = polygons[0]
    if len(polygons) == 1:
        return first
    closed = [part for polygon in polygons for part in (polygon, polygon[:1])]
    # The way back from the last to the first passes by the start of each.
    back = [polygon[:1] for polygon in reversed(polygons[:-1])]
    return np.concatenate([*closed, *back[:-1]])


class OutlineCounter:
    """Counts outlines that are not exactly the mask, for a note."""

    def __init__(self) -> None:
        self._filled: list[str] = []
        self._least = 1.0

    def add(self, id: str, ious: Iterable[float]) -> None:
        """Count outlines.

        Args:
            id: of the image.
            ious: of outlines of masks of it, with their masks.
        """
        for iou in ious:
            if iou < 1:
                if self._filled[-1:] != [id]:
                    self._filled.append(id)
                self._least = min(self._least, iou)

    def notes(self) -> list[Note]:
        """Return a note on masks whose holes are filled."""
        if not self._filled:
            return []
        least = f"IoU with the mask {self._least:.3f} or more"
        why = f"have masks with holes, which polygons fill: {least}"
        return [count_note(self._filled, "image", why)]
