"""Probabilities of classes from the logits of a network.

    exclusive     p_c = exp(s_c) / sum_d exp(s_d)      one class an image: the softmax
    independent   p_c = 1 / (1 + exp(-s_c))            each class for itself: the sigmoid
    scores        none: what the caller computes is a score, and no logit

A single exclusive class is the positive one of two: its softmax would always be 1, its probability
is the sigmoid.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float, Int

Answers = Literal["exclusive", "independent", "scores"]


def compute_probabilities(
    logits: Float[Tensor, "n C"], answers: Answers = "exclusive"
) -> Float[Tensor, "n C"]:
    """Return the probability of each class; scores of the caller's own as they are.

    Args:
        logits: of the classes.
        answers: what the logits mean.
    """
    if answers == "scores":
        return logits
    if answers == "independent" or logits.shape[1] == 1:
        return logits.sigmoid()
    return logits.softmax(1)


def predict_classes(logits: Float[Tensor, "n C"]) -> Int[Tensor, "n"]:
    """Return the class with the greatest logit; of a single class -1 where the logit is below 0.

    Args:
        logits: of the classes.
    """
    if logits.shape[1] == 1:
        return torch.where(logits[:, 0] < 0, -1, 0)
    return logits.argmax(1)


def to_least_logit(answers: Answers, probability: float) -> float | None:
    """Return the logit from which on a class is predicted; None: only the greatest one is.

    Args:
        answers: what the logits mean.
        probability: of a class that is predicted, where classes do not exclude each other.

    Examples:
        >>> to_least_logit("independent", 0.5), to_least_logit("exclusive", 0.5)
        (0.0, None)
    """
    if answers != "independent":
        return None
    if not 0 < probability < 1:
        return -math.inf if probability <= 0 else math.inf
    return math.log(probability / (1 - probability))


class HasProbabilities:
    """A network whose logits have a meaning.

    Attributes:
        answers: what the logits mean.
    """

    answers: Answers = "exclusive"

    def probabilities(self, logits: Float[Tensor, "n C"]) -> Float[Tensor, "n C"]:
        """Return the probability of each class; scores of the caller's own as they are.

        Args:
            logits: of this network.
        """
        return compute_probabilities(logits, self.answers)
