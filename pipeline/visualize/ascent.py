"""Gradient ascent on an image, by which a network calls it a class; the network is not changed.

    argmax_I  S_c(I) - lambda ||I||_2^2 - mu TV(I)

Simonyan, Vedaldi and Zisserman, "Deep Inside Convolutional Networks: Visualising Image
Classification Models and Saliency Maps", 2013, equation 1: S_c is the logit, never the softmax,
which also grows as other classes shrink; I is what the network reads, so that 0 is the mean image,
where the ascent begins. The plain form has mu = 0. Prettier pictures use what later work added:
random shifts of the image in each step (Mordvintsev et al. 2015), a blur that decreases (Yosinski
et al. 2015), total variation (Mahendran and Vedaldi 2015), and colours clamped to those of pixels.
With another score it is activation maximisation (Erhan et al. 2009).

The paper does not give the length of a step. Here a step follows the gradient of the objective
with a root mean square of `rate`, which falls linearly to 0: this suits any network. Images of a
batch share nothing but their random shifts, which depend on the seed alone, so an image does not
depend on the rest of its batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from jaxtyping import Float

ScoreFunction = Callable[
    ["Float[Tensor, 'b 3 H W']"], tuple["Float[Tensor, 'b']", "Float[Tensor, 'b 3 H W']"]
]
"""From images to the score of each image, and the gradient of the score at each image."""
Bounds = tuple["Float[Tensor, '3']", "Float[Tensor, '3']"]
"""Black and white of each channel, standardized as the network reads them."""


@dataclass(frozen=True)
class AscentResult:
    """The images of an ascent, and the score and objective before each step and after the last.

    The values before a step are of the image with that step's random shift.
    """

    images: Float[Tensor, "b 3 H W"]
    score: Float[Tensor, "b steps+1"]
    objective: Float[Tensor, "b steps+1"]


@dataclass(frozen=True)
class Ascent:
    """Gradient ascent on images, with the options of its objective."""

    steps: int = 200
    rate: float = 0.1  # root mean square of the first step, in standard deviations of pixels
    penalty: float = 1e-3  # lambda
    variation: float = 0.0  # mu
    jitter: int = (
        0  # pixels by which the image is shifted at most, in a random direction in each step
    )
    blur: float = 0.0  # its standard deviation in pixels at first; it falls to a quarter

    def __call__(
        self,
        score_function: ScoreFunction,
        start: Float[Tensor, "b 3 H W"],
        seed: int = 0,
        bounds: Bounds | None = None,
    ) -> AscentResult:
        """Change images so that they score higher.

        Args:
            score_function: From images to scores and gradients.
            start: The images to start from, standardized as the network reads them; not changed.
            seed: Of the random shifts.
            bounds: The range of each channel; None: unlimited.
        """
        draw = torch.Generator().manual_seed(seed)
        image = start.detach().clone()
        scores, objectives = [], []
        for step in range(self.steps):
            remaining = 1 - step / self.steps
            shift = torch.randint(-self.jitter, self.jitter + 1, (2,), generator=draw).tolist()
            image = image.roll(shift, (2, 3))
            score, objective, gradient = self._evaluate(score_function, image)
            scores.append(score)
            objectives.append(objective)
            length = gradient.square().mean((1, 2, 3), keepdim=True).sqrt()
            # Where the gradient is 0, the image stays as it is.
            image = image + self.rate * remaining * gradient / length.clamp_min(1e-20)
            if self.blur:
                image = blur(image, self.blur * (0.25 + 0.75 * remaining))
            if bounds is not None:
                low, high = (bound[:, None, None] for bound in bounds)
                image = image.clamp(low, high)
            image = image.roll([-pixels for pixels in shift], (2, 3))
        score, objective, _ = self._evaluate(score_function, image)
        return AscentResult(
            image, torch.stack([*scores, score], 1), torch.stack([*objectives, objective], 1)
        )

    def cost(self, image: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b"]:
        """Compute what the objective subtracts from the score: lambda ||I||^2 + mu TV(I)."""
        penalty = self.penalty * image.square().sum((1, 2, 3))
        return penalty + self.variation * total_variation(image) if self.variation else penalty

    def _evaluate(
        self, score_function: ScoreFunction, image: Tensor
    ) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"], Float[Tensor, "b 3 H W"]]:
        """Return score, objective, and the gradient of the objective at the image."""
        score, gradient = score_function(image)
        leaf = image.detach().requires_grad_()
        with torch.enable_grad():
            cost = self.cost(leaf)
            (cost_gradient,) = torch.autograd.grad(cost.sum(), leaf)
        return score, score - cost.detach(), gradient - cost_gradient


def total_variation(image: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b"]:
    """Compute the sum of squared differences of neighbours (beta = 2 in Mahendran and Vedaldi)."""
    down = image.diff(dim=2).square().sum((1, 2, 3))
    across = image.diff(dim=3).square().sum((1, 2, 3))
    return down + across


def blur(image: Float[Tensor, "b 3 H W"], deviation: float) -> Float[Tensor, "b 3 H W"]:
    """Blur images with a Gaussian of a standard deviation in pixels; border pixels are repeated."""
    radius = max(1, min(round(3 * deviation), min(image.shape[2:]) - 1))
    at = torch.arange(-radius, radius + 1, device=image.device, dtype=image.dtype)
    kernel = torch.exp(-0.5 * (at / deviation) ** 2)
    kernel = (kernel / kernel.sum()).expand(3, 1, -1)
    padded = F.pad(image, (radius,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel[..., None], groups=3), kernel[..., None, :], groups=3)
