"""Average precision of scores, and its mean over classes.

    AP = sum_k (R_k - R_{k-1}) P_k      over the different scores, the greatest first

P_k and R_k are precision and recall of all with at least the k-th score: equal scores count
together, so that the order of images does not matter. Nothing is interpolated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool, Float


def average_precision(scores: Float[np.ndarray, n], positive: Bool[np.ndarray, n]) -> float:
    """Return the average precision from 0 to 1; NaN without a positive.

    Args:
        scores: of each image.
        positive: whether it has the class.

    Examples:
        >>> average_precision(np.array([0.9, 0.8, 0.1]), np.array([True, False, True])).__round__(4)
        0.8333
    """
    total = int(positive.sum())
    if total == 0:
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    hits = np.cumsum(positive[order])
    last = np.append(ordered[1:] != ordered[:-1], True)  # of each run of equal scores
    recall, precision = hits[last] / total, hits[last] / (np.flatnonzero(last) + 1)
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def mean_average_precision(
    scores: Float[np.ndarray, "n C"], sets: Bool[np.ndarray, "n C"]
) -> float:
    """Return the mean of the average precision over the classes that have images; 0 without any.

    Args:
        scores: of each image and class.
        sets: which classes each image has.
    """
    known = np.flatnonzero(sets.any(0))
    each = [average_precision(scores[:, label], sets[:, label]) for label in known]
    return float(np.mean(each)) if each else 0.0
