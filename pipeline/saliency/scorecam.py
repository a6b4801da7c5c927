"""Score-CAM: weight each feature map by the score of the image masked by it. No gradients.

    H_k = min-max(upsample(A_k))    w = softmax_k(s_c(H_k * image))    map = relu(sum_k w_k A_k)

Wang et al., "Score-CAM: Score-Weighted Visual Explanations for Convolutional Neural Networks", CVPR
workshops 2020, algorithm 1: s_c is the logit and the softmax is over the channels, as in both peers
(the authors' code weights by the probability of the class instead). The paper's "increase of
confidence" over a black image (after normalisation: grey) subtracts a constant from all scores,
which does not change the softmax. Masks are upsampled with half-pixel centres and scaled
afterwards, as in the authors' code; pytorch-grad-cam aligns the corners, torchcam scales before.

A constant map masks the whole image: all such channels share one score. The same passes serve all
classes asked for: one pass for each image and channel, `batch` of them at once. Memory grows with
the number of channels only by their maps and scores.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.errors import UserError
from pipeline.protocols import Network
from pipeline.saliency.fused import check_layer, weight_features
from pipeline.types import ClassSelector, Explanation

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@dataclass(frozen=True)
class ScoreCAM:
    """Score-CAM of a layer, by forward passes without gradients."""

    layer: str = "last"  # whose feature maps mask the image; below, or by name
    relu: bool = True  # false: keep values below zero
    batch: int = 8  # masked images at once; more are faster on an accelerator

    def __post_init__(self) -> None:
        check_layer(self.layer)
        if self.batch < 1:
            raise UserError(f"saliency.batch={self.batch}: expected at least 1 image at once")

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
            self._scores(network, images[n : n + 1], features[n], classes[n])
            for n in range(len(images))
        ]
        with torch.autocast(images.device.type, enabled=False):
            maps = weight_features(torch.stack(scores).softmax(2), features)
        return Explanation(maps.relu() if self.relu else maps, classes, answer.logits)

    def _scores(
        self,
        network: Network,
        image: Float[Tensor, "1 3 H W"],
        features: Float[Tensor, "K h w"],
        classes: Int[Tensor, "t"],
    ) -> Float[Tensor, "t K"]:
        """Compute the logits of the classes for the image masked by each feature map."""
        flat = features.flatten(1)
        constant = flat.amin(1) == flat.amax(1)
        scores = features.new_empty((len(features), len(classes)))
        for channels in torch.split((~constant).nonzero()[:, 0], self.batch):
            masked = image * build_masks(features[channels], image.shape[2:])
            scores[channels] = network(masked).logits[:, classes].float()
        if constant.any():
            scores[constant] = network(torch.zeros_like(image)).logits[:, classes].float()
        return scores.T


def build_masks(features: Float[Tensor, "n h w"], size: torch.Size) -> Float[Tensor, "n 1 H W"]:
    """Upsample feature maps to `size` (height, width) and scale each to [0, 1].

    A constant map gives a mask of zeros.
    """
    large = F.interpolate(features[:, None], size, mode="bilinear", align_corners=False)
    large -= large.amin((2, 3), keepdim=True)
    large /= large.amax((2, 3), keepdim=True).clamp(min=torch.finfo(large.dtype).tiny)
    return large
