"""The exponential moving average of a network's weights, which is judged and kept instead of them.

    w' <- w' + (1 - d_t) (w - w')        d_t = min(d, (1 + t) / (10 + t))

Polyak and Juditsky 1992; the warm-up of d, so that the first random weights are soon forgotten, is
TensorFlow's ExponentialMovingAverage. Batch norm's statistics are averaged as weights are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor, nn


class Average:
    """Of a network's state; without `decay` it is the network itself."""

    def __init__(self, network: nn.Module, decay: float | None) -> None:
        self.network, self.decay = network, decay
        self.state: dict[str, Tensor] = {} if decay is None else _copy(network)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what was saved."""
        for name, tensor in self.state.items():
            tensor.copy_(state[name])

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After each step, counted from 1."""
        if self.decay is None:
            return
        rest = 1 - min(self.decay, (1 + step) / (10 + step))
        for name, tensor in self.network.state_dict().items():
            if tensor.is_floating_point():
                self.state[name].lerp_(tensor, rest)
            else:
                self.state[name].copy_(tensor)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within, the network has the averaged weights."""
        if self.decay is None:
            yield
            return
        learned = _copy(self.network)
        self.network.load_state_dict(self.state)
        try:
            yield
        finally:
            self.network.load_state_dict(learned)


def _copy(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
