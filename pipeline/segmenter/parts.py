"""Part a component into several objects that touch: a watershed from the peaks of a landscape.

    peaks   the landscape is the map itself
    necks   the landscape is the distance of a pixel to the edge of its component

Pixels are visited from the highest to the lowest; a pixel without a visited neighbour begins a part
(a peak), others join the part of their neighbours. Where two parts meet at height s, the one with
the lower peak p stays a part of its own if it stands out, and is merged into the other if not:

    parted    p - s >= depth * p

p - s is the topographic prominence of the peak; the rule is that of persistence-based clustering:
Chazal et al., "Persistence-Based Clustering in Riemannian Manifolds", JACM 60(6), 2013. The
watershed is that of Vincent and Soille, "Watersheds in Digital Spaces", IEEE TPAMI 13(6), 1991,
without lines between the parts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool, Float32, Int32, UInt8

Parts = Literal["none", "peaks", "necks"]

# Pixels of the frame's longer side that are visited: upsampled maps change little between
# neighbours, and the time grows with the number of visited pixels.
GRID_SIDE = 96
MIN_VISITED = 16  # pixels of a component that is parted


def part_components(
    labels: Int32[np.ndarray, "H W"],
    count: int,
    scaled: Float32[np.ndarray, "H W"],
    by: Parts,
    depth: float,
) -> tuple[int, Int32[np.ndarray, "H W"]]:
    """Part each component into the objects that it consists of.

    Args:
        labels: of each pixel's component, from 1; 0: of none.
        count: the number of components.
        scaled: the map in [0, 1].
        by: what the landscape is.
        depth: how far the landscape must fall between two parts, as a share of the lower peak.

    Returns:
        The number of parts, and the label of each pixel's part, in raster order of their first
        pixels.
    """
    if by == "none":
        return count, labels
    step = -(-max(labels.shape) // GRID_SIDE)
    parted, total = labels.copy(), count
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    for label in (np.flatnonzero(sizes >= MIN_VISITED * step**2) + 1).tolist():
        member = (labels == label).view(np.uint8)
        x, y, width, height = cv2.boundingRect(member)
        window = slice(y, y + height), slice(x, x + width)
        inside = member[window]
        landscape = scaled[window] if by == "peaks" else _measure_edge_distance(inside)
        parts = flood(landscape[::step, ::step], inside[::step, ::step] > 0, depth)
        if parts.max(initial=0) < 2:
            continue
        full = _enlarge(parts, inside, step)
        moved = full > 1  # the first part keeps the label of the component
        parted[window][moved] = full[moved] + (total - 1)
        total += int(full.max()) - 1
    return total, parted if total == count else _renumber(parted, total)


def flood(
    landscape: Float32[np.ndarray, "h w"], inside: Bool[np.ndarray, "h w"], depth: float
) -> Int32[np.ndarray, "h w"]:
    """Part the pixels inside by the peaks of a landscape; diagonal neighbours are connected.

    Args:
        landscape: heights, not negative.
        inside: the pixels that are parted.
        depth: how far the landscape must fall between two parts, as a share of the lower peak.

    Returns:
        The part of each pixel, from 1 on without gaps; 0 outside.
    """
    result = np.zeros(inside.shape, np.int32)
    if not _has_several_peaks(landscape, inside):
        result[inside] = 1
        return result
    width = inside.shape[1] + 2  # with a border, which is never visited
    places = np.flatnonzero(np.pad(inside, 1))
    heights = np.pad(landscape, 1).ravel()[places]
    order = np.argsort(-heights, kind="stable")
    offsets = (-width - 1, -width, -width + 1, -1, 1, width - 1, width, width + 1)
    visited: dict[int, tuple[int, int]] = {}  # by place: rank of its height, and its part
    merged_into: list[int] = []  # by part; parts are numbered as they begin, from the highest peak
    peaks: list[float] = []

    def find(part: int) -> int:
        while merged_into[part] != part:
            merged_into[part] = merged_into[merged_into[part]]
            part = merged_into[part]
        return part

    heights_in_order = heights[order].tolist()
    for rank, (place, height) in enumerate(
        zip(places[order].tolist(), heights_in_order, strict=True)
    ):
        around = [visited[place + offset] for offset in offsets if place + offset in visited]
        if not around:
            visited[place] = rank, len(peaks)
            merged_into.append(len(peaks))
            peaks.append(height)
            continue
        visited[place] = rank, min(around)[1]  # the part of the highest neighbour
        met = {find(part) for _, part in around}
        highest = min(met)
        for other in met - {highest}:
            if peaks[other] - height < depth * peaks[other]:
                merged_into[other] = highest
    roots = [find(part) for part in range(len(peaks))]
    numbers = {root: n for n, root in enumerate(sorted(set(roots)), 1)}
    result[inside] = [numbers[roots[visited[place][1]]] for place in places.tolist()]
    return result


def _has_several_peaks(landscape: np.ndarray, inside: np.ndarray) -> bool:
    """Return whether the landscape has more than one regional maximum inside."""
    heights = np.where(inside, landscape, np.float32(-1)).astype(np.float32)
    around = cv2.dilate(heights, np.ones((3, 3), np.uint8))
    tops = ((heights >= around) & inside).view(np.uint8)
    return int(cv2.connectedComponents(tops, connectivity=8)[0]) > 2


def _measure_edge_distance(inside: UInt8[np.ndarray, "h w"]) -> Float32[np.ndarray, "h w"]:
    """Measure the distance of each pixel to the nearest one outside; the border is outside."""
    padded = cv2.copyMakeBorder(inside, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=(0,))
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_5)
    return np.asarray(distance[1:-1, 1:-1], np.float32)


def _enlarge(
    parts: Int32[np.ndarray, "h w"], inside: UInt8[np.ndarray, "H W"], step: int
) -> Int32[np.ndarray, "H W"]:
    """Give each pixel inside the part of the nearest visited pixel."""
    known = np.zeros(inside.shape, np.int32)
    known[::step, ::step] = parts
    _, nearest = cv2.distanceTransformWithLabels(
        (known == 0).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    part_of = np.zeros(int(nearest.max()) + 1, np.int32)
    part_of[nearest[known > 0]] = known[known > 0]
    return np.where(inside > 0, part_of[nearest], 0).astype(np.int32)


def _renumber(labels: Int32[np.ndarray, "H W"], count: int) -> Int32[np.ndarray, "H W"]:
    """Assign numbers from 1 to labels, in raster order of their first pixels."""
    present, first = np.unique(labels, return_index=True)
    present, first = present[present > 0], first[present > 0]
    numbers = np.zeros(count + 1, np.int32)
    numbers[present[np.argsort(first, kind="stable")]] = np.arange(1, len(present) + 1)
    return np.asarray(numbers[labels])
