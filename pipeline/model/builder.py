"""What every choice of `model=` has, with the defaults of a network without weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import UserError

if TYPE_CHECKING:
    from typing import Self

    from torch import nn


class Builder:
    """The half of `pipeline.protocols.NetworkBuilder` that a network without weights has.

    A network adds `body`, `mean`, `std`, `last` and `below`; one with weights or with a head of its
    own overrides what stands here.
    """

    weights: str | None = None
    has_own_head = False  # whether `own` gives a head that is not new
    own_head_from_scratch = False  # whether that head needs no weights to start from

    @property
    def pretrained(self) -> bool:
        """Whether there are weights to start from."""
        return self.weights is not None

    @property
    def weight_file(self) -> Path | None:
        """The file that `weights` names, where it names one."""
        return None

    @property
    def known(self) -> tuple[str, ...]:
        """The classes that the pretrained head tells apart."""
        return ()

    def own(self, classes: int) -> tuple[nn.Module, nn.Module]:
        """Raise UserError: this network has no head of its own."""
        raise UserError(
            f"train.head=own: {type(self).__name__} has no head of its own; use train.head=new"
        )

    def load(self) -> tuple[nn.Module, nn.Module | None, tuple[str, ...]]:
        """Raise UserError: this network has no weights."""
        raise UserError(f"model.weights: {type(self).__name__} has no weights to load")

    def at_trained_stride(self) -> Self:
        """Return the network with the stride that it was trained at."""
        return self
