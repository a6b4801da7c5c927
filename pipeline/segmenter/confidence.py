"""Confidence: the probability that a box has an IoU of at least 0.5 with a true one.

    confidence = 1 / (1 + exp(-z))        z = intercept + weights . features

A logistic regression on the numbers of confidence_features.py and, where a run has the maps of
several methods, on the mean IoU of a box with the best boxes of the others (`agreement`); and with
rank.grabcut=true on its IoU with the box of GrabCut's mask of the same map (`grabcut`).

Without boxes the weights are fixed: `DEFAULTS`, one set for maps of localization heads and one for
all other maps. They were fitted on boxes of four sets of images with an intercept of its own for
each set and method, so that they tell boxes of one set apart (docs/metrics.md). How many boxes are
right differs from set to set, which they cannot know: such confidences rank boxes, and are not
calibrated. GrabCut's term is added to them, `3 (IoU - 0.7)`; the other weights stay.

With boxes of some images the default is corrected: z' = z + a + s (z - mean z) + d . features, by
penalized maximum likelihood. The ridge on s and d is strong, that on a is weak: 50 boxes tell well
how many are right, and little about what tells them apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pipeline.segmenter.confidence_features import FEATURES

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Float64

Kind = Literal["default", "calibrated"]
MapKind = Literal["head", "classifier"]

AGREEMENT, GRABCUT = "agreement", "grabcut"
GRABCUT_WEIGHT = 3.0  # docs/metrics.md: 2 to 4 are as good
USUAL_GRABCUT_IOU, GRABCUT_DEVIATION = 0.7, 0.17  # so that the level of confidences stays
RIGHT_IOU = 0.5  # a box is right from this IoU on
MIN_EXAMPLES = 20  # boxes that a default is corrected on at least
SHIFT_PENALTY, SCALE_PENALTY, WEIGHT_PENALTY = 0.1, 10.0, 20.0  # half of it times the square
MAX_STEPS = 100


@dataclass(frozen=True)
class ConfidenceModel:
    """A logistic regression.

    Attributes:
        kind: `default`: fixed weights; `calibrated`: corrected on boxes of these images.
        features: the names of what it takes.
        weights: of each feature.
        intercept: added to their weighted sum.
        deviations: the standard deviation of each feature, in whose unit the ridge is.
        examples: the number of boxes that it was corrected on.
    """

    kind: Kind
    features: tuple[str, ...]
    weights: tuple[float, ...]
    intercept: float
    deviations: tuple[float, ...]
    examples: int = 0

    def logits(self, rows: Float[np.ndarray, "n k"]) -> Float64[np.ndarray, n]:
        """Compute the log odds that boxes are right.

        Args:
            rows: the features of each box.
        """
        return np.asarray(np.asarray(rows, np.float64) @ np.array(self.weights) + self.intercept)

    def __call__(self, rows: Float[np.ndarray, "n k"]) -> Float64[np.ndarray, n]:
        """Compute the probability that boxes are right.

        Args:
            rows: the features of each box.
        """
        return _sigmoid(self.logits(rows))

    def corrected(
        self, rows: Float[np.ndarray, "n k"], right: Bool[np.ndarray, n]
    ) -> ConfidenceModel:
        """Return the model corrected on boxes that are known to be right or wrong.

        Args:
            rows: the features of each box.
            right: whether it is right.

        Returns:
            The same model where there are fewer than `MIN_EXAMPLES` boxes.
        """
        if len(rows) < MIN_EXAMPLES:
            return self
        rows = np.asarray(rows, np.float64)
        logits, deviations = self.logits(rows), np.array(self.deviations)
        centre, middle = rows.mean(0), float(logits.mean())
        design = np.concatenate(
            [np.ones((len(rows), 1)), (logits - middle)[:, None], (rows - centre) / deviations], 1
        )
        penalty = np.full(design.shape[1], WEIGHT_PENALTY)
        penalty[:2] = SHIFT_PENALTY, SCALE_PENALTY
        shift, scale, *change = _maximize_likelihood(design, right, logits, penalty)
        change = np.array(change) / deviations
        weights = (1 + scale) * np.array(self.weights) + change
        intercept = (1 + scale) * self.intercept + shift - scale * middle - float(change @ centre)
        return ConfidenceModel(
            "calibrated", self.features, tuple(weights.tolist()), float(intercept),
            self.deviations, len(rows),
        )  # fmt: skip

    def record(self) -> dict[str, Any]:
        """Return the model as JSON holds it."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> ConfidenceModel:
        """Return the model of a record."""
        numbers: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in record.items()
        }
        return cls(**numbers)


def default_model(
    maps: MapKind, with_agreement: bool, with_grabcut: bool = False
) -> ConfidenceModel:
    """Return the model that needs no boxes.

    Args:
        maps: what they are of: a localization head, or a classifier.
        with_agreement: whether a feature is the agreement with maps of other methods.
        with_grabcut: whether the last feature is the IoU with GrabCut's box.
    """
    model = DEFAULTS[maps, with_agreement]
    if not with_grabcut:
        return model
    return replace(
        model,
        features=(*model.features, GRABCUT),
        weights=(*model.weights, GRABCUT_WEIGHT),
        intercept=model.intercept - GRABCUT_WEIGHT * USUAL_GRABCUT_IOU,
        deviations=(*model.deviations, GRABCUT_DEVIATION),
    )


def _of(weights: Sequence[float], intercept: float, deviations: Sequence[float]) -> ConfidenceModel:
    names = (*FEATURES, AGREEMENT)[: len(weights)]
    return ConfidenceModel("default", names, tuple(weights), intercept, tuple(deviations))


HEAD_DEVIATIONS = (2.926, 0.319, 0.131, 0.199, 0.205, 0.124, 0.849, 0.131)
CLASSIFIER_DEVIATIONS = (2.924, 0.359, 0.092, 0.180, 0.163, 0.133, 0.959, 0.137)
DEFAULTS: Mapping[tuple[MapKind, bool], ConfidenceModel] = {
    ("head", False): _of(
        (0.319, 1.010, 8.551, 1.329, 3.446, -0.373, -0.144), -7.378, HEAD_DEVIATIONS[:-1]
    ),
    ("head", True): _of(
        (0.279, 1.087, 7.258, 1.190, 3.416, 0.070, -0.155, 3.633), -8.808, HEAD_DEVIATIONS
    ),
    ("classifier", False): _of(
        (0.233, 0.454, 7.493, 3.600, 2.428, -0.343, -0.361), -5.023, CLASSIFIER_DEVIATIONS[:-1]
    ),
    ("classifier", True): _of(
        (0.179, 0.477, 4.410, 3.260, 1.856, 0.678, -0.181, 5.983), -7.344, CLASSIFIER_DEVIATIONS
    ),
}


def _maximize_likelihood(
    design: Float64[np.ndarray, "n k"],
    right: Bool[np.ndarray, n],
    offset: Float64[np.ndarray, n],
    penalty: Float64[np.ndarray, k],
) -> Float64[np.ndarray, k]:
    """Maximize the likelihood of a logistic regression, with an offset and a ridge, by Newton.

    The objective is concave; a step that would lower it is halved.
    """

    def objective(values: np.ndarray) -> float:
        logits = offset + design @ values
        likelihood = np.where(right, -np.logaddexp(0, -logits), -np.logaddexp(0, logits)).sum()
        return float(likelihood - 0.5 * (penalty * values**2).sum())

    values = np.zeros(design.shape[1])
    best = objective(values)
    for _ in range(MAX_STEPS):
        chance = _sigmoid(offset + design @ values)
        gradient = design.T @ (right - chance) - penalty * values
        curvature = (design * (chance * (1 - chance))[:, None]).T @ design + np.diag(penalty)
        step = np.linalg.solve(curvature, gradient)
        while (reached := objective(values + step)) < best and np.abs(step).max() > 1e-9:
            step /= 2
        if reached <= best:
            break
        values, best = values + step, reached
    return values


def _sigmoid(logits: Float64[np.ndarray, n]) -> Float64[np.ndarray, n]:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * logits)))
