"""Ablation-CAM: weight each feature map by how much of the score is lost without it. No gradients.

    w_k = (s_c - s_c[A_k := 0]) / |s_c|        map = relu(sum_k w_k A_k)

Desai and Ramaswamy, "Ablation-CAM: Visual Explanations for Deep Convolutional Network via
Gradient-free Localization", WACV 2020; s_c is the logit. The paper divides by s_c, which would flip
the sign of the map of a class with a negative logit; its size only scales the map. On a head that
is mean then linear, w_k = w_k^c mean_ij A_k / |s_c|.

A map is ablated by setting it to zero, as in the paper, also where features can be negative (there
pytorch-grad-cam sets them to ten million below the least). Only what follows the layer runs again,
`batch` channels at once, where the network knows what that is (`last` of any CNN, blocks of most of
them); a map that is zero already is left out. One channel's share of a logit is less than bfloat16
resolves, so all is computed in float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipeline.ops.precision import full_precision
from pipeline.protocols import Network
from pipeline.saliency.fused import check_layer, weight_features
from pipeline.saliency.option_checks import check_counts
from pipeline.types import ClassSelector, Explanation

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@dataclass(frozen=True)
class AblationCAM:
    """Ablation-CAM of a layer, by forward passes without gradients."""

    layer: str = "last"  # whose feature maps are ablated; below, or by name
    relu: bool = True  # false: signed, negative where it speaks against the class
    batch: int = 16  # ablated channels at once

    def __post_init__(self) -> None:
        check_layer(self.layer)
        check_counts(batch=self.batch)

    def __call__(
        self, network: Network, images: Float[Tensor, "b 3 H W"], choose: ClassSelector
    ) -> Explanation:
        """Compute maps of the chosen classes at the resolution of the layer.

        Raises:
            UserError: If the layer does not exist.
        """
        with full_precision(images, graph=False):
            answer = network(images, at=(self.layer,))
            classes = choose(answer.logits)
            features = answer.activations[self.layer]
            weights = [
                self._weights(network, images[n : n + 1], features[n : n + 1], classes[n])
                for n in range(len(images))
            ]
            maps = weight_features(torch.stack(weights), features)
            return Explanation(maps.relu() if self.relu else maps, classes, answer.logits)

    def _weights(
        self,
        network: Network,
        image: Float[Tensor, "1 3 H W"],
        features: Float[Tensor, "1 K h w"],
        classes: Int[Tensor, "t"],
    ) -> Float[Tensor, "t K"]:
        """Compute the part of each class's logit that is lost without each channel."""
        logits = network.behind(self.layer, features.clone(), image)[:, classes]
        lost = features.new_zeros((features.shape[1], len(classes)))
        alive = features[0].flatten(1).any(1).nonzero()[:, 0]
        for channels in torch.split(alive, self.batch):
            ablated = features.repeat(len(channels), 1, 1, 1)
            ablated[torch.arange(len(channels), device=alive.device), channels] = 0
            lost[channels] = logits - network.behind(self.layer, ablated, image)[:, classes]
        return (lost / logits.abs().clamp(min=torch.finfo(logits.dtype).tiny)).T
