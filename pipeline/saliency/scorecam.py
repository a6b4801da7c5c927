"""Score-CAM: weigh each feature map by the score of the image seen through it. No gradients.

    H_k = min-max(upsample(A_k))    w = softmax_k(s_c(H_k * image))    map = relu(sum_k w_k A_k)

Wang et al., "Score-CAM: Score-Weighted Visual Explanations for Convolutional Neural Networks",
CVPR workshops 2020, algorithm 1: s_c is the logit and the softmax is over the channels, as in both
peers (the authors' code weighs by the probability of the class instead). The paper's "increase of
confidence" over a black image (after normalisation: grey) takes one constant from all scores,
which the softmax drops. Masks are upsampled between pixels' centres and scaled after, as in the
authors' code; pytorch-grad-cam upsamples between corners, torchcam scales before.

A constant map masks everything: all such channels share one score. All classes asked for come from
the same passes, one an image and channel, `batch` of them at once; nothing grows with the number of
channels but their maps and scores.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.errors import UserError
from pipeline.protocols import Network
from pipeline.saliency.fused import weighted
from pipeline.types import ClassSelector, Explanation

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@dataclass(frozen=True)
class ScoreCAM:
    layer: str = "last"  # whose feature maps mask the image; below, or by name
    relu: bool = True  # false: with what is below zero where features are
    batch: int = 8  # masked images at once; an accelerator likes more

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise UserError(f"saliency.batch={self.batch}: expected at least 1 image at once")

    @torch.no_grad()
    def __call__(
        self, network: Network, images: Float[Tensor, "b 3 H W"], choose: ClassSelector
    ) -> Explanation:
        answer = network(images, at=(self.layer,))
        classes = choose(answer.logits)
        features = answer.activations[self.layer].float()
        scores = [
            self._scores(network, images[n : n + 1], features[n], classes[n])
            for n in range(len(images))
        ]
        with torch.autocast(images.device.type, enabled=False):
            maps = weighted(torch.stack(scores).softmax(2), features)
        return Explanation(maps.relu() if self.relu else maps, classes, answer.logits)

    def _scores(
        self,
        network: Network,
        image: Float[Tensor, "1 3 H W"],
        features: Float[Tensor, "K h w"],
        classes: Int[Tensor, "t"],
    ) -> Float[Tensor, "t K"]:
        """Logits of the classes for the image seen through each feature map."""
        flat = features.flatten(1)
        constant = flat.amin(1) == flat.amax(1)
        scores = features.new_empty((len(features), len(classes)))
        for channels in torch.split((~constant).nonzero()[:, 0], self.batch):
            seen = image * masks(features[channels], image.shape[2:])
            scores[channels] = network(seen).logits[:, classes].float()
        if constant.any():
            scores[constant] = network(torch.zeros_like(image)).logits[:, classes].float()
        return scores.T


def masks(features: Float[Tensor, "n h w"], size: torch.Size) -> Float[Tensor, "n 1 H W"]:
    """Feature maps at the image's size, each from 0 to 1."""
    large = F.interpolate(features[:, None], size, mode="bilinear", align_corners=False)
    large -= large.amin((2, 3), keepdim=True)
    large /= large.amax((2, 3), keepdim=True).clamp(min=torch.finfo(large.dtype).tiny)
    return large
