"""Classes of images that may have several: a row of booleans each, or the first and the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool

PAIRS = "pairs of an image and one of its classes"  # what numbers of such images are of


def name_pair(image: str, label: str) -> str:
    """Return the name of a pair of an image and one of its classes.

    Args:
        image: the name of the image.
        label: the name of the class.

    Examples:
        >>> name_pair("0001.jpg", "dog")
        '0001.jpg dog'
    """
    return f"{image} {label}"


def pack_label_sets(
    labels: Sequence[int], others: Sequence[tuple[int, ...]], classes: int
) -> Bool[np.ndarray, "n C"]:
    """Return which classes each image is labelled with.

    Args:
        labels: The first class of each image; -1 where it has none.
        others: Its other classes.
        classes: How many classes there are.

    Examples:
        >>> pack_label_sets([0, -1], [(2,), ()], 3).astype(int).tolist()
        [[1, 0, 1], [0, 0, 0]]
    """
    sets = np.zeros((len(labels), classes), bool)
    first = np.asarray(labels, np.int64)
    rows = np.flatnonzero(first >= 0)
    sets[rows, first[rows]] = True
    for row, more in enumerate(others):
        sets[row, list(more)] = True
    return sets


def unpack_label_sets(
    sets: Bool[np.ndarray, "n C"],
) -> tuple[list[int], list[tuple[int, ...]]]:
    """Return the first class of each image, -1 where it has none, and its others, ascending.

    Args:
        sets: Which classes each image is labelled with.

    Examples:
        >>> unpack_label_sets(np.array([[True, False, True], [False, False, False]]))
        ([0, -1], [(2,), ()])
    """
    classes = [tuple(np.flatnonzero(row).tolist()) for row in sets]
    return [each[0] if each else -1 for each in classes], [each[1:] for each in classes]
