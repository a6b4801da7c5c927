"""Connected parts of a mask: the largest, or all that count, each with its box and its score."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool, Float32, Int32, UInt8

# OpenCV's statistics cost five times its labelling; a map has few components, and up to this many
# are measured one by one.
FEW = 10


@dataclass(frozen=True)
class Part:
    """A component, or several that were merged."""

    box: tuple[int, int, int, int]  # xyxy, half-open
    score: float
    pixels: int
    members: tuple[int, ...]  # the components' labels


@dataclass(frozen=True)
class Parts:
    """What is kept of a mask, in raster order of first pixels."""

    parts: Sequence[Part]
    labels: Int32[np.ndarray, "H W"]  # of each pixel's component, 0 of none

    def mask(self, n: int) -> Bool[np.ndarray, "H W"]:
        members = self.parts[n].members
        if len(members) == 1:
            return np.asarray(self.labels == members[0])
        return np.isin(self.labels, members)


def parts_of(
    mask: UInt8[np.ndarray, "H W"],
    scaled: Float32[np.ndarray, "H W"],
    *,
    keep: Literal["largest", "all"] = "largest",
    share: float = 0.0,
    merge: float | None = None,
    connectivity: int = 8,
    score: Literal["mean", "peak"] = "mean",
) -> Parts:
    """Components of a mask that is somewhere not 0.

    `largest`: the one with most pixels, the first of equals. `all`: every one with at least
    `share` of the largest's pixels; where the box of one has at least `merge` of its area in
    another's, the two are one.
    """
    count, labels = _labels(mask, connectivity)
    sizes = _sizes(mask, labels, count)
    if keep == "largest":
        chosen = [int(sizes.argmax()) + 1]
    else:
        chosen = (np.flatnonzero(sizes >= share * sizes.max()) + 1).tolist()
    measure = _measurer(labels, scaled, len(chosen), score)
    alone = count == 1  # then the mask needs no comparison with labels
    found = [Part(*measure(n, mask if alone else None), int(sizes[n - 1]), (n,)) for n in chosen]
    if merge is not None and len(found) > 1:
        found = _merged(found, merge, score)
    return Parts(found, labels)


def _labels(mask: UInt8[np.ndarray, "H W"], connectivity: int) -> tuple[int, np.ndarray]:
    """Components, numbered from 1 in raster order of their first pixels, as SAUF does and OpenCV's
    default does not."""
    count, labels = cv2.connectedComponentsWithAlgorithm(
        mask, connectivity, cv2.CV_32S, cv2.CCL_SAUF
    )
    return count - 1, labels


def _sizes(mask: UInt8[np.ndarray, "H W"], labels: np.ndarray, count: int) -> np.ndarray:
    if count == 1:
        return np.array([cv2.countNonZero(mask)])
    if count <= FEW:
        each = ((labels == n).view(np.uint8) for n in range(1, count + 1))
        return np.array([cv2.countNonZero(one) for one in each])
    return np.asarray(np.bincount(labels.ravel())[1:])


def _measurer(
    labels: np.ndarray, scaled: np.ndarray, count: int, score: str
) -> Callable[[int, np.ndarray | None], tuple[tuple[int, int, int, int], float]]:
    """From a component's label to its box and its score."""
    if count <= FEW:

        def alone(n: int, mask: np.ndarray | None) -> tuple[tuple[int, int, int, int], float]:
            member = (labels == n).view(np.uint8) if mask is None else mask
            x, y, width, height = cv2.boundingRect(member)
            part = slice(y, y + height), slice(x, x + width)
            inside, shape = scaled[part], member[part]
            value = cv2.mean(inside, shape)[0] if score == "mean" else inside[shape != 0].max()
            return (x, y, x + width, y + height), float(value)

        return alone
    flat = labels.ravel()
    sizes = np.bincount(flat)
    if score == "mean":
        values = np.bincount(flat, scaled.ravel()) / np.maximum(sizes, 1)
    else:
        values = np.zeros(len(sizes))
        np.maximum.at(values, flat, scaled.ravel())
    xs, ys = _ends(labels, len(sizes), 0), _ends(labels, len(sizes), 1)

    def together(n: int, mask: np.ndarray | None) -> tuple[tuple[int, int, int, int], float]:
        box = int(xs[0][n]), int(ys[0][n]), int(xs[1][n]), int(ys[1][n])
        return box, float(values[n])

    return together


def _ends(labels: np.ndarray, count: int, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """First and one past the last column (axis 0: of x) or row of each label."""
    length = labels.shape[1] if axis == 0 else labels.shape[0]
    place = np.arange(length) if axis == 0 else np.arange(length)[:, None]
    places = np.broadcast_to(place, labels.shape).ravel()
    first, last = np.full(count, length), np.zeros(count, int)
    np.minimum.at(first, labels.ravel(), places)
    np.maximum.at(last, labels.ravel(), places + 1)
    return first, last


def _merged(found: Sequence[Part], merge: float, score: str) -> list[Part]:
    """Pairs of which one's box lies in the other's by at least `merge` become one, until none is
    left; the first in raster order gives the place."""
    kept = list(found)
    n = 0
    while n < len(kept):
        other = next(
            (m for m in range(len(kept)) if m != n and _inside(kept[n].box, kept[m].box) >= merge),
            None,
        )
        if other is None:
            n += 1
            continue
        first, second = sorted((n, other))
        kept[first] = _one(kept[first], kept.pop(second), score)
        n = 0
    return kept


def _inside(a: tuple[int, ...], b: tuple[int, ...]) -> float:
    """Shared area over the smaller box's."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return max(width, 0) * max(height, 0) / smaller


def _one(a: Part, b: Part, score: str) -> Part:
    (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = a.box, b.box
    pixels = a.pixels + b.pixels
    mean = (a.score * a.pixels + b.score * b.pixels) / pixels
    return Part(
        (min(ax0, bx0), min(ay0, by0), max(ax1, bx1), max(ay1, by1)),
        mean if score == "mean" else max(a.score, b.score),
        pixels,
        (*a.members, *b.members),
    )
