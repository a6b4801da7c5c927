"""The curve of precision over recall, and the area under it in the two definitions of PASCAL VOC.

    precision(s)   share of the items with a score of at least s that are right
    recall(s)      share of all right items that have a score of at least s
    area           of max_{s' <= s} precision(s') over recall(s), every step of the curve counted:
                   from 2010 on
    11 points      mean over r = 0, 0.1 .. 1 of the highest precision where recall >= r: 2007

Everingham et al., "The PASCAL Visual Object Classes Challenge: A Retrospective", IJCV 2015. Items
of equal scores enter together, so that their order does not matter; the devkit takes them in the
order of its files. COCO's AP takes 101 points (pipeline/metric/coco.py); that of classification
takes each precision as it is (pipeline/ops/average_precision.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Float64

ROUNDING = 1e-9  # of a recall that should be a tenth


def precision_recall(
    scores: Float[np.ndarray, n], is_right: Bool[np.ndarray, n], total: int | None = None
) -> tuple[Float64[np.ndarray, m], Float64[np.ndarray, m]]:
    """Compute precision and recall at each score that occurs, the highest first.

    Args:
        scores: of the items.
        is_right: whether each is right.
        total: how many right items there are, with or without a score; None: those given.

    Returns:
        Precision and recall, [m] each; recall is 0 where nothing is right.

    Examples:
        >>> precision_recall(np.array([0.9, 0.8, 0.7]), np.array([True, False, True]))[1].tolist()
        [0.5, 0.5, 1.0]
    """
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    ranked, right = np.asarray(scores)[order], np.asarray(is_right, bool)[order].cumsum()
    last = np.append(ranked[1:] != ranked[:-1], True)[: len(ranked)]  # of those of equal scores
    counts = np.flatnonzero(last) + 1
    known = int(np.sum(is_right)) if total is None else total
    right = right[last].astype(np.float64)
    return right / np.maximum(counts, 1), right / max(known, 1)


def area_under(precision: Float64[np.ndarray, m], recall: Float64[np.ndarray, m]) -> float:
    """Compute the area under the curve, of which each precision is the highest from there on.

    Args:
        precision: by falling score.
        recall: by falling score, so that it rises.
    """
    highest = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0) * highest))


def eleven_points(precision: Float64[np.ndarray, m], recall: Float64[np.ndarray, m]) -> float:
    """Compute the mean of the highest precisions at recalls of at least 0, 0.1 .. 1.

    Args:
        precision: by falling score.
        recall: by falling score, so that it rises.
    """
    reached = (precision[recall >= k / 10 - ROUNDING] for k in range(11))
    return float(np.mean([each.max(initial=0) for each in reached]))
