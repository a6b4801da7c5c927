"""What Score-CAM and its variants share: a score of each feature map, and maps weighted by them.

    w = softmax_k(score_k)        map = relu(sum_k w_k A_k)

A variant says how a channel is scored: by passes of the image masked by the channel's map.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.protocols import Network
from pipeline.saliency.fused import check_layer, weight_features
from pipeline.types import ClassSelector, Explanation

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@dataclass(frozen=True)
class ChannelScoreMethod(ABC):
    """A method of a layer that scores each feature map by forward passes, without gradients."""

    layer: str = "last"  # whose feature maps mask the image; below, or by name
    relu: bool = True  # false: keep values below zero

    def __post_init__(self) -> None:
        check_layer(self.layer)

    @torch.no_grad()
    def __call__(
        self, network: Network, images: Float[Tensor, "b 3 H W"], choose: ClassSelector
    ) -> Explanation:
        """Compute maps of the chosen classes at the resolution of the layer.

        Raises:
            UserError: If the layer does not exist.
        """
        answer = network(images, at=(self.layer,))
        classes = choose(answer.logits)
        features = answer.activations[self.layer].float()
        scores = [
            self.score_channels(network, images[n : n + 1], features[n], classes[n])
            for n in range(len(images))
        ]
        with torch.autocast(images.device.type, enabled=False):
            maps = weight_features(torch.stack(scores).softmax(2), features)
        return Explanation(maps.relu() if self.relu else maps, classes, answer.logits)

    @abstractmethod
    def score_channels(
        self,
        network: Network,
        image: Float[Tensor, "1 3 H W"],
        features: Float[Tensor, "K h w"],
        classes: Int[Tensor, "t"],
    ) -> Float[Tensor, "t K"]:
        """Compute a score of each feature map of an image for each class.

        Args:
            network: The classifier.
            image: The image as the network sees it.
            features: A_k, the layer's feature maps of the image.
            classes: The classes to explain.
        """


def build_masks(features: Float[Tensor, "n h w"], size: torch.Size) -> Float[Tensor, "n 1 H W"]:
    """Upsample feature maps to `size` (height, width) and scale each to [0, 1].

    A constant map gives a mask of zeros.
    """
    large = F.interpolate(features[:, None], size, mode="bilinear", align_corners=False)
    large -= large.amin((2, 3), keepdim=True)
    large /= large.amax((2, 3), keepdim=True).clamp(min=torch.finfo(large.dtype).tiny)
    return large
