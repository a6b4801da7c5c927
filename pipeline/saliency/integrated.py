"""Gradient times input, and integrated gradients: the same averaged from a baseline to the image.

    gradient times input     colour_c = x * d s_c(x) / dx
    integrated gradients     colour_c = (x - x') * int_0^1 d s_c / dx at x' + a (x - x') da

Shrikumar et al., "Not Just a Black Box", 2016; Sundararajan et al., "Axiomatic Attribution for Deep
Networks", ICML 2017, equation 1. Completeness: the pixels of a map of integrated gradients add up
to s_c(x) - s_c(x'), the closer the more `steps`; those of gradient times input to s_c(x), if
the network has no biases. So R, G and B are added with their signs unless asked otherwise.

x is the image as the network sees it, scaled by mean and deviation: its zero is the mean colour.
Float32 always, as the gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from torch import Tensor

from pipeline.errors import UserError
from pipeline.ops.precision import full_precision
from pipeline.protocols import Network
from pipeline.saliency.gradients import (
    compute_image_gradients,
    reduce_channels,
    sum_gradients,
)
from pipeline.saliency.option_checks import check_counts
from pipeline.types import ClassSelector, Explanation

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class GradientTimesInput:
    """The gradient times the image."""

    channels: Literal["abs_max", "abs_sum", "sum"] = "sum"  # of R, G and B; sum is signed

    def __call__(
        self, network: Network, images: Float[Tensor, "b 3 H W"], choose: ClassSelector
    ) -> Explanation:
        """Compute maps of the chosen classes at the resolution of the image."""
        colour, classes, logits = compute_image_gradients(network, images, choose)
        colour = colour * images[:, None]
        return Explanation(reduce_channels(colour, self.channels), classes, logits, colour)


@dataclass(frozen=True)
class IntegratedGradients:
    """Integrated gradients, from a baseline to the image."""

    steps: int = 32  # points on the line, a forward and a backward pass each; more are more exact
    rule: Literal["gausslegendre", "middle", "right"] = "gausslegendre"  # right: the paper's
    # x': the mean colour of training, each image's own, or three numbers as the network sees them
    # (black: -mean / std).
    baseline: Literal["mean", "image_mean"] | tuple[float, float, float] = "mean"  # or [R, G, B]
    channels: Literal["abs_max", "abs_sum", "sum"] = "sum"  # of R, G and B; sum is signed

    def __post_init__(self) -> None:
        check_counts(steps=self.steps)

    def __call__(
        self, network: Network, images: Float[Tensor, "b 3 H W"], choose: ClassSelector
    ) -> Explanation:
        """Compute maps of the chosen classes at the resolution of the image."""
        with full_precision(images, graph=False):
            logits = network(images).logits
        classes = choose(logits)
        difference = images - build_baseline(images, self.baseline)
        total = sum_gradients(network, self.interpolate(images, difference), classes)
        colour = total * difference[:, None]
        return Explanation(reduce_channels(colour, self.channels), classes, logits, colour)

    def interpolate(
        self, images: Float[Tensor, "b 3 H W"], difference: Float[Tensor, "b 3 H W"]
    ) -> Iterator[tuple[float, Float[Tensor, "b 3 H W"]]]:
        """Yield the weight and the images of each point on the line from x' to x.

        Args:
            images: x.
            difference: x - x'.

        Yields:
            A weight and images; the weights add up to 1.
        """
        n = self.steps
        if self.rule == "gausslegendre":
            positions, weights = np.polynomial.legendre.leggauss(n)
            positions, weights = (positions + 1) / 2, weights / 2
        else:
            last = 1 if self.rule == "right" else 1 - 0.5 / n
            positions, weights = last - np.arange(n) / n, np.full(n, 1 / n)
        for position, weight in zip(positions.tolist(), weights.tolist(), strict=True):
            yield weight, images - (1 - position) * difference


def build_baseline(
    images: Float[Tensor, "b 3 H W"],
    baseline: Literal["mean", "image_mean"] | tuple[float, float, float],
) -> Float[Tensor, "#b 3 1 1"]:
    """Return x', the baseline, in the units of the network's input.

    Args:
        images: x, normalized by mean and std.
        baseline: The mean colour of training, each image's own, or a colour.

    Raises:
        UserError: If the colour has not as many numbers as the images have channels.
    """
    if baseline == "image_mean":
        return images.mean((2, 3), keepdim=True)
    channels = images.shape[1]
    numbers = (0.0,) * channels if baseline == "mean" else baseline
    if len(numbers) != channels:
        raise UserError(
            f"saliency.baseline={list(numbers)}: {len(numbers)} numbers, but the network's images "
            f"have {channels} channel{'' if channels == 1 else 's'}; baseline=mean fits any"
        )
    return images.new_tensor(numbers)[None, :, None, None]
