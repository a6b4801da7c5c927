"""Superpixels: an image as segments of neighbouring pixels of similar colour.

    D^2 = |c_p - c_k|^2 + (compactness |x_p - x_k| / S)^2        S = sqrt(pixels / segments)

SLIC, Achanta et al., "SLIC Superpixels Compared to State-of-the-art Superpixel Methods", PAMI 2012:
k-means of colour c and position x, from a regular grid; a centre sees the pixels within S in both
directions. Of each cluster the largest connected part is kept, and what is left over joins the
nearest segment. The paper's colours are CIELAB's. A method does not know how an image was
normalized, so that colours here are those of the network's input, divided by the standard deviation
of all values of the image: a factor or a shift of each channel's zero does not change the segments.

`grid` gives the cells of that regular grid, whatever the image shows.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

Superpixels = Literal["slic", "grid"]
ITERATIONS = 10  # of k-means, as in the paper


def segment_superpixels(
    image: Float[Tensor, "C H W"], kind: Superpixels, segments: int, compactness: float
) -> Int[np.ndarray, "H W"]:
    """Segment an image into superpixels.

    Args:
        image: As the network sees it.
        kind: `slic`, or `grid` for rectangular cells.
        segments: How many there are about; `slic` gives this number or less.
        compactness: Of `slic`: how much nearness counts beside colour; a distance of S counts as
            much as a difference of so many standard deviations of the image.

    Returns:
        The segment of each pixel, from 0, without gaps.
    """
    height, width = image.shape[1:]
    cells = build_grid((height, width), segments)
    if kind == "grid":
        return cells
    colours = image.detach().cpu().double().permute(1, 2, 0).numpy()
    spread = math.sqrt(colours.var((0, 1)).mean())
    side = math.sqrt(height * width / segments)
    clusters = _cluster(colours / max(spread, 1e-12), cells, side, compactness)
    return _connect(clusters)


def build_grid(size: tuple[int, int], segments: int) -> Int[np.ndarray, "H W"]:
    """Return the cell of each pixel in a grid of about so many, nearly square cells.

    Args:
        size: Height and width of the image.
        segments: How many cells there are about.
    """
    side = math.sqrt(size[0] * size[1] / segments)
    counts = [min(pixels, max(1, round(pixels / side))) for pixels in size]
    row, column = (
        np.arange(pixels) * count // pixels for pixels, count in zip(size, counts, strict=True)
    )
    return row[:, None] * counts[1] + column


def _cluster(
    colours: Float[np.ndarray, "H W C"],
    cells: Int[np.ndarray, "H W"],
    side: float,
    compactness: float,
) -> Int[np.ndarray, "H W"]:
    """Return the cluster of each pixel, by k-means from the cells of a grid."""
    height, width = cells.shape
    rows, columns = np.indices(cells.shape)
    features = np.concatenate([colours, np.stack([rows, columns], 2) * (compactness / side)], 2)
    flat, places = features.reshape(height * width, -1), np.stack([rows.ravel(), columns.ravel()])
    reach, clusters = math.ceil(side), cells
    for _ in range(ITERATIONS):
        labels = clusters.ravel()
        counts = np.maximum(np.bincount(labels), 1)
        centres = np.stack([np.bincount(labels, values) for values in flat.T], 1) / counts[:, None]
        middles = np.stack([np.bincount(labels, values) for values in places], 1) / counts[:, None]
        best = np.full(cells.shape, np.inf)
        after = clusters.copy()
        for label in np.unique(labels):
            y, x = np.rint(middles[label]).astype(int)
            window = np.s_[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]
            distance = ((features[window] - centres[label]) ** 2).sum(2)
            nearer = distance < best[window]
            best[window][nearer] = distance[nearer]
            after[window][nearer] = label
        if np.array_equal(after, clusters):
            break
        clusters = after
    return clusters


def _connect(clusters: Int[np.ndarray, "H W"]) -> Int[np.ndarray, "H W"]:
    """Keep the largest connected part of each cluster; all other pixels join the nearest part."""
    kept = np.zeros(clusters.shape, np.int32)
    names = np.unique(clusters)
    for name, label in enumerate(names.tolist(), 1):
        _, parts, stats, _ = cv2.connectedComponentsWithStats(
            (clusters == label).astype(np.uint8), connectivity=4
        )
        kept[parts == 1 + stats[1:, cv2.CC_STAT_AREA].argmax()] = name
    _, nearest = cv2.distanceTransformWithLabels(
        (kept == 0).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    name_of = np.zeros(nearest.max() + 1, np.int64)
    name_of[nearest[kept > 0]] = kept[kept > 0]
    return name_of[nearest] - 1
