"""Scores of kinds of thresholds against the oracle, with intervals over photographs.

Several images may be crops of a photograph: whole photographs are resampled with replacement, 1000
times, and the middle 95 % of the differences to the oracle is the interval (the percentile
bootstrap of clusters; Davison & Hinkley, "Bootstrap Methods and their Application", 1997, section
3.8). The oracle's threshold is chosen anew in each resample, where it is more optimistic than on
the images themselves, so an interval reaches further below its difference than above. The draws of
boxes for validation thresholds are the same in all resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.metric.max_box_acc import best_threshold
from pipeline.ops.bootstrap import middle
from pipeline.stages.calibrate.calibration import MeasuredImage, choose_thresholds
from scripts.measure.threshold_maps import Half, MeasuredMaps

if TYPE_CHECKING:
    from jaxtyping import Float64

IOUS = (0.3, 0.5, 0.7)
BOXES = (10, 20, 50)
DRAWS = 30  # of boxes that a validation threshold is chosen on
SAMPLES = 1000
SIZES = {"below 0.25": (0, 0.25), "0.25 to 0.5": (0.25, 0.5), "0.5 to 0.75": (0.5, 0.75),
         "above 0.75": (0.75, np.inf)}  # fmt: skip
"""Share of the image's area that the largest object has: from, to below."""
USED, AUTO, ORACLE, CENTRE, WHOLE = "used", "auto", "oracle", "centre box", "whole image"

Correct = Mapping[str, "Float64[np.ndarray, n]"]
"""By kind of threshold: whether each image is correct, or its mean over draws and seeds."""


@dataclass(frozen=True)
class Score:
    """The accuracy of a kind of threshold.

    Attributes:
        accuracy: the share of correct images.
        difference: accuracy minus that of the oracle.
        interval: the 95 % interval of the difference.
        by_size: accuracy on the images of each of SIZES; NaN where there is none.
    """

    accuracy: float
    difference: float
    interval: tuple[float, float]
    by_size: Mapping[str, float]


@dataclass(frozen=True)
class Comparison:
    """The accuracy of a kind of threshold minus that of the best centre box.

    Attributes:
        difference: the paired difference.
        error: its standard error over photographs.
    """

    difference: float
    error: float

    @property
    def holds(self) -> bool:
        """Whether it is not below the centre box by more than two standard errors."""
        return self.difference >= -2 * self.error


@dataclass(frozen=True)
class Scores:
    """Scores at an IoU.

    Attributes:
        of: by kind.
        oracle_at: the oracle's threshold for each seed.
        against_centre: `used` and `auto` against the best centre box.
    """

    of: Mapping[str, Score]
    oracle_at: Sequence[float]
    against_centre: Mapping[str, Comparison]


class PhotographSampler:
    """Resamples of photographs, the same for all rows of the same images.

    Args:
        sources: the photograph of each image.
        samples: how many resamples.
        seed: of the resamples.
    """

    def __init__(self, sources: np.ndarray, samples: int = SAMPLES, seed: int = 0) -> None:
        _, number, counts = np.unique(sources, return_inverse=True, return_counts=True)
        self._order = np.argsort(number, kind="stable")
        self._starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
        rng = np.random.default_rng(seed)
        self.count = len(counts)
        self.weights = rng.multinomial(self.count, np.full(self.count, 1 / self.count), samples)
        self._images = self.weights @ counts

    def sums(self, rows: Float64[np.ndarray, "n k"]) -> Float64[np.ndarray, "p k"]:
        """Sum the rows of each photograph's images."""
        return np.asarray(np.add.reduceat(rows[self._order], self._starts, axis=0))

    def means(self, rows: Float64[np.ndarray, "n k"]) -> Float64[np.ndarray, "samples k"]:
        """Average rows over the images of each resample."""
        sums = self.sums(rows)
        return np.asarray((self.weights.astype(np.float64) @ sums) / self._images[:, None])

    def standard_error(self, values: Float64[np.ndarray, n]) -> float:
        """Compute the standard error of the mean of values, with photographs as clusters.

        sqrt(P / (P - 1) * sum over photographs of (sum of (value - mean))^2) / n
        """
        deviations = self.sums((values - values.mean())[:, None])
        scale = self.count / max(1, self.count - 1)
        return float(np.sqrt(scale * (deviations**2).sum())) / len(values)


def score(seeds: Sequence[Half]) -> dict[float, Scores]:
    """Score all kinds of thresholds at each of IOUS.

    Args:
        seeds: the measured maps of the same images, for each seed.
    """
    sampler = PhotographSampler(seeds[0].scored.sources)
    assert all(half.scored.ids == seeds[0].scored.ids for half in seeds)
    of_seeds = [correct_images(half) for half in seeds]
    return {iou: _score_at(iou, seeds, [rows[iou] for rows in of_seeds], sampler) for iou in IOUS}


def _score_at(
    iou: float, seeds: Sequence[Half], of_seeds: Sequence[Correct], sampler: PhotographSampler
) -> Scores:
    """Score all kinds at an IoU, as the mean over seeds.

    Args:
        iou: the IoU.
        seeds: the measured maps for each seed.
        of_seeds: the correct images for each seed.
        sampler: the resamples of photographs.
    """
    correct = {kind: np.mean([rows[kind] for rows in of_seeds], 0) for kind in of_seeds[0]}
    curves = [(half.scored.curve >= iou).astype(np.float64) for half in seeds]
    oracles = [best_threshold(curve.mean(0)) for curve in curves]
    correct[ORACLE] = np.mean(
        [half.scored.at(at) >= iou for half, (_, at) in zip(seeds, oracles, strict=True)], 0
    )
    kinds = list(correct)
    drawn = sampler.means(np.stack([correct[kind] for kind in kinds], 1))
    drawn_oracle = np.mean([sampler.means(curve).max(1) for curve in curves], 0)
    shares = seeds[0].scored.shares
    bins = {name: (shares >= low) & (shares < high) for name, (low, high) in SIZES.items()}
    best = float(correct[ORACLE].mean())
    scores = {}
    for n, kind in enumerate(kinds):
        accuracy = float(correct[kind].mean())
        spread = drawn[:, n] - drawn_oracle
        scores[kind] = Score(
            accuracy,
            accuracy - best,
            middle(spread) if kind != ORACLE else (0.0, 0.0),
            {name: _mean(correct[kind][chosen]) for name, chosen in bins.items()},
        )
    against = {
        kind: Comparison(
            scores[kind].accuracy - scores[CENTRE].accuracy,
            sampler.standard_error(correct[kind] - correct[CENTRE]),
        )
        for kind in (USED, AUTO)
    }
    return Scores(scores, [at for _, at in oracles], against)


def correct_images(half: Half) -> dict[float, dict[str, Float64[np.ndarray, n]]]:
    """Return which images are correct at each IoU and kind of threshold, but for the oracle.

    For validation it is the mean over draws. Where a half has too few photographs, a number of
    boxes is left out.
    """
    scored = half.scored
    validation = {count: draw_validation(scored, half.boxed, count) for count in BOXES}
    correct = {}
    for iou in IOUS:
        size = int((half.centred >= iou).mean(0).argmax()) if len(half.centred) else -1
        ious = {
            USED: scored.used,
            f"fixed {scored.fixed:g}": scored.at(scored.fixed),
            AUTO: scored.auto,
            CENTRE: scored.centred[:, size],
            WHOLE: scored.centred[:, -1],
        }
        correct[iou] = {kind: (values >= iou).astype(np.float64) for kind, values in ious.items()}
        for count, rows in validation.items():
            if rows is not None:
                correct[iou][f"validation {count}"] = rows[iou]
    return correct


def draw_validation(
    scored: MeasuredMaps, boxed: MeasuredMaps, count: int
) -> dict[float, Float64[np.ndarray, n]] | None:
    """Return how often each image is correct at thresholds chosen on a few boxes.

    Args:
        scored: the images that are scored.
        boxed: the images that boxes are drawn from, DRAWS times. Photographs that were drawn are
            not scored with the threshold that was chosen on them.
        count: how many of them have boxes.

    Returns:
        By IoU; None where an image would never be scored, or there are not as many boxes.
    """
    rng = np.random.default_rng(count)
    total = {iou: np.zeros(len(scored)) for iou in IOUS}
    times = np.zeros(len(scored))
    for _ in range(DRAWS if len(boxed) >= count else 0):
        drawn = rng.choice(len(boxed), count, replace=False)
        is_other = ~np.isin(scored.sources, boxed.sources[drawn])
        times += is_other
        for iou, reached in calibrated_ious(scored, boxed, drawn).items():
            total[iou] += is_other & (reached >= iou)
    if not times.all():
        return None
    return {iou: rows / times for iou, rows in total.items()}


def calibrated_ious(
    scored: MeasuredMaps, boxed: MeasuredMaps, drawn: np.ndarray
) -> dict[float, Float64[np.ndarray, n]]:
    """Return the IoU of images at the threshold that stage calibrate chooses, for each of IOUS.

    Args:
        scored: the images.
        boxed: images with boxes.
        drawn: the indices of those that it is chosen on.
    """
    measured = {boxed.ids[n]: MeasuredImage(boxed.curve[n], float(boxed.auto_at[n])) for n in drawn}
    chosen = choose_thresholds(measured, IOUS, "split")["elsewhere"]
    return {iou: scored.at(chosen[f"{iou:g}"]) for iou in IOUS}


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
