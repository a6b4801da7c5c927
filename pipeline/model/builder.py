"""Base of the choices of `model=`: the defaults of a network without pretrained weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import UserError

if TYPE_CHECKING:
    from typing import Self

    from torch import nn


class Builder:
    """Defaults of `pipeline.protocols.NetworkBuilder` for a network without pretrained weights.

    A subclass adds `body`, `mean`, `std`, `last` and `below`. It overrides `weights`, `known` and
    `load` where it has pretrained weights, `own` where the network has a head of its own.

    Attributes:
        weights: the name or the file of the pretrained weights; None: random weights.
        has_own_head: whether `own` builds a head that differs from a new GAP head.
        own_head_from_scratch: whether that head can be trained without pretrained weights.
        is_multi_label: whether the pretrained head tells each class for itself, by the sigmoid.
    """

    weights: str | None = None
    has_own_head = False
    own_head_from_scratch = False
    is_multi_label = False

    @property
    def pretrained(self) -> bool:
        """Whether there are pretrained weights."""
        return self.weights is not None

    @property
    def weight_file(self) -> Path | None:
        """The file that `weights` names; None where it names none."""
        return None

    @property
    def known(self) -> tuple[str, ...]:
        """The names of the classes of the pretrained head, in order; empty without such a head."""
        return ()

    def notes(self) -> list[str]:
        """Return nothing, as there is no file of weights to say anything about."""
        return []

    def own(self, classes: int) -> tuple[nn.Module, nn.Module]:
        """Raise UserError, as this network has no head of its own.

        A subclass that has one returns body and head for so many classes, with random weights.
        """
        raise UserError(
            f"train.head=own: {type(self).__name__} has no head of its own; use train.head=new"
        )

    def load(self) -> tuple[nn.Module, nn.Module | None, tuple[str, ...]]:
        """Raise UserError, as this network has no pretrained weights.

        A subclass that has them returns the body, the head (None where it does not fit the known
        classes) and the names of the head's classes.
        """
        raise UserError(f"model.weights: {type(self).__name__} has no weights to load")

    def at_trained_stride(self) -> Self:
        """Return the network with the stride that it was trained at."""
        return self
