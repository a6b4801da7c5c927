"""Attention-based dropout layer (ADL): in training, drop or weight features by their mean.

    A(i, j) = mean_k f_k(i, j)
    importance = sigmoid(A)                  drop = 1 where A < gamma max A, else 0
    f' = f drop    with probability p, drawn once a batch for each layer
    f' = f importance                        otherwise;  when not training f' = f

Choe and Shim, "Attention-based Dropout Layer for Weakly Supervised Object Localization", CVPR 2019.
p = 0.75 and gamma = 0.9 are wsolevaluation's (Choe et al. 2020). The paper puts it at three depths
of VGG; here it follows each of `layers`, by default two that all networks have.

The attention-based dropout layer is a forward hook: it adds no weights and renames none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pipeline.objective.cross_entropy import check_share, check_smoothing, cross_entropy
from pipeline.objective.wrapped import count_channels, resolve_path

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@dataclass(frozen=True)
class ADL:
    """Attention-based dropout.

    Args:
        layers: the layers that it follows: last, below or names in the network.
        drop: the probability to drop features; otherwise they are weighted.
        gamma: features are dropped where the attention reaches this fraction of its maximum.
        label_smoothing: from 0 to below 1; 0 in the paper.
    """

    layers: tuple[str, ...] = ("below", "last")
    drop: float = 0.75
    gamma: float = 0.9
    label_smoothing: float = 0.1

    needs_images = True

    def __post_init__(self) -> None:
        if isinstance(self.layers, str) or not self.layers:
            raise ValueError(f"layers={self.layers}: expected one layer or more, as [below,last]")
        check_share("drop", self.drop)
        check_share("gamma", self.gamma)
        check_smoothing(self.label_smoothing)

    def wrap(self, network: Any) -> Any:
        """Add the dropout behind each of `layers`, and return the network.

        Args:
            network: a `pipeline.model.classifier.Classifier`, which is changed.

        Raises:
            UserError: A layer is not there or gives no feature maps.
        """
        count_channels(network, self.layers)
        for name in self.layers:
            layer = network.body.get_submodule(resolve_path(network, name))
            layer.register_forward_hook(Attention(self.drop, self.gamma))
        return network

    def __call__(
        self, network: Any, inputs: Float[Tensor, "b 3 H W"], labels: Int[Tensor, "b"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "b C"]]:
        """Compute the loss and the logits of a batch; see `pipeline.protocols.Objective`."""
        logits = network(inputs).logits.float()
        return cross_entropy(logits, labels, self.label_smoothing), logits


@dataclass(frozen=True)
class Attention:
    """A forward hook that drops or weights a layer's output while the layer is in training mode.

    Args:
        drop: the probability to drop.
        gamma: the fraction of the attention's maximum from which on features are dropped.
    """

    drop: float
    gamma: float

    def __call__(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        """Return the layer's output [b, K, h, w], changed in training mode."""
        if not module.training:
            return output
        attention = output.mean(1, keepdim=True)
        if torch.rand(()) < self.drop:
            return output * compute_drop_mask(attention, self.gamma)
        return output * attention.sigmoid()


def compute_drop_mask(
    attention: Float[Tensor, "b 1 h w"], gamma: float
) -> Float[Tensor, "b 1 h w"]:
    """Compute what is kept: 1 where the attention is below gamma times its maximum, 0 elsewhere."""
    return (attention < gamma * attention.amax((2, 3), keepdim=True)).to(attention.dtype)
