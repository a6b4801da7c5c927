"""Choose a threshold on a few annotated images, shrunk to the rule that needs no boxes.

    r_i(t)  = 1 / (1 + exp((iou - IoU_i(t)) / 0.06)), smoothed over logit t (Gaussian, width 0.3)
    g_i(t)  = r_i(t) - r_i(t0)
    chosen  = argmax_t  mean_i g_i(t) - strength * sd_i g_i(t) / sqrt(n)

t0 is the prior: the threshold of the rule without boxes. A threshold is preferred to it as far as
its gain exceeds the standard error of the gain, which vanishes at t0 and with many images. The
smooth step counts an image that nearly reaches the IoU in part, and the logit gives low thresholds,
where saturated maps have theirs, as much room as high ones. docs/metrics.md has the measurements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from pipeline.metric.components import THRESHOLDS, threshold_index

if TYPE_CHECKING:
    from jaxtyping import Float64, Int

STRENGTH = 0.5  # of the prior, in standard errors of the gain
STEP_WIDTH = 0.06  # of the smooth step, in IoU
SMOOTHING_WIDTH = 0.3  # in logits
MIN_THRESHOLD = 0.0005  # below it logits count as equal: threshold 0 has none
MAX_SINGLE_FOLDS = 50  # images up to which each is a fold of its own
FOLDS = 10  # of more images
CHUNK = 1024  # images whose curves are smoothed at a time


@dataclass(frozen=True)
class Gains:
    """Sums over images of their gain over the prior at each threshold, for each fold.

    Attributes:
        count: images of each fold.
        total: sum of the gains.
        squares: sum of the squared gains.
        prior: the threshold that they are relative to.
    """

    count: Int[np.ndarray, K]
    total: Float64[np.ndarray, "K T"]
    squares: Float64[np.ndarray, "K T"]
    prior: float

    def choose(self, without: int | None = None) -> float:
        """Choose the threshold with the highest gain, less its uncertainty.

        Args:
            without: a fold that has no part in the choice; None: all have.

        Returns:
            A fraction of the maximum, to a thousandth; the middle one of those that are equally
            good. The prior where no image is left.
        """
        kept = np.ones(len(self.count), bool)
        if without is not None:
            kept[without] = False
        n = int(self.count[kept].sum())
        if n == 0:
            return round(self.prior, 3)
        mean, squares = (sums[kept].sum(0) / n for sums in (self.total, self.squares))
        error = np.sqrt(np.maximum(squares - mean**2, 0) / max(n - 1, 1))
        score = np.round(mean - STRENGTH * error, 9)
        best = np.flatnonzero(score == score.max())
        return round(float(THRESHOLDS[best[(len(best) - 1) // 2]]), 3)


def measure_gains(
    rows: Float64[np.ndarray, "n T"], iou: float, prior: float, folds: Int[np.ndarray, n]
) -> Gains:
    """Measure how much better than the prior each threshold is, fold by fold.

    Args:
        rows: IoU at each of `THRESHOLDS`, an image each.
        iou: from which IoU on a box counts as right.
        prior: the threshold of the rule without boxes.
        folds: the fold of each image, from 0 on.
    """
    (gains,) = measure_gains_of_each(rows, iou, prior, [folds])
    return gains


def measure_gains_of_each(
    rows: Float64[np.ndarray, "n T"],
    iou: float,
    prior: float,
    foldings: Sequence[Int[np.ndarray, n]],
) -> list[Gains]:
    """Measure how much better than the prior each threshold is, for several ways to divide images.

    Smoothing takes most of the time, and is the same for all of them.

    Args:
        rows: IoU at each of `THRESHOLDS`, an image each.
        iou: from which IoU on a box counts as right.
        prior: the threshold of the rule without boxes.
        foldings: for each the fold of each image, from 0 on.

    Returns:
        The sums of each division, as `measure_gains` returns them.
    """
    counts = [int(folds.max()) + 1 for folds in foldings]
    sums = [np.zeros((2, count, len(THRESHOLDS))) for count in counts]
    at = threshold_index(prior)
    for start in range(0, len(rows), CHUNK):
        part = rows[start : start + CHUNK]
        reached = 1 / (1 + np.exp((iou - part) / STEP_WIDTH)) @ _smoothing_weights()
        gain = reached - reached[:, at : at + 1]
        for folds, (total, squares) in zip(foldings, sums, strict=True):
            np.add.at(total, folds[start : start + CHUNK], gain)
            np.add.at(squares, folds[start : start + CHUNK], gain**2)
    return [
        Gains(np.bincount(folds, minlength=count), total, squares, prior)
        for folds, count, (total, squares) in zip(foldings, counts, sums, strict=True)
    ]


def count_folds(images: int) -> int:
    """Return into how many folds that many images are divided for cross-fitting."""
    return images if images <= MAX_SINGLE_FOLDS else FOLDS


@cache
def _smoothing_weights() -> Float64[np.ndarray, "T T"]:
    """Return the weights that smooth a row of values over the logit of the threshold."""
    clipped = np.maximum(THRESHOLDS, MIN_THRESHOLD)
    logit = np.log(clipped / (1 - clipped))
    distance = (logit[:, None] - logit) / SMOOTHING_WIDTH
    weights = np.exp(-0.5 * distance**2) * np.gradient(logit)
    return np.asarray((weights / weights.sum(1, keepdims=True)).T)
