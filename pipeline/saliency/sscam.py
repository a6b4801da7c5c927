"""SS-CAM: Score-CAM whose masks are noisy, with the scores averaged over the noise.

    H_k = min-max(upsample(A_k))        w = softmax_k(mean_n s_c((H_k + e_n) * image))

    e_n ~ N(0, noise^2) for each pixel        map = relu(sum_k w_k A_k)

Wang et al., "SS-CAM: Smoothed Score-CAM for Sharper Visual Feature Localization", 2020: the variant
that smooths the masks, with the paper's 35 samples of deviation 2, as in torchcam. The score of a
baseline image that both subtract changes all scores alike, which the softmax does not see. Masks
are scaled after they are upsampled, as in our Score-CAM; torchcam scales before.

The noise is drawn from `seed` alone, a picture for each sample and channel, the same for all images
and whatever `batch` is. Memory grows with the number of channels only by their maps and scores.
Passes: 1 + samples * channels for each image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipeline.protocols import Network
from pipeline.saliency.channel_scores import ChannelScoreMethod, build_masks
from pipeline.saliency.option_checks import check_counts, check_not_negative

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@dataclass(frozen=True)
class SSCAM(ChannelScoreMethod):
    """SS-CAM of a layer, by forward passes without gradients."""

    samples: int = 35  # noisy masks for each channel, each a forward pass
    noise: float = 2.0  # standard deviation; a mask goes from 0 to 1
    seed: int = 0  # of the noise
    batch: int = 8  # masked images at once; more are faster on an accelerator

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(samples=self.samples, batch=self.batch)
        check_not_negative(noise=self.noise)

    def score_channels(
        self,
        network: Network,
        image: Float[Tensor, "1 3 H W"],
        features: Float[Tensor, "K h w"],
        classes: Int[Tensor, "t"],
    ) -> Float[Tensor, "t K"]:
        """Compute the mean logits of the classes for the image under each noisy mask."""
        generator = torch.Generator().manual_seed(self.seed)
        scores = features.new_zeros((len(features), len(classes)))
        for _ in range(self.samples):
            for start in range(0, len(features), self.batch):
                chunk = slice(start, start + self.batch)
                masks = build_masks(features[chunk], image.shape[2:])
                noise = [torch.randn(masks.shape[1:], generator=generator) for _ in masks]
                masks += self.noise * torch.stack(noise).to(masks.device)
                scores[chunk] += network(image * masks).logits[:, classes].float()
        return (scores / self.samples).T
