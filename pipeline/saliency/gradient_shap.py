"""Gradient SHAP: expected gradients, with baselines drawn from a distribution.

    colour_c = mean_n (x_n - x'_n) * d s_c / dx at x'_n + a_n (x_n - x'_n)
    x_n = x + e_n, e_n ~ N(0, noise^2), a_n ~ U(0, 1), x'_n drawn from the baselines

Lundberg and Lee, "A Unified Approach to Interpreting Model Predictions", NeurIPS 2017, as the
authors' GradientExplainer; Erion et al., "Improving Performance of Deep Learning Models with
Axiomatic Attribution Priors and Expected Gradients", 2021. It approximates SHAP values, if the
score is nearly linear and pixels are independent. In expectation the pixels of a map add up to
s_c(x) - mean s_c(x'), as integrated gradients averaged over baselines do; with one baseline it is
integrated gradients with random points.

`baselines=normal` draws each value from N(0, 1), the mean and deviation of the images that the
network was trained on; a list of colours draws one of them for each sample.

All images get the same draws, from a separate generator: neither the batch of an image nor the
worker nor the device changes its map. Float32 always, as the gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from pipeline.errors import UserError
from pipeline.ops.precision import full_precision
from pipeline.protocols import Network
from pipeline.saliency.gradients import reduce_channels, sum_gradients
from pipeline.saliency.integrated import build_baseline
from pipeline.saliency.option_checks import check_counts, check_not_negative
from pipeline.types import ClassSelector, Explanation

if TYPE_CHECKING:
    from jaxtyping import Float

Colours = tuple[tuple[float, float, float], ...]


@dataclass(frozen=True)
class GradientSHAP:
    """Gradient SHAP: the mean of gradients between random baselines and the image."""

    samples: int = 25  # draws, each a forward and a backward pass
    noise: float = 0.0  # standard deviation of what is added to the image, in the network's units
    # x': noise like the images of training, their mean colour, each image's own, or colours as the
    # network sees them (black: -mean / std), one of which is drawn for each sample.
    baselines: Literal["normal", "mean", "image_mean"] | Colours = "normal"  # or [[R, G, B], ...]
    channels: Literal["abs_max", "abs_sum", "sum"] = "sum"  # of R, G and B; sum is signed
    seed: int = 0  # of all draws

    def __post_init__(self) -> None:
        check_counts(samples=self.samples)
        check_not_negative(noise=self.noise)
        colours = () if isinstance(self.baselines, str) else self.baselines
        if not self.baselines or any(len(colour) != 3 for colour in colours):
            raise UserError(
                f"saliency.baselines={self.baselines}: expected one or more colours of three "
                "numbers, [[0,0,0],[1,1,1]], or normal, mean or image_mean"
            )

    def __call__(
        self, network: Network, images: Float[Tensor, "b 3 H W"], choose: ClassSelector
    ) -> Explanation:
        """Compute maps of the chosen classes at the resolution of the image."""
        with full_precision(images, graph=False):
            logits = network(images).logits
        classes = choose(logits)
        points = (
            ((copies - start)[:, None] / self.samples, torch.lerp(start, copies, position))
            for copies, start, position in self.draw(images)
        )
        colour = sum_gradients(network, points, classes)
        return Explanation(reduce_channels(colour, self.channels), classes, logits, colour)

    def draw(
        self, images: Float[Tensor, "b 3 H W"]
    ) -> Iterator[tuple[Float[Tensor, "b 3 H W"], Float[Tensor, "b 3 H W"], float]]:
        """Yield the noisy images, their baselines and the position between them, of each sample.

        Args:
            images: x, normalized by mean and std.

        Yields:
            x_n, x'_n and a_n.
        """
        generator = torch.Generator().manual_seed(self.seed)
        shape = images.shape[1:]
        for _ in range(self.samples):
            position = float(torch.rand((), generator=generator))
            copies = images
            if self.noise > 0:
                copies = images + self.noise * torch.randn(shape, generator=generator).to(images)
            if self.baselines == "normal":
                start = torch.randn(shape, generator=generator).to(images)[None]
            elif isinstance(self.baselines, str):
                start = build_baseline(images, self.baselines)
            else:
                choice = int(torch.randint(len(self.baselines), (), generator=generator))
                start = build_baseline(images, self.baselines[choice])
            yield copies, start.expand_as(images), position
