"""Outlines of the embedded data set's classes, and how they are turned, placed and filled."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING

import cv2
import numpy as np

from pipeline.types import Rle, Size

if TYPE_CHECKING:
    from jaxtyping import Float32, Float64, UInt8
Outline = list["Float64[np.ndarray, 'n 2']"]
"""Closed curves of (x, y) points, filled by the even-odd rule: a hole is a second curve."""
MARGIN = 3  # pixels between a shape and the border of its image
SUPERSAMPLE = 4  # coverage is counted on a grid so many times finer


# ------------------------------------------------------------------------------------- outlines


def _arc(start: float, stop: float, radius: float = 1.0, n: int = 48) -> np.ndarray:
    """Return points on a circle around 0 between two angles in degrees."""
    angle = np.radians(np.linspace(start, stop, n))
    return radius * np.stack([np.cos(angle), np.sin(angle)], 1)


def round_corners(
    corners: Sequence[tuple[float, float]] | np.ndarray, first_ratio: float = 0.12
) -> Float64[np.ndarray, "n 2"]:
    """Return a polygon with rounded corners: Chaikin's corner cutting, three times.

    Args:
        corners: (x, y) points.
        first_ratio: Share of each side that is cut off at both ends the first time.
    """
    points = np.asarray(corners, float)
    for ratio in (first_ratio, 0.25, 0.25):
        ahead = np.roll(points, -1, 0)
        near, far = points + ratio * (ahead - points), ahead - ratio * (ahead - points)
        points = np.stack([near, far], 1).reshape(-1, 2)
    return points


def _arrow() -> Outline:
    right = [(0.0, -1.0), (0.88, -0.1), (0.38, -0.1), (0.38, 0.95)]
    return [round_corners(right + [(-x, y) for x, y in right[:0:-1]], 0.06)]


def _crescent() -> Outline:
    outer, inner = _arc(40, 320), np.array([0.394, 0.0]) + _arc(300, 60, 0.743)
    return [np.concatenate([outer, inner])]


def _cross() -> Outline:
    a, b = 0.34, 1.0
    quarter = [(a, -b), (a, -a), (b, -a)]
    turns = [quarter]
    for _ in range(3):
        turns.append([(-y, x) for x, y in turns[-1]])
    return [round_corners([point for turn in turns for point in turn], 0.08)]


def _drop() -> Outline:
    t = np.radians(np.linspace(0, 360, 96, endpoint=False))
    return [np.stack([0.95 * np.sin(t) * np.sin(t / 2) ** 1.6, -np.cos(t)], 1)]


def _flower() -> Outline:
    t = np.radians(np.linspace(0, 360, 160, endpoint=False))
    radius = 0.56 + 0.44 * np.abs(np.cos(2.5 * t)) ** 0.8
    return [radius[:, None] * np.stack([np.cos(t), np.sin(t)], 1)]


def _heart() -> Outline:
    t = np.radians(np.linspace(0, 360, 96, endpoint=False))
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return [np.stack([16 * np.sin(t) ** 3, -y], 1) / 16]


def _ring() -> Outline:
    return [_arc(0, 360, 1.0, 72), _arc(0, 360, 0.5, 72)]


def _square() -> Outline:
    return [round_corners([(-1, -1), (1, -1), (1, 1), (-1, 1)], 0.07)]


def _star() -> Outline:
    points = np.empty((10, 2))
    points[::2] = _arc(-90, 270, 1.0, 6)[:5]
    points[1::2] = _arc(-54, 306, 0.46, 6)[:5]
    return [round_corners(points, 0.08)]


def _triangle() -> Outline:
    return [round_corners(_arc(-90, 270, 1.0, 4)[:3], 0.06)]


OUTLINES: dict[str, Callable[[], Outline]] = {
    "arrow": _arrow,
    "crescent": _crescent,
    "cross": _cross,
    "drop": _drop,
    "flower": _flower,
    "heart": _heart,
    "ring": _ring,
    "square": _square,
    "star": _star,
    "triangle": _triangle,
}


@cache
def unit_outline(name: str) -> Outline:
    """Return the outline of a class, about from -1 to 1 on both axes."""
    return OUTLINES[name]()


def turn(rng: np.random.Generator, outline: Outline) -> Outline:
    """Stretch an outline a little along an axis, then rotate it by up to 34 degrees."""
    angle, stretch = rng.uniform(-0.6, 0.6), rng.uniform(0.85, 1.18)
    cos, sin = math.cos(angle), math.sin(angle)
    matrix = np.array([[cos, sin], [-sin * stretch, cos * stretch]])
    return [curve @ matrix for curve in outline]


def place(rng: np.random.Generator, outline: Outline, side: float, frame: Size) -> Outline:
    """Scale an outline and move it to a random place inside the frame.

    Args:
        rng: Draws the place.
        outline: To place.
        side: Longer side of the result, as a share of the frame's shorter side.
        frame: (height, width) of the image in pixels.

    Returns:
        The outline in pixels.
    """
    low, high = outline[0].min(0), outline[0].max(0)
    scale = side * min(frame) / (high - low).max()
    room = np.array([frame[1], frame[0]]) - scale * (high - low) - 2 * MARGIN
    corner = MARGIN + rng.random(2) * np.maximum(room, 0)
    return [(curve - low) * scale + corner for curve in outline]


def are_apart(first: Outline, second: Outline, gap: float = 6.0) -> bool:
    """Return whether the boxes of two outlines are more than `gap` pixels apart."""
    low, high = first[0].min(0) - gap, first[0].max(0) + gap
    return bool((second[0].min(0) > high).any() or (second[0].max(0) < low).any())


# ------------------------------------------------------------------------------------- coverage


def cover(outline: Outline, frame: Size, pad: int = 0) -> tuple[UInt8[np.ndarray, "h w"], int, int]:
    """Compute how much of each pixel an outline covers.

    Args:
        outline: In pixels.
        frame: (height, width) of the image.
        pad: Pixels that the window has on each side of the outline, inside the frame.

    Returns:
        Coverage from 0 to 255 in a window of the image, and the window's left x and top y.
    """
    low, high = outline[0].min(0), outline[0].max(0)
    x0, y0 = (max(0, math.floor(start) - pad) for start in low)
    x1, y1 = (min(n, math.ceil(end) + pad) for end, n in zip(high, frame[::-1], strict=True))
    if x1 <= x0 or y1 <= y0:
        return np.zeros((0, 0), np.uint8), 0, 0
    canvas = np.zeros(((y1 - y0) * SUPERSAMPLE, (x1 - x0) * SUPERSAMPLE), np.uint8)
    origin = np.array([x0, y0])
    curves = [
        ((curve - origin) * SUPERSAMPLE * 16 - 8).round().astype(np.int32) for curve in outline
    ]
    cv2.fillPoly(canvas, curves, (255,), shift=4)
    return cv2.resize(canvas, (x1 - x0, y1 - y0), interpolation=cv2.INTER_AREA), x0, y0


def draw_mask(outline: Outline, frame: Size) -> UInt8[np.ndarray, "H W"]:
    """Return 1 where the outline covers at least half of a pixel, else 0."""
    mask = np.zeros(frame, np.uint8)
    alpha, x, y = cover(outline, frame)
    mask[y : y + alpha.shape[0], x : x + alpha.shape[1]] = alpha >= 128
    return mask


def compute_box(mask: UInt8[np.ndarray, "H W"]) -> Float32[np.ndarray, "4"]:
    """Return the tightest half-open xyxy box around a mask."""
    x, y, width, height = cv2.boundingRect(mask)
    return np.array([x, y, x + width, y + height], np.float32)


def encode_mask(mask: UInt8[np.ndarray, "H W"]) -> Rle:
    """Return a mask as COCO's compressed run-length encoding."""
    from pycocotools import mask as coco  # here: only ground truth needs it

    encoded = coco.encode(np.asfortranarray(mask))
    return {"size": [int(n) for n in encoded["size"]], "counts": encoded["counts"].decode("ascii")}
