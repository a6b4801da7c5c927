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

from pipeline.protocols import Network
from pipeline.saliency.channel_scores import ChannelScoreMethod, build_masks
from pipeline.saliency.option_checks import check_counts

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@dataclass(frozen=True)
class ScoreCAM(ChannelScoreMethod):
    """Score-CAM of a layer, by forward passes without gradients."""

    batch: int = 8  # masked images at once; more are faster on an accelerator

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(batch=self.batch)

    def score_channels(
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
