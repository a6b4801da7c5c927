"""The exponential moving average of a network's weights, which is evaluated and saved instead.

    w' <- w' + (1 - d_t) (w - w')        d_t = min(d, (1 + t) / (10 + t))

Polyak and Juditsky 1992. The warm-up of d, which reduces the share of the initial weights, is that
of TensorFlow's ExponentialMovingAverage. Batch norm's statistics are averaged like weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor, nn


class Average:
    """The moving average of a network's state.

    Args:
        network: Whose weights and buffers are averaged.
        decay: d; None: no average, the network's weights are used.
    """

    def __init__(self, network: nn.Module, decay: float | None) -> None:
        self.network, self.decay = network, decay
        self.state: dict[str, Tensor] = {} if decay is None else _copy(network)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore a saved average."""
        for name, tensor in self.state.items():
            tensor.copy_(state[name])

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Update the average after an optimizer step; steps are counted from 1."""
        if self.decay is None:
            return
        rest = 1 - min(self.decay, (1 + step) / (10 + step))
        for name, tensor in self.network.state_dict().items():
            if tensor.is_floating_point():
                self.state[name].lerp_(tensor, rest)
            else:
                self.state[name].copy_(tensor)

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Replace the network's weights by the average within the context."""
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
    """Return a copy of a network's state."""
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
