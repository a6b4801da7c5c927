"""Which classes the classifier confuses: as a matrix, or the most frequent pairs of many classes.

    counts[t, p]   images of class t that are predicted as p
    share[t, p]    counts[t, p] / sum_p counts[t, p]

Both labels are those of whole images; no box is involved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.results.table import to_percent

if TYPE_CHECKING:
    from jaxtyping import Int

MAX_CLASSES = 20  # of a matrix; of more classes the pairs are listed
MAX_PAIRS = 20


@dataclass(frozen=True, kw_only=True)
class ConfusedPair:
    """Two classes of which one is taken for the other.

    Attributes:
        true, predicted: the names of the classes.
        count: images of class `true` that are predicted as `predicted`.
        share: of the images of class `true`.
    """

    true: str
    predicted: str
    count: int
    share: float


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """What the classifier predicts for the images of each class.

    Attributes:
        key, title, sentence: as those of a chart.
        names: of the classes that an image has or is predicted to have; empty where pairs are
            listed.
        counts: of images, a row for each true class, a column for each predicted one.
        shares: the same, as shares of the row.
        pairs: the most frequent confusions, the most frequent first; empty where there is a matrix.
    """

    key: str
    title: str
    sentence: str
    names: Sequence[str]
    counts: Sequence[Sequence[int]]
    shares: Sequence[Sequence[float]]
    pairs: Sequence[ConfusedPair]
    kind: str = "confusion"


def count_confusions(
    labels: Sequence[int], predicted: Mapping[int, int], classes: int
) -> Int[np.ndarray, "C C"]:
    """Count the images of each true class that are predicted as each class.

    Args:
        labels: the class of each image, by position; -1: none, which is not counted.
        predicted: the class predicted first, by position; images without are not counted.
        classes: how many classes there are.

    Examples:
        >>> count_confusions([0, 1, 1, -1], {0: 0, 1: 1, 2: 0, 3: 0}, 2).tolist()
        [[1, 0], [1, 1]]
    """
    pairs = [(labels[n], guess) for n, guess in predicted.items() if labels[n] >= 0]
    counts = np.zeros((classes, classes), np.int64)
    for true, guess in pairs:
        counts[true, guess] += 1
    return counts


def draw_confusion(
    labels: Sequence[int],
    predicted: Mapping[int, int],
    classes: Sequence[str],
    method: str = "",
    number: int = 0,
) -> Confusion | None:
    """Return the confusions of the classifier; None where no image has a label and a prediction.

    Args:
        labels: the class of each image, by position; -1: none.
        predicted: the class predicted first, by position.
        classes: their names.
        method: whose predictions they are, where methods differ; empty: those of all.
        number: of this among the confusions of the page.
    """
    counts = count_confusions(labels, predicted, len(classes))
    total, right = int(counts.sum()), int(np.trace(counts))
    if not total:
        return None
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    pairs = list_pairs(counts, classes)
    is_matrix = len(classes) <= MAX_CLASSES
    shown = (
        "A row is a true class, a column a predicted one; darker is a larger share of the row."
        if is_matrix
        else f"The {min(MAX_PAIRS, len(pairs))} most frequent of {len(pairs)} confusions of "
        f"{len(classes)} classes, by number of images."
    )
    return Confusion(
        key=f"confusion{f'_{number}' if number else ''}",
        title=f"Confusion of the classifier{f', {method}' if method else ''}",
        sentence=(
            f"Of {total} images {right} are predicted as their class "
            f"({to_percent(right / total)} %).{_describe_unread(labels, predicted)} {shown}"
        ),
        names=list(classes) if is_matrix else [],
        counts=counts.tolist() if is_matrix else [],
        shares=shares.round(4).tolist() if is_matrix else [],
        pairs=[] if is_matrix else pairs[:MAX_PAIRS],
    )


def list_pairs(counts: Int[np.ndarray, "C C"], classes: Sequence[str]) -> list[ConfusedPair]:
    """Return all pairs of classes that are confused, the most frequent first.

    Of equally many images, the pair of the larger share of its class comes first.
    """
    totals = counts.sum(1)
    wrong = [(int(t), int(p)) for t, p in np.argwhere(counts) if t != p]
    wrong.sort(key=lambda pair: (-counts[pair], -counts[pair] / totals[pair[0]], pair))
    return [
        ConfusedPair(
            true=classes[true],
            predicted=classes[guess],
            count=int(counts[true, guess]),
            share=round(float(counts[true, guess] / totals[true]), 4),
        )
        for true, guess in wrong
    ]


def _describe_unread(labels: Sequence[int], predicted: Mapping[int, int]) -> str:
    """Return how many labelled images have no prediction, in a sentence; empty for none."""
    unread = sum(label >= 0 and n not in predicted for n, label in enumerate(labels))
    return f" {unread} more could not be read." if unread else ""
