"""Background activation suppression (BAS): a foreground map which leaves no evidence outside.

    M = sigmoid(conv(g)), one map a class, of the features g of `layer`; M_y that of the label
    S = mean_ij relu(sum_k w_k^y f_k(i, j))       the activation of the image
    S_b, the same of g (1 - M_y)                  of what is outside the map
    loss = CE(s, y) + lambda CE(s of f M_y, y) + S_b / S + alpha mean_ij M_y

The third term, background activation suppression, wants the map to cover all that speaks for the
class, the fourth wants it small; the second, that the foreground alone is of the class. S_b / S is
0 where S_b >= S. In S_b neither g nor the weights behind it learn, in S nothing does: both terms
teach the map alone.

Wu, Zhai and Cao, "Background Activation Suppression for Weakly Supervised Object Localization",
CVPR 2022; lambda = 0.5, alpha = 1.5 are its code's for MobileNetV1 on CUB.

What differs: the network's own GAP head is the classifier, without the paper's further convolutions
and with no ReLU on the class maps, so that S applies one. S and S_b are taken with batch norm's
running statistics: those of the batch, which the paper's code uses, normalise back what is hidden,
and the map can end as nothing (so it did on 32 generated pictures). At test the paper averages the
maps of all classes, or of the likeliest; `saliency=foreground` shows that of the class explained.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.errors import UserError
from pipeline.objective.cross_entropy import check_smoothing, cross_entropy
from pipeline.objective.wrapped import (
    FOREGROUND,
    add_branch,
    behind,
    channels_of,
    class_maps,
    with_layers,
)

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@dataclass(frozen=True)
class BAS:
    layer: str = "below"  # whose features the map is made of and hides: below, or a name
    foreground: float = 0.5  # lambda, of the loss of the foreground alone
    area: float = 1.5  # alpha, of the map's mean
    label_smoothing: float = 0.1  # 0 in the paper

    needs_images = True

    def __post_init__(self) -> None:
        for name in ("foreground", "area"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}: expected a weight, 0 or more")
        check_smoothing(self.label_smoothing)

    def wrap(self, network: Any) -> Any:
        """The network with the generator of its maps. Raises UserError where it has no GAP head, no
        such layer, or does not run as a chain behind it."""
        classes = network.class_weights.shape[0]
        (channels,) = channels_of(network, (self.layer,))
        if not len(behind(network, self.layer, "bas")):
            raise UserError(
                f"objective.layer={self.layer}: nothing runs behind it that would read what the "
                "map leaves; give one below, as objective.layer=below"
            )
        generator = Generator(self.layer, channels, classes).to(network.class_weights.device)
        add_branch(network, FOREGROUND, generator, "bas")
        return network

    def __call__(
        self, network: Any, inputs: Float[Tensor, "b 3 H W"], labels: Int[Tensor, "b"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "b C"]]:
        answer = with_layers(network, inputs, (self.layer, "last", FOREGROUND))
        found, logits = answer.activations, answer.logits.float()
        map_of = found[FOREGROUND][torch.arange(len(labels)), labels][:, None]
        below, features = found[self.layer].detach(), found["last"]

        # A copy, whose weights stay as they are; by running statistics, for those of the batch
        # would make up for what is hidden.
        rest = copy.deepcopy(behind(network, self.layer, "bas")).requires_grad_(False).eval()
        weights = network.class_weights.detach()
        whole = activation(weights, rest(below), labels)
        left = activation(weights, rest(below * (1 - map_of)), labels)

        inside = functional.adaptive_avg_pool2d(map_of, (features.shape[2], features.shape[3]))
        loss = (
            cross_entropy(logits, labels, self.label_smoothing)
            + self.foreground
            * cross_entropy(network.head(features * inside), labels, self.label_smoothing)
            + suppression(left, whole)
            + self.area * map_of.mean()
        )
        return loss, logits


class Generator(nn.Module):
    """One foreground map a class [b, C, h, w], from 0 to 1."""

    def __init__(self, layer: str, channels: int, classes: int) -> None:
        super().__init__()
        self.reads = (layer,)
        self.conv = nn.Conv2d(channels, classes, 3, padding=1)

    def forward(self, features: Float[Tensor, "b K h w"]) -> Float[Tensor, "b C h w"]:
        maps: Tensor = self.conv(features)
        return maps.float().sigmoid()


def activation(
    weights: Float[Tensor, "C K"], features: Float[Tensor, "b K h w"], labels: Int[Tensor, "b"]
) -> Float[Tensor, "b"]:
    """How much speaks for each image's class: the mean of its class map's positive part."""
    return class_maps(weights, features, labels).relu().mean((1, 2))


def suppression(left: Float[Tensor, "b"], whole: Float[Tensor, "b"]) -> Float[Tensor, ""]:
    """The mean of left / whole, 0 where as much is left as there was."""
    return torch.where(left < whole, left / (whole + 1e-8), 0).mean()
