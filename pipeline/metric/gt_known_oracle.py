"""GT-known and Top-k Loc of maps at thresholds that are chosen on the scored images.

    oracle      the threshold that is best for all of them: optimistic, and named so
    validation  two-fold: each half of the images, by hash of their names, is cut at the threshold
                that serves the other half best (`max_box_acc.steady_threshold`)

The second is given where nothing else chose a validation threshold (`min_two_fold`). Both stand on
the same record of which map is right at which threshold.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pipeline.metric.components import THRESHOLDS, threshold_index
from pipeline.metric.gt_known import GT_KNOWN, TOP1, TOP5
from pipeline.metric.max_box_acc import MaxBoxAcc, two_fold_thresholds
from pipeline.metric.scores import chosen, mean_score
from pipeline.ops.bootstrap import first, means
from pipeline.types import (
    Curves,
    EvaluationSettings,
    Evidence,
    EvidenceKind,
    MetricNumber,
    PairedRows,
    Score,
)

if TYPE_CHECKING:
    from jaxtyping import Bool

NOWHERE = Curves(
    np.zeros(len(THRESHOLDS)), np.zeros(len(THRESHOLDS)), np.zeros((len(THRESHOLDS), 4), np.float32)
)
"""Curves of a map that is right nowhere."""


class GtKnownOracle(MaxBoxAcc):
    """GT-known Loc at the best threshold for the scored images, and at two-fold thresholds."""

    numbers: ClassVar[Sequence[MetricNumber]] = (GT_KNOWN,)
    order: ClassVar[int] = 10
    row_names: ClassVar[Sequence[str]] = ("two_fold",)
    name = "gt_known_loc"

    def __init__(
        self,
        ious: Sequence[float] | None = None,
        seed: int = 0,
        min_two_fold: int | None = None,
    ) -> None:
        super().__init__(ious, seed)
        self.min_two_fold = min_two_fold
        self._folds: list[int] = []
        self._two_fold: tuple[np.ndarray, list[list[float]]] | None = None

    def with_settings(self, settings: EvaluationSettings) -> GtKnownOracle:
        """Return an empty accumulator with these settings."""
        return GtKnownOracle(settings.ious, settings.seed, settings.min_two_fold)

    def update(self, evidence: Evidence) -> None:
        """Add an image whose map was measured."""
        super().update(evidence)
        self._folds.append(evidence.fold)
        self._two_fold = None

    def compute(
        self, select: Bool[np.ndarray, n] | None = None, label: str | None = None
    ) -> list[Score]:
        """Compute a score for each IoU; their mean is that of MaxBoxAccV2 alone."""
        best = [score for score in super().compute(select, label) if score.iou is not None]
        return [*self._validation_scores(select, label), *best]

    def _validation_scores(
        self, select: Bool[np.ndarray, n] | None, label: str | None
    ) -> Iterator[Score]:
        right, thresholds = self.two_fold()
        for n, values in enumerate(thresholds):
            info = {"kind": "validation", "value": values, "source": "two_fold"}
            yield from mean_score(
                self.name, chosen(right[:, n], select), iou=self.ious[n], threshold=info,
                label=label, seed=self.seed,
            )  # fmt: skip

    def two_fold(self) -> tuple[Bool[np.ndarray, "n d"], list[list[float]]]:
        """Segment each half at the best threshold of the other.

        Returns:
            Which maps are right, and the thresholds of the halves at each IoU; no columns where too
            few images were added.
        """
        if self._two_fold is None:
            self._two_fold = self._choose_two_fold()
        return self._two_fold

    def _choose_two_fold(self) -> tuple[Bool[np.ndarray, "n d"], list[list[float]]]:
        folds, count = np.array(self._folds, int), len(self._folds)
        halves = [folds == 0, folds == 1]
        if self.min_two_fold is None or count < self.min_two_fold or not all(map(np.any, halves)):
            return np.zeros((count, 0), bool), []
        curves = [means(self.correct.chosen(half)).reshape(len(self.ious), -1) for half in halves]
        thresholds = [two_fold_thresholds([each[n] for each in curves])
                      for n in range(len(self.ious))]  # fmt: skip
        at = np.array([[threshold_index(value) for value in values]
                       for values in thresholds])  # fmt: skip
        columns = at + len(THRESHOLDS) * np.arange(len(self.ious))[:, None]  # [d, 2]
        right = np.concatenate([
            self.correct[start : start + 1024][
                np.arange(len(part))[:, None], columns.T[part]
            ]
            for start in range(0, count, 1024)
            for part in [folds[start : start + 1024]]
        ])  # fmt: skip
        return right.astype(bool), thresholds

    def rows(self) -> Mapping[str, np.ndarray]:
        """Return `two_fold` [n, d], where there are such thresholds."""
        right, thresholds = self.two_fold()
        return {"two_fold": right} if thresholds else {}

    def pairs(self, rows: Mapping[str, np.ndarray]) -> Iterator[PairedRows]:
        """Yield GT-known Loc at two-fold thresholds."""
        for n, iou in enumerate(self.ious):
            right = rows["two_fold"][:, n]
            yield PairedRows(self.name, right, first, iou, "validation", "validation")

    def curve(self) -> Sequence[Mapping[str, Any]]:
        """Return GT-known Loc over the threshold, a point for every hundredth, for each IoU."""
        count = len(self.correct)
        if not count:
            return ()
        return [
            {
                "iou": iou,
                "points": [
                    [round(float(t), 3), round(float(c) / count, 4)]
                    for t, c in zip(THRESHOLDS[::10], correct[::10], strict=True)
                ],
            }
            for iou, correct in self.num_correct.items()
        ]


class TopOracle(MaxBoxAcc):
    """Top-k Loc at the best threshold for the scored images; k is that of the subclass."""

    needs: ClassVar[frozenset[EvidenceKind]] = frozenset({"curves", "ranking"})
    row_names: ClassVar[Sequence[str]] = ()
    k: ClassVar[int]

    def with_settings(self, settings: EvaluationSettings) -> TopOracle:
        """Return an empty accumulator with these settings."""
        return type(self)(settings.ious, settings.seed)

    def update(self, evidence: Evidence) -> None:
        """Add an image whose map was measured.

        It is right nowhere if its class is not among the first k.
        """
        assert evidence.curves is not None
        assert evidence.ranking is not None
        named = evidence.label in evidence.ranking.classes[: self.k]
        self.add(evidence.curves if named else NOWHERE)

    def compute(
        self, select: Bool[np.ndarray, n] | None = None, label: str | None = None
    ) -> list[Score]:
        """Compute a score for each IoU; their mean is that of MaxBoxAccV2 alone."""
        return [score for score in super().compute(select, label) if score.iou is not None]

    def rows(self) -> Mapping[str, np.ndarray]:
        """Return nothing: it is not compared."""
        return {}

    def pairs(self, rows: Mapping[str, np.ndarray]) -> Iterator[PairedRows]:
        """Yield nothing: it is not compared."""
        return iter(())


class Top1Oracle(TopOracle):
    """Top-1 Loc at the best threshold for the scored images."""

    numbers: ClassVar[Sequence[MetricNumber]] = (TOP1,)
    order: ClassVar[int] = 20
    name = "top1_loc"
    k = 1


class Top5Oracle(TopOracle):
    """Top-5 Loc at the best threshold for the scored images."""

    numbers: ClassVar[Sequence[MetricNumber]] = (TOP5,)
    order: ClassVar[int] = 30
    name = "top5_loc"
    k = 5
