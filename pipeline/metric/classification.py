"""Top-k accuracy: the share of images whose true class is among the k classes scored highest.

It is what Top-k Loc multiplies GT-known Loc with where the two are independent. Of equal scores the
class with the lower number comes first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from pipeline.metric.base import MetricBase
from pipeline.metric.scores import chosen, mean_score
from pipeline.ops.growing import GrowingArray
from pipeline.types import Card, EvaluationSettings, Evidence, EvidenceKind, MetricNumber

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    from pipeline.types import Score


def ranks(scores: Float[np.ndarray, "n C"], labels: Int[np.ndarray, n]) -> Int[np.ndarray, n]:
    """Count the classes with a higher score than the true class: 0 where it comes first."""
    scores, labels = np.asarray(scores), np.asarray(labels)
    if scores.ndim != 2 or labels.shape != scores.shape[:1]:
        raise ValueError(
            f"expected scores [n, C] and labels [n], got {list(scores.shape)} and "
            f"{list(labels.shape)}"
        )
    if len(labels) and not (labels.min() >= 0 and labels.max() < scores.shape[1]):
        raise ValueError(
            f"labels: expected 0 to {scores.shape[1] - 1}, got {labels.min()} to {labels.max()}"
        )
    own = scores[np.arange(len(labels)), labels][:, None]
    before = np.arange(scores.shape[1]) < labels[:, None]
    return np.asarray(((scores > own) | ((scores == own) & before)).sum(1))


def top_k_accuracy(
    scores: Float[np.ndarray, "n C"], labels: Int[np.ndarray, n], k: int = 1
) -> float:
    """Compute the share of images whose true class is among the k with the highest scores."""
    return float(np.mean(ranks(scores, labels) < k))


class Classification(MetricBase):
    """Top-1 and top-5 accuracy of a classifier."""

    numbers: ClassVar[Sequence[MetricNumber]] = (
        MetricNumber(
            name="classification_top1",
            title="classification, top-1",
            order=180,
            names_threshold=False,
            cards=(Card(order=70, column="top-1", of_method=False),),
        ),
        MetricNumber(
            name="classification_top5",
            title="classification, top-5",
            order=190,
            names_threshold=False,
            min_classes=6,
        ),
    )
    needs: ClassVar[frozenset[EvidenceKind]] = frozenset({"classification"})
    order: ClassVar[int] = 10

    def __init__(self, ks: Sequence[int] = (1, 5), seed: int = 0) -> None:
        self.ks = tuple(ks)
        self.seed = seed
        self._rank = GrowingArray(int)

    def add(self, label: int, predicted: Sequence[int]) -> None:
        """Add an image.

        Args:
            label: the true class.
            predicted: the classes of the image, most likely first; at least max(ks) of them where
                there are as many.
        """
        classes = [int(c) for c in predicted]
        # A class that is not named lies behind every k.
        self._rank.append(classes.index(label) if label in classes else max(len(classes), *self.ks))

    def with_settings(self, settings: EvaluationSettings) -> Classification:
        """Return an empty accumulator with these settings."""
        return Classification(self.ks, settings.seed)

    def update(self, evidence: Evidence) -> None:
        """Add an image that was classified."""
        assert evidence.classification is not None
        self.add(evidence.label, evidence.classification)

    def compute(
        self, select: Bool[np.ndarray, n] | None = None, label: str | None = None
    ) -> list[Score]:
        """Compute Top-k accuracy over the selected images."""
        rank = chosen(self._rank.values, select)
        return [
            score
            for k in self.ks
            for score in mean_score(f"classification_top{k}", rank < k, label=label, seed=self.seed)
        ]
