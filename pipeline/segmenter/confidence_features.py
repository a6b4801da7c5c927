"""What tells right boxes from wrong ones: a few numbers of each box, from its map alone.

    class_logit  log odds of the class's probability     other_class  1 if another is predicted
    stability    mean over thresholds of the IoU of the box with the component that it fits best
    plateau      share of the thresholds at which that IoU is at least 0.5
    variation    standard deviation over mean of the map inside the box
    components   mean over thresholds of the logarithm of the number of components
    edges        how many edges of the image the box touches

The thresholds are the same for all maps: at equal steps of their logit, as maps of localization
heads change most near 0 and 1. So the numbers do not depend on the threshold or the segmenter that
a box comes from. A box that hardly changes with the threshold is mostly right: Matas et al.,
"Robust Wide Baseline Stereo from Maximally Stable Extremal Regions", BMVC 2002, select regions so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from pipeline.ops.iou import pairwise_iou
from pipeline.ops.maps import frame_size, upsample

if TYPE_CHECKING:
    from jaxtyping import Float32, Float64, Int32

    from pipeline.types import Boxes, SaliencyMap

FEATURES = (
    "class_logit",
    "other_class",
    "stability",
    "plateau",
    "variation",
    "components",
    "edges",
)
SIDE = 64  # pixels of the longer side that maps are scaled to; a map has some ten cells a side
LOGITS = (-3.5, -2.5, -1.5, -0.5, 0.5, 1.5, 2.5)  # of the thresholds
MIN_SHARE = 0.05  # of the largest component's pixels; smaller ones are not counted
PLATEAU_IOU = 0.5
TOUCHES = 1.5  # pixels of the scaled map from an edge
MIN_ODDS = 1e-3  # keeps the log odds finite


def measure_features(saliency: SaliencyMap, boxes: Boxes) -> Float32[np.ndarray, "N 7"]:
    """Measure what tells right boxes from wrong ones.

    Args:
        saliency: the map.
        boxes: those that a segmenter found in it, by whatever rule.

    Returns:
        A row for each box, with a column for each of `FEATURES`.
    """
    if not len(boxes.boxes):
        return np.zeros((0, len(FEATURES)), np.float32)
    scaled = upsample(saliency.raw(), frame_size(saliency.size, SIDE))
    height, width = scaled.shape
    y, x = height / saliency.size[0], width / saliency.size[1]
    framed = boxes.boxes * np.array([x, y, x, y])
    fits, counts = _compare_with_components(scaled, framed)
    probability = min(max(saliency.score, 0.0), 1.0)
    rows = np.empty((len(framed), len(FEATURES)), np.float32)
    rows[:, 0] = np.log((probability + MIN_ODDS) / (1 - probability + MIN_ODDS))
    rows[:, 1] = saliency.predicted != saliency.explained
    rows[:, 2] = fits.mean(0)
    rows[:, 3] = (fits >= PLATEAU_IOU).mean(0)
    rows[:, 4] = [_measure_variation(scaled, box) for box in framed]
    rows[:, 5] = np.log(counts).mean()
    rows[:, 6] = (framed[:, :2] < TOUCHES).sum(1)
    rows[:, 6] += (framed[:, 2:] > np.array([width, height]) - TOUCHES).sum(1)
    return rows


def _compare_with_components(
    scaled: Float32[np.ndarray, "H W"], boxes: Float64[np.ndarray, "N 4"]
) -> tuple[Float64[np.ndarray, "T N"], Float64[np.ndarray, T]]:
    """Compare boxes with the components at each threshold.

    Returns:
        The IoU of each box with the component that it fits best, and the number of components.
    """
    found = [_find_components(scaled, logit) for logit in LOGITS]
    counts = np.array([len(components) for components in found])
    fits = pairwise_iou(np.concatenate(found), boxes)
    starts = np.cumsum(counts) - counts
    best = np.maximum.reduceat(np.concatenate([fits, np.zeros((1, len(boxes)))]), starts)
    return np.where(counts[:, None] > 0, best, 0), np.maximum(counts, 1)


def _find_components(scaled: Float32[np.ndarray, "H W"], logit: float) -> Int32[np.ndarray, "C 4"]:
    """Find the boxes of the components at the threshold of a logit, without the small ones."""
    _, mask = cv2.threshold(scaled, 1 / (1 + np.exp(-logit)), 1, cv2.THRESH_BINARY)
    _, _, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    components = statistics[1:]
    if len(components) > 1:
        pixels = components[:, 4]
        components = components[pixels >= MIN_SHARE * pixels.max()]
    components[:, 2:4] += components[:, :2]
    return np.asarray(components[:, :4])


def _measure_variation(scaled: Float32[np.ndarray, "H W"], box: Float64[np.ndarray, "4"]) -> float:
    """Measure the standard deviation over the mean of a scaled map inside a box."""
    x0, y0, x1, y1 = np.round(box).astype(int)
    inside = scaled[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)]
    if not inside.size:  # a box of less than a pixel at the far edge
        return 0.0
    mean, deviation = cv2.meanStdDev(inside)
    return float(deviation[0, 0] / (mean[0, 0] + 0.01))
