"""SmoothGrad: the mean of the gradients at noisy copies of the image.

    colour_c = mean_n d s_c / dx at x + e_n    e_n ~ N(0, sigma^2), sigma = noise * (max x - min x)

Smilkov et al., "SmoothGrad: removing noise by adding noise", 2017, section 3; `squared` takes the
mean of the squared gradients (Hooker et al., "A Benchmark for Interpretability Methods in Deep
Neural Networks", NeurIPS 2019, section 4.3). Without noise it is the gradient.

All images get the same noise, from a separate generator: neither the batch of an image nor the
worker nor the device changes its map. Float32 always, as the gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from pipeline.ops.precision import full_precision
from pipeline.protocols import Network
from pipeline.saliency.gradients import reduce_channels, sum_gradients
from pipeline.saliency.option_checks import check_counts, check_not_negative
from pipeline.types import ClassSelector, Explanation

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class SmoothGrad:
    """The mean of the gradients, or of their squares, at noisy copies of the image."""

    samples: int = 25  # noisy copies, each a forward and a backward pass
    noise: float = 0.15  # sigma as a share of the image's range of values
    squared: bool = False  # average the squared gradients
    channels: Literal["abs_max", "abs_sum", "sum"] = "abs_max"  # of R, G and B; sum is signed
    seed: int = 0  # of the noise

    def __post_init__(self) -> None:
        check_counts(samples=self.samples)
        check_not_negative(noise=self.noise)

    def __call__(
        self, network: Network, images: Float[Tensor, "b 3 H W"], choose: ClassSelector
    ) -> Explanation:
        """Compute maps of the chosen classes at the resolution of the image."""
        with full_precision(images, graph=False):
            logits = network(images).logits
        classes = choose(logits)
        copies = self.add_noise(images)
        colour = sum_gradients(network, copies, classes, power=2 if self.squared else 1)
        return Explanation(reduce_channels(colour, self.channels), classes, logits, colour)

    def add_noise(
        self, images: Float[Tensor, "b 3 H W"]
    ) -> Iterator[tuple[float, Float[Tensor, "b 3 H W"]]]:
        """Yield the weight and the images of each noisy copy; the weights add up to 1.

        Args:
            images: normalized by mean and std.
        """
        generator = torch.Generator().manual_seed(self.seed)
        spread = images.amax((1, 2, 3), keepdim=True) - images.amin((1, 2, 3), keepdim=True)
        sigma = self.noise * spread
        for _ in range(self.samples):
            noise = torch.randn(images.shape[1:], generator=generator).to(images.device)
            yield 1 / self.samples, torch.addcmul(images, sigma, noise)
