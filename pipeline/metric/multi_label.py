"""Classification of images that may have several classes: mean average precision.

    AP of a class   of its probability over all images: which of them have it, best score first;
                    the area under precision over recall, nothing interpolated, as in scikit-learn
    mAP             its mean over the classes that an image has
    most likely     share of images whose most probable class is one of theirs

An image whose objects of a class are all difficult (PASCAL VOC) counts neither as one with the
class nor as one without, as in the devkit. Top-k accuracy has no meaning where an image has several
classes, so there is none. A mean over classes has no interval: it is no mean over images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from pipeline.metric.base import MetricBase
from pipeline.metric.scores import chosen, mean_score
from pipeline.ops.average_precision import average_precision
from pipeline.types import (
    Card,
    EvaluationSettings,
    Evidence,
    EvidenceKind,
    LabelScores,
    MetricNumber,
    Score,
)

if TYPE_CHECKING:
    from jaxtyping import Bool, Float


def class_precisions(
    scores: Float[np.ndarray, "n C"],
    present: Bool[np.ndarray, "n C"],
    ignored: Bool[np.ndarray, "n C"] | None = None,
) -> dict[int, float]:
    """Compute the average precision of each class that an image has.

    Args:
        scores: of each class in each image.
        present: whether the image has the class.
        ignored: where that is not counted; None: nowhere.
    """
    precisions: dict[int, float] = {}
    for label in np.flatnonzero(present.any(0)).tolist():
        counted = slice(None) if ignored is None else ~ignored[:, label] | present[:, label]
        values = scores[counted, label], present[counted, label]
        precisions[label] = average_precision(*values)
    return precisions


class MultiLabelClassification(MetricBase):
    """Mean average precision of a classifier, and whether the most likely class is there."""

    numbers: ClassVar[Sequence[MetricNumber]] = (
        MetricNumber(
            name="classification_ap",
            title="classification, mAP",
            order=182,
            names_threshold=False,
            cards=(Card(order=72, column="AP", of_method=False),),
        ),
        MetricNumber(
            name="classification_most_likely",
            title="classification, most likely class is in the image",
            order=184,
            names_threshold=False,
        ),
    )
    needs: ClassVar[frozenset[EvidenceKind]] = frozenset({"label_scores"})
    order: ClassVar[int] = 20

    def __init__(self, classes: Sequence[str] = (), seed: int = 0) -> None:
        self.classes = tuple(classes)
        self.seed = seed
        self._images: list[LabelScores] = []

    def with_settings(self, settings: EvaluationSettings) -> MultiLabelClassification:
        """Return an empty accumulator with these settings."""
        return MultiLabelClassification(settings.classes, settings.seed)

    def update(self, evidence: Evidence) -> None:
        """Add an image with the probabilities of all classes."""
        assert evidence.label_scores is not None
        self._images.append(evidence.label_scores)

    def _stack(
        self, select: Bool[np.ndarray, n] | None = None
    ) -> tuple[Float[np.ndarray, "n C"], Bool[np.ndarray, "n C"], Bool[np.ndarray, "n C"]]:
        """Return probabilities, presence and what is ignored, of the selected images."""
        size = len(self._images), len(self._images[0].present) if self._images else 0
        arrays = [
            np.array([getattr(image, part) for image in self._images], kind).reshape(size)
            for part, kind in (("probabilities", np.float32), ("present", bool), ("ignored", bool))
        ]
        probabilities, present, ignored = (chosen(array, select) for array in arrays)
        return probabilities, present, ignored

    def compute(
        self, select: Bool[np.ndarray, n] | None = None, label: str | None = None
    ) -> list[Score]:
        """Compute mAP over the selected images, of the classes that one of them has."""
        probabilities, present, ignored = self._stack(select)
        each = class_precisions(probabilities, present, ignored)
        scores = []
        if each:
            mean = float(np.mean([*each.values()]))
            scores.append(Score("classification_ap", mean, len(present), label=label))
        labelled = present.any(1)
        top = probabilities[labelled].argmax(1) if labelled.any() else np.zeros(0, int)
        is_right = present[labelled][np.arange(len(top)), top]
        return scores + mean_score(
            "classification_most_likely", is_right, label=label, seed=self.seed
        )

    def compute_classes(self) -> list[Score]:
        """Compute the average precision of each class, over the images that count for it."""
        probabilities, present, ignored = self._stack()
        return [
            Score(
                "classification_ap", value, int((~ignored | present)[:, number].sum()),
                label=self.classes[number],
            )
            for number, value in class_precisions(probabilities, present, ignored).items()
        ]  # fmt: skip
