"""Felzenszwalb's segmentation: regions that differ more from each other than within themselves.

    join C1, C2 over an edge of weight w  if  w <= min(Int(C1) + k / |C1|, Int(C2) + k / |C2|)

Felzenszwalb and Huttenlocher, "Efficient Graph-Based Image Segmentation", IJCV 2004: edges between
neighbouring pixels, diagonal ones too, are taken in the order of their weights, the distance of
colours; Int(C) is the largest weight that joined C, and k, the scale, makes segments larger.
Segments of fewer than `smallest` pixels then join their nearest neighbour in that order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from pipeline.ops.compiled import njit

if TYPE_CHECKING:
    from jaxtyping import Float, Int

STEPS = ((0, 1), (1, 0), (1, 1), (1, -1))  # to the neighbours of a pixel, each pair once


def segment_felzenszwalb(
    image: Float[np.ndarray, "H W c"], scales: tuple[float, ...], sigma: float, smallest: int
) -> list[Int[np.ndarray, "H W"]]:
    """Segment an image at several scales.

    Args:
        image: Colours; the scale has their unit, times pixels.
        scales: k of each segmentation.
        sigma: Of the Gaussian that smooths the image first, in pixels; 0: not smoothed.
        smallest: Pixels of a segment, at least.

    Returns:
        The segment of each pixel, from 0, without gaps, at each scale.
    """
    height, width, channels = image.shape
    smooth: Float[np.ndarray, "H W c"] = np.asarray(image, np.float64)
    if sigma > 0:
        smooth = cv2.GaussianBlur(smooth, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
    smooth = smooth.reshape(height, width, channels)
    places = np.arange(height * width).reshape(height, width)
    ends, weights = [], []
    for down, across in STEPS:
        here, there = _pair(places, down, across)
        first, second = _pair(smooth, down, across)
        ends.append(np.stack([here.ravel(), there.ravel()], 1))
        weights.append(np.sqrt(((first - second) ** 2).sum(2)).ravel())
    joined = np.concatenate(weights)
    order = np.argsort(joined, kind="stable")
    edges, costs = np.concatenate(ends)[order], joined[order]
    segmentations = []
    for scale in scales:
        roots = _join(edges, costs, places.size, float(scale), smallest)
        segmentations.append(np.unique(roots, return_inverse=True)[1].reshape(places.shape))
    return segmentations


def _pair(values: np.ndarray, down: int, across: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the values of pixels, and those of their neighbours one step away."""
    height, width = values.shape[:2]
    left, right = max(0, -across), width - max(0, across)
    here = values[: height - down, left:right]
    return here, values[down:, left + across : right + across]


@njit
def _find_root(parents: np.ndarray, place: int) -> int:
    """Return the root of a pixel's segment, and shorten the way to it."""
    root = place
    while parents[root] != root:
        root = parents[root]
    while parents[place] != root:
        parents[place], place = root, parents[place]
    return root


@njit
def _join(
    edges: np.ndarray, costs: np.ndarray, count: int, scale: float, smallest: int
) -> np.ndarray:
    """Return the root of each pixel's segment."""
    parents = np.arange(count)
    sizes = np.ones(count, np.int64)
    limits = np.full(count, scale)  # Int(C) + k / |C|
    for n in range(len(costs)):
        first, second = _find_root(parents, edges[n, 0]), _find_root(parents, edges[n, 1])
        if first != second and costs[n] <= min(limits[first], limits[second]):
            parents[second] = first
            sizes[first] += sizes[second]
            limits[first] = costs[n] + scale / sizes[first]
    for n in range(len(costs)):
        first, second = _find_root(parents, edges[n, 0]), _find_root(parents, edges[n, 1])
        if first != second and min(sizes[first], sizes[second]) < smallest:
            parents[second] = first
            sizes[first] += sizes[second]
    for place in range(count):
        parents[place] = _find_root(parents, place)
    return parents
