"""Background activation suppression (BAS): a foreground map with no evidence of the class outside.

    M = sigmoid(conv(g)), one map a class, of the features g of `layer`; M_y that of the label
    S = mean_ij relu(sum_k w_k^y f_k(i, j))       the activation of the image
    S_b, the same of g (1 - M_y)                  of what is outside the map
    loss = CE(s, y) + lambda CE(s of f M_y, y) + S_b / S + alpha mean_ij M_y

The second term trains the foreground alone to be classified as the label. The third, background
activation suppression, enlarges the map until it covers the evidence of the class; the fourth makes
it small. S_b / S is 0 where S_b >= S. S_b has no gradient to g or to the weights behind it, and S
has none at all: the third term trains the map alone.

Wu, Zhai and Cao, "Background Activation Suppression for Weakly Supervised Object Localization",
CVPR 2022; lambda = 0.5, alpha = 1.5 are its code's for MobileNetV1 on CUB.

What differs: the network's GAP head is the classifier, without the paper's further convolutions and
without a ReLU on the class maps, so that S applies one. S and S_b are computed with batch norm's
running statistics. Those of the batch, which the paper's code uses, compensate for what is hidden,
and the map can vanish (it did on 32 generated images). At test the paper averages the maps of all
classes, or of the most likely ones; `saliency=foreground` shows that of the class explained.
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
    collect_modules_behind,
    compute_class_maps,
    count_channels,
    run_with_layers,
)

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@dataclass(frozen=True)
class BAS:
    """Background activation suppression.

    Args:
        layer: the layer whose features the map is computed from and hides: below, or a name.
        foreground: lambda, the weight of the loss of the foreground alone, 0 or more.
        area: alpha, the weight of the map's mean, 0 or more.
        label_smoothing: from 0 to below 1; 0 in the paper.
    """

    layer: str = "below"
    foreground: float = 0.5
    area: float = 1.5
    label_smoothing: float = 0.1

    needs_images = True

    def __post_init__(self) -> None:
        for name, weight in (("foreground", self.foreground), ("area", self.area)):
            if weight < 0:
                raise ValueError(f"{name}={weight}: expected a weight, 0 or more")
        check_smoothing(self.label_smoothing)

    def wrap(self, network: Any) -> Any:
        """Add the generator of the maps to a network, and return the network.

        Args:
            network: a `pipeline.model.classifier.Classifier`, which is changed.

        Raises:
            UserError: The network has no GAP head or no such layer, does not run as a chain behind
                it, or has a branch `foreground` already.
        """
        classes = network.class_weights.shape[0]
        (channels,) = count_channels(network, (self.layer,))
        if not len(collect_modules_behind(network, self.layer, "bas")):
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
        """Compute the loss and the logits of a batch; see `pipeline.protocols.Objective`."""
        output = run_with_layers(network, inputs, (self.layer, "last", FOREGROUND))
        activations, logits = output.activations, output.logits.float()
        label_maps = activations[FOREGROUND][torch.arange(len(labels)), labels][:, None]
        below, features = activations[self.layer].detach(), activations["last"]

        # A copy, whose weights take no gradient; in eval mode, as the statistics of the batch would
        # compensate for what is hidden.
        behind = collect_modules_behind(network, self.layer, "bas")
        behind = copy.deepcopy(behind).requires_grad_(False).eval()
        weights = network.class_weights.detach()
        total = compute_activation(weights, behind(below), labels)
        outside = compute_activation(weights, behind(below * (1 - label_maps)), labels)

        inside = functional.adaptive_avg_pool2d(label_maps, (features.shape[2], features.shape[3]))
        loss = (
            cross_entropy(logits, labels, self.label_smoothing)
            + self.foreground
            * cross_entropy(network.head(features * inside), labels, self.label_smoothing)
            + compute_suppression(outside, total)
            + self.area * label_maps.mean()
        )
        return loss, logits


class Generator(nn.Module):
    """A branch: a foreground map for each class.

    Args:
        layer: the layer that it reads.
        channels: of that layer.
        classes: number of maps.
    """

    def __init__(self, layer: str, channels: int, classes: int) -> None:
        super().__init__()
        self.reads = (layer,)
        self.conv = nn.Conv2d(channels, classes, 3, padding=1)

    def forward(self, features: Float[Tensor, "b K h w"]) -> Float[Tensor, "b C h w"]:
        """Compute the map of each class, from 0 to 1."""
        maps: Tensor = self.conv(features)
        return maps.float().sigmoid()


def compute_activation(
    weights: Float[Tensor, "C K"], features: Float[Tensor, "b K h w"], labels: Int[Tensor, "b"]
) -> Float[Tensor, "b"]:
    """Compute the mean of the positive part of the class map of each image's label."""
    return compute_class_maps(weights, features, labels).relu().mean((1, 2))


def compute_suppression(
    outside: Float[Tensor, "b"], total: Float[Tensor, "b"]
) -> Float[Tensor, ""]:
    """Compute the mean of outside / total, which counts as 0 where outside is no less than total.

    Args:
        outside: the activation S_b of each image where the foreground is hidden.
        total: the activation S of each image.
    """
    return torch.where(outside < total, outside / (total + 1e-8), 0).mean()
