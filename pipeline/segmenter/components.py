"""Connected components of a mask, or the parts that they are parted into (parts.py).

The largest, or all that are kept, each with box and score.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np

from pipeline.segmenter.parts import Parts, part_components

if TYPE_CHECKING:
    from jaxtyping import Bool, Float32, Int32, UInt8

# OpenCV's statistics take five times as long as its labelling. A map has few components: up to this
# many are measured separately, which is faster.
MAX_SEPARATE = 10

Box = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels of the mask, half-open."""


@dataclass(frozen=True)
class Component:
    """A connected component, or several that were merged.

    Attributes:
        box: the tightest box around it.
        score: mean or maximum of the map inside it.
        pixels: their number.
        labels: those of the connected components that it consists of.
    """

    box: Box
    score: float
    pixels: int
    labels: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class ComponentRules:
    """Which components of a mask are kept, and how they are scored.

    Attributes:
        keep: the one with most pixels, the first of equals; or all.
        share: of all, keep those with at least this share of the largest one's pixels.
        merge: of all, merge two if the smaller box has at least this share of its area in the
            other; None: merge none.
        connectivity: 8 if diagonal neighbours are connected, else 4.
        score: mean or peak (maximum) of the map inside a component.
        parts: how components are parted into objects, before any is chosen: see parts.py.
        depth: how far the landscape must fall between two parts, as a share of the lower peak.
    """

    keep: Literal["largest", "all"] = "largest"
    share: float = 0.0
    merge: float | None = None
    connectivity: Literal[4, 8] = 8
    score: Literal["mean", "peak"] = "mean"
    parts: Parts = "none"
    depth: float = 0.0


@dataclass(frozen=True)
class Components:
    """The kept components of a mask, in raster order of their first pixels.

    Attributes:
        kept: the components.
        labels: of each pixel's connected component, kept or not; 0: of none.
    """

    kept: Sequence[Component]
    labels: Int32[np.ndarray, "H W"]

    def mask(self, n: int) -> Bool[np.ndarray, "H W"]:
        """Return the mask of the n-th kept component."""
        labels = self.kept[n].labels
        if len(labels) == 1:
            return np.asarray(self.labels == labels[0])
        return np.isin(self.labels, labels)


def find_components(
    mask: UInt8[np.ndarray, "H W"], scaled: Float32[np.ndarray, "H W"], rules: ComponentRules
) -> Components:
    """Find the components of a mask, and measure those that are kept.

    Args:
        mask: 1 inside, 0 outside; not 0 everywhere.
        scaled: the map that components are scored by.
        rules: which are kept, and how they are scored.
    """
    count, labels = _label(mask, rules.connectivity)
    count, labels = part_components(labels, count, scaled, rules.parts, rules.depth)
    sizes = _count_pixels(mask, labels, count)
    if rules.keep == "largest":
        chosen = [int(sizes.argmax()) + 1]
    else:
        chosen = (np.flatnonzero(sizes >= rules.share * sizes.max()) + 1).tolist()
    measure = _choose_measure(labels, scaled, len(chosen), rules.score)
    only = mask if count == 1 else None  # the mask of the only component needs no comparison
    kept = [Component(*measure(label, only), int(sizes[label - 1]), (label,)) for label in chosen]
    if rules.merge is not None and len(kept) > 1:
        kept = _merge_components(kept, rules.merge, rules.score)
    return Components(kept, labels)


def _label(mask: UInt8[np.ndarray, "H W"], connectivity: int) -> tuple[int, np.ndarray]:
    """Label components from 1 in raster order of their first pixels, and return their number.

    SAUF numbers them so; OpenCV's default algorithm does not.
    """
    count, labels = cv2.connectedComponentsWithAlgorithm(
        mask, connectivity, cv2.CV_32S, cv2.CCL_SAUF
    )
    return count - 1, labels


def _count_pixels(mask: UInt8[np.ndarray, "H W"], labels: np.ndarray, count: int) -> np.ndarray:
    """Count the pixels of each component, in the order of their labels."""
    if count == 1:
        return np.array([cv2.countNonZero(mask)])
    if count <= MAX_SEPARATE:
        masks = ((labels == label).view(np.uint8) for label in range(1, count + 1))
        return np.array([cv2.countNonZero(member) for member in masks])
    return np.asarray(np.bincount(labels.ravel())[1:])


def _choose_measure(
    labels: np.ndarray, scaled: np.ndarray, count: int, score: str
) -> Callable[[int, np.ndarray | None], tuple[Box, float]]:
    """Choose a function from a component's label (and its mask, if known) to its box and score.

    Many components are measured in one pass over the map when this is called, few when needed.
    """
    if count <= MAX_SEPARATE:

        def measure_separately(label: int, mask: np.ndarray | None) -> tuple[Box, float]:
            member = (labels == label).view(np.uint8) if mask is None else mask
            x, y, width, height = cv2.boundingRect(member)
            part = slice(y, y + height), slice(x, x + width)
            inside, shape = scaled[part], member[part]
            value = cv2.mean(inside, shape)[0] if score == "mean" else inside[shape != 0].max()
            return (x, y, x + width, y + height), float(value)

        return measure_separately
    flat = labels.ravel()
    sizes = np.bincount(flat)
    if score == "mean":
        values = np.bincount(flat, scaled.ravel()) / np.maximum(sizes, 1)
    else:
        values = np.zeros(len(sizes))
        np.maximum.at(values, flat, scaled.ravel())
    xs, ys = _find_ends(labels, len(sizes), 0), _find_ends(labels, len(sizes), 1)

    def look_up(label: int, mask: np.ndarray | None) -> tuple[Box, float]:
        box = int(xs[0][label]), int(ys[0][label]), int(xs[1][label]), int(ys[1][label])
        return box, float(values[label])

    return look_up


def _find_ends(labels: np.ndarray, count: int, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the first column (axis 0) or row (axis 1) of each label, and the end after the last."""
    length = labels.shape[1] if axis == 0 else labels.shape[0]
    position = np.arange(length) if axis == 0 else np.arange(length)[:, None]
    positions = np.broadcast_to(position, labels.shape).ravel()
    first, end = np.full(count, length), np.zeros(count, int)
    np.minimum.at(first, labels.ravel(), positions)
    np.maximum.at(end, labels.ravel(), positions + 1)
    return first, end


def _merge_components(components: Sequence[Component], merge: float, score: str) -> list[Component]:
    """Merge two components whose boxes overlap by at least `merge`, until there are none.

    A merged component has the place of the first of both in raster order.
    """
    kept = list(components)
    n = 0
    while n < len(kept):
        other = next(
            (m for m in range(len(kept)) if m != n and _overlap(kept[n].box, kept[m].box) >= merge),
            None,
        )
        if other is None:
            n += 1
            continue
        first, second = sorted((n, other))
        kept[first] = _merge_pair(kept[first], kept.pop(second), score)
        n = 0
    return kept


def _overlap(a: Box, b: Box) -> float:
    """Return the intersection of two boxes as a fraction of the area of the smaller one."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return max(width, 0) * max(height, 0) / smaller


def _merge_pair(a: Component, b: Component, score: str) -> Component:
    (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = a.box, b.box
    pixels = a.pixels + b.pixels
    mean = (a.score * a.pixels + b.score * b.pixels) / pixels
    return Component(
        (min(ax0, bx0), min(ay0, by0), max(ax1, bx1), max(ay1, by1)),
        mean if score == "mean" else max(a.score, b.score),
        pixels,
        (*a.labels, *b.labels),
    )
