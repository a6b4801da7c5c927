"""Attention-based dropout layer (ADL): in training hide or weigh feature maps by their own mean.

    A(i, j) = mean_k f_k(i, j)
    importance = sigmoid(A)                  drop = 1 where A < gamma max A, else 0
    f' = f drop    with probability p, drawn once a batch for each layer
    f' = f importance                        otherwise;  when not training f' = f

Choe and Shim, "Attention-based Dropout Layer for Weakly Supervised Object Localization", CVPR 2019.
p = 0.75 and gamma = 0.9 are wsolevaluation's (Choe et al. 2020). The paper puts it at three depths
of VGG; here it stands behind each of `layers`, those that every network has by name.

The layer is a hook on the named one: it has no weights and renames none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pipeline.objective.cross_entropy import check_share, check_smoothing, cross_entropy
from pipeline.objective.wrapped import channels_of, path_of

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@dataclass(frozen=True)
class ADL:
    layers: tuple[str, ...] = ("below", "last")  # behind which: last, below or names in the network
    drop: float = 0.75  # the probability to drop rather than to weigh
    gamma: float = 0.9  # of the maximum: from there on it is dropped
    label_smoothing: float = 0.1  # 0 in the paper

    needs_images = True

    def __post_init__(self) -> None:
        if isinstance(self.layers, str) or not self.layers:
            raise ValueError(f"layers={self.layers}: expected one layer or more, as [below,last]")
        check_share("drop", self.drop)
        check_share("gamma", self.gamma)
        check_smoothing(self.label_smoothing)

    def wrap(self, network: Any) -> Any:
        """The network with the layer in it. Raises UserError for a name that it does not have."""
        channels_of(network, self.layers)
        for name in self.layers:
            layer = network.body.get_submodule(path_of(network, name))
            layer.register_forward_hook(Attention(self.drop, self.gamma))
        return network

    def __call__(
        self, network: Any, inputs: Float[Tensor, "b 3 H W"], labels: Int[Tensor, "b"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "b C"]]:
        logits = network(inputs).logits.float()
        return cross_entropy(logits, labels, self.label_smoothing), logits


@dataclass(frozen=True)
class Attention:
    """A forward hook: what the layer answers, changed while it trains."""

    drop: float
    gamma: float

    def __call__(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        if not module.training:
            return output
        attention = output.mean(1, keepdim=True)
        if torch.rand(()) < self.drop:
            return output * kept(attention, self.gamma)
        return output * attention.sigmoid()


def kept(attention: Float[Tensor, "b 1 h w"], gamma: float) -> Float[Tensor, "b 1 h w"]:
    """1 where the attention is below gamma of its maximum, 0 elsewhere."""
    return (attention < gamma * attention.amax((2, 3), keepdim=True)).to(attention.dtype)
