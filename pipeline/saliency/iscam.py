"""IS-CAM: Score-CAM whose scores are averaged while the masks grow.

    H_k = min-max(upsample(A_k))        w = softmax_k(mean_n s_c(c_n H_k * image)),  n = 1 ... N

    c_n = sum_{m <= n} m / N, or n / N        map = relu(sum_k w_k A_k)

Naidu et al., "IS-CAM: Integrated Score-CAM for axiomatic-based explanations", 2020. There masks are
added up while they grow (`path: added`, as in torchcam), so that with 10 steps the last mask goes
up to 5.5; `path: linear` integrates from the black image to the masked one, as the name says. The
score of a baseline image that both subtract changes all scores alike, which the softmax does not
see. Masks are upsampled and then scaled, as in our Score-CAM; torchcam scales before.

A constant map masks the whole image: all such channels share one score. Memory grows with the
number of channels only by their maps and scores. Passes: 1 + steps * channels for each image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from pipeline.protocols import Network
from pipeline.saliency.channel_scores import ChannelScoreMethod, build_masks
from pipeline.saliency.option_checks import check_counts

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@dataclass(frozen=True)
class ISCAM(ChannelScoreMethod):
    """IS-CAM of a layer, by forward passes without gradients."""

    steps: int = 10  # masks for each channel, each a forward pass
    path: Literal["added", "linear"] = "added"  # how masks grow: as published, or from 0 to 1
    batch: int = 8  # masked images at once; more are faster on an accelerator

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(steps=self.steps, batch=self.batch)

    def _factors(self) -> list[float]:
        """Return what the masks are multiplied by at each step."""
        linear = [step / self.steps for step in range(1, self.steps + 1)]
        if self.path == "linear":
            return linear
        return [sum(linear[: step + 1]) for step in range(self.steps)]

    def score_channels(
        self,
        network: Network,
        image: Float[Tensor, "1 3 H W"],
        features: Float[Tensor, "K h w"],
        classes: Int[Tensor, "t"],
    ) -> Float[Tensor, "t K"]:
        """Compute the mean logits of the classes for the image under each growing mask."""
        flat = features.flatten(1)
        constant = flat.amin(1) == flat.amax(1)
        scores = features.new_zeros((len(features), len(classes)))
        for channels in torch.split((~constant).nonzero()[:, 0], self.batch):
            masked = image * build_masks(features[channels], image.shape[2:])
            for factor in self._factors():
                scores[channels] += network(factor * masked).logits[:, classes].float()
        scores /= self.steps
        if constant.any():
            scores[constant] = network(torch.zeros_like(image)).logits[:, classes].float()
        return scores.T
