"""Classes without an object: those of the data set, and those that the checkpoint learned so."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.engine.checkpoint import read_card
from pipeline.protocols import DataSet, HasNegatives

FIELD = "negatives"  # of the card of a checkpoint, absent where there are none


def find_negatives(
    data: DataSet, classes: Sequence[str], checkpoint: Path | None = None
) -> frozenset[int]:
    """Return the numbers of the classes whose images show no object.

    Args:
        data: the data set.
        classes: the names of the network's classes.
        checkpoint: that is used; None: the network is trained on the data set.
    """
    card = {} if checkpoint is None else read_card(checkpoint)
    names = {*list_negatives(data), *card.get(FIELD, ())}
    return frozenset(n for n, name in enumerate(classes) if name in names)


def list_negatives(data: DataSet) -> Sequence[str]:
    """Return the names of the classes of a data set whose images show no object."""
    return data.negative_classes() if isinstance(data, HasNegatives) else ()
