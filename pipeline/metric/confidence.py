"""Whether confidences tell right boxes from wrong ones, and whether they are probabilities.

    AUC       P(confidence of a right box > that of a wrong one) + P(equal) / 2
    ECE       sum over bins of  n_bin / n * |mean confidence - share of right boxes|
    surest    share of right boxes among the 70 % with the highest confidence

A box is right where its IoU is at least 0.5. AUC is the area under the receiver operating
characteristic, the Mann-Whitney statistic (Hanley and McNeil, Radiology 143, 1982). The expected
calibration error (Naeini et al., AAAI 2015) is over bins of equally many boxes, 10 of them or as
many as leave 10 boxes to a bin; it is above 0 by chance, also for perfect probabilities. The share
over the coverage is the risk-coverage curve (El-Yaniv and Wiener, JMLR 11, 2010).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from pipeline.metric.base import MetricBase
from pipeline.metric.scores import chosen
from pipeline.ops.bootstrap import interval, middle
from pipeline.types import EvaluationSettings, Evidence, EvidenceKind, MetricNumber, Score

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Float64, Int

RIGHT_IOU = 0.5
COVERAGE = 0.7  # the share of the boxes that are kept: the surest
MAX_BINS, MIN_IN_BIN = 10, 10
BY_CHANCE = 0.5  # AUC of confidences that say nothing
SAMPLES = 500  # of the bootstrap
MAX_RESAMPLED = 20_000  # boxes; AUC is sorted anew in each resample


def area_under_roc(confidences: Float[np.ndarray, n], right: Bool[np.ndarray, n]) -> float | None:
    """Compute how often a right box has a higher confidence than a wrong one.

    Returns:
        A value in [0, 1]; None where all boxes are right or all are wrong.

    Examples:
        >>> area_under_roc(np.array([0.9, 0.4, 0.6]), np.array([True, False, True]))
        1.0
        >>> area_under_roc(np.array([0.5, 0.5]), np.array([True, False]))
        0.5
    """
    positive = int(right.sum())
    negative = len(right) - positive
    if not positive or not negative:
        return None
    _, place, count = np.unique(confidences, return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2)[place]
    excess = float(rank[right].sum()) - positive * (positive + 1) / 2
    return excess / (positive * negative)


def split_into_bins(confidences: Float[np.ndarray, n]) -> list[Int[np.ndarray, m]]:
    """Split boxes into bins of equally many, the least sure first.

    Returns:
        The positions of the boxes of each bin: 10 bins, or as many as leave 10 boxes to each.
    """
    count = max(1, min(MAX_BINS, len(confidences) // MIN_IN_BIN))
    return np.array_split(np.argsort(confidences, kind="stable"), count)


def calibration_error(confidences: Float[np.ndarray, n], right: Bool[np.ndarray, n]) -> float:
    """Compute the expected calibration error.

    Examples:
        >>> calibration_error(np.full(4, 0.75), np.array([True, True, True, False]))
        0.0
    """
    gaps = [
        len(box) * abs(float(confidences[box].mean()) - float(right[box].mean()))
        for box in split_into_bins(confidences)
    ]
    return sum(gaps) / len(confidences)


def keep_surest(confidences: Float[np.ndarray, n], share: float) -> Int[np.ndarray, m]:
    """Return the positions of a share of the boxes, the surest; at least one."""
    count = max(1, round(share * len(confidences)))
    return np.argsort(-np.asarray(confidences), kind="stable")[:count]


class Confidence(MetricBase):
    """AUC, calibration error and accuracy of the surest boxes."""

    numbers: ClassVar[Sequence[MetricNumber]] = (
        MetricNumber(
            name="confidence_auc",
            title="confidence, AUC",
            row="confidence AUC, calibration error/surest 70 %",
            order=75,
            beside=("confidence_ece", "confidence_surest"),
        ),
        MetricNumber(
            name="confidence_ece",
            title="confidence, calibration error",
            in_table=False,
            lower_is_better=True,
        ),
        MetricNumber(
            name="confidence_surest",
            title="right among the surest 70 %",
            in_table=False,
        ),
    )
    needs: ClassVar[frozenset[EvidenceKind]] = frozenset({"box", "confidence"})
    order: ClassVar[int] = 10

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self._confidences: list[float] = []
        self._right: list[bool] = []

    def with_settings(self, settings: EvaluationSettings) -> Confidence:
        """Return an empty accumulator with these settings."""
        return Confidence(settings.seed)

    def update(self, evidence: Evidence) -> None:
        """Add the best-scored box of an image."""
        assert evidence.confidence is not None
        assert evidence.iou is not None
        self._confidences.append(evidence.confidence)
        self._right.append(evidence.iou >= RIGHT_IOU)

    def compute(
        self, select: Bool[np.ndarray, n] | None = None, label: str | None = None
    ) -> list[Score]:
        """Compute the numbers over the selected boxes; without AUC where all are right or wrong."""
        confidences = chosen(np.array(self._confidences), select)
        right = chosen(np.array(self._right, bool), select)
        n = len(right)
        if not n:
            return []
        surest = right[keep_surest(confidences, COVERAGE)]
        auc = area_under_roc(confidences, right)
        scores = [
            Score("confidence_ece", calibration_error(confidences, right), n, RIGHT_IOU,
                  label=label),
            Score("confidence_surest", float(surest.mean()), n, RIGHT_IOU, label=label,
                  interval=interval(surest.astype(float)[:, None], seed=self.seed)),
        ]  # fmt: skip
        if auc is None:
            return scores
        spread = _resample(area_under_roc, confidences, right, self.seed)
        return [Score("confidence_auc", auc, n, RIGHT_IOU, label=label, interval=spread), *scores]

    def notes(self) -> list[str]:
        """Return a note where wrong boxes have the higher confidence: an AUC below a half."""
        confidences, right = np.array(self._confidences), np.array(self._right, bool)
        auc = area_under_roc(confidences, right)
        if auc is None or auc >= BY_CHANCE:
            return []
        spread = _resample(area_under_roc, confidences, right, self.seed)
        interval = "" if spread is None else (
            f" (95 %: {100 * spread[0]:.1f} to {100 * spread[1]:.1f})"
        )  # fmt: skip
        return [
            f"evaluate: confidence AUC is {100 * auc:.1f} %{interval} over {len(right)} boxes, of "
            f"which {right.sum()} are right: below 50 %, so wrong boxes are the surer ones. Do not "
            "sort boxes by this confidence or leave some out by it (export.min_confidence), and "
            "do not expect review_rank to show wrong ones first; boxes of a person calibrate it, "
            "from 20 images on"
        ]


def _resample(
    statistic: Callable[..., float | None],
    confidences: Float64[np.ndarray, n],
    right: Bool[np.ndarray, n],
    seed: int,
) -> tuple[float, float] | None:
    """Return the bootstrap interval of a statistic of boxes; None where there are too many."""
    if len(right) > MAX_RESAMPLED:
        return None
    random = np.random.default_rng(seed)
    values = []
    for _ in range(SAMPLES):
        drawn = random.integers(0, len(right), len(right))
        value = statistic(confidences[drawn], right[drawn])
        if value is not None:
            values.append(value)
    return middle(np.array(values)) if values else None
