"""An image that a network would call a class: gradient ascent on the image, the network left alone.

    argmax_I  S_c(I) - lambda ||I||_2^2 - mu TV(I)

Simonyan, Vedaldi and Zisserman, "Deep Inside Convolutional Networks: Visualising Image
Classification Models and Saliency Maps", 2013, equation 1: S_c is the logit, never the softmax,
which also grows as other classes shrink; I is what the network reads, so that 0 is the mean image,
where the ascent begins. Plain is that and nothing else (mu = 0). Prettier pictures come of what
later work added: random shifts of the image from step to step (Mordvintsev et al. 2015), a blur
that fades (Yosinski et al. 2015), total variation (Mahendran and Vedaldi 2015), and colours kept
within what can be shown. With another score it is activation maximisation (Erhan et al. 2009).

The paper does not say how far a step goes. Here it goes along the gradient of the objective, by a
root mean square of `rate`, which falls to 0 in a straight line: that serves any network, and only
the way to the top hangs on it. Images of a batch share nothing but their shifts, which follow from
the seed alone, so that none hangs on what it is computed with.
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

Climb = Callable[
    ["Float[Tensor, 'b 3 H W']"], tuple["Float[Tensor, 'b']", "Float[Tensor, 'b 3 H W']"]
]
"""Of each image its score, and the score's gradient at the image."""
Bounds = tuple["Float[Tensor, '3']", "Float[Tensor, '3']"]
"""Black and white as the network reads them."""


@dataclass(frozen=True)
class Climbed:
    """Images at the top, and the way there: of each step the score and the objective before it, of
    the image as it lay then; last those of the image that is given."""

    images: Float[Tensor, "b 3 H W"]
    score: Float[Tensor, "b steps+1"]
    objective: Float[Tensor, "b steps+1"]


@dataclass(frozen=True)
class Ascent:
    steps: int = 200
    rate: float = 0.1  # root mean square of the first step, in standard deviations of pixels
    penalty: float = 1e-3  # lambda
    variation: float = 0.0  # mu
    jitter: int = 0  # pixels by which the image is shifted at most, another way each step
    blur: float = 0.0  # its standard deviation in pixels at first; it falls to a quarter

    def __call__(
        self,
        climb: Climb,
        start: Float[Tensor, "b 3 H W"],
        seed: int = 0,
        bounds: Bounds | None = None,
    ) -> Climbed:
        """From `start`, which is not changed, to images within `bounds` that score high."""
        draw = torch.Generator().manual_seed(seed)
        image = start.detach().clone()
        scores, objectives = [], []
        for step in range(self.steps):
            left = 1 - step / self.steps
            by = torch.randint(-self.jitter, self.jitter + 1, (2,), generator=draw).tolist()
            image = image.roll(by, (2, 3))
            found, objective, slope = self._at(climb, image)
            scores.append(found)
            objectives.append(objective)
            length = slope.square().mean((1, 2, 3), keepdim=True).sqrt()
            # Where nothing in the image moves the score, it stays as it is.
            image = image + self.rate * left * slope / length.clamp_min(1e-20)
            if self.blur:
                image = blurred(image, self.blur * (0.25 + 0.75 * left))
            if bounds is not None:
                low, high = (one[:, None, None] for one in bounds)
                image = image.clamp(low, high)
            image = image.roll([-one for one in by], (2, 3))
        found, objective, _ = self._at(climb, image)
        return Climbed(
            image, torch.stack([*scores, found], 1), torch.stack([*objectives, objective], 1)
        )

    def cost(self, image: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b"]:
        """What is taken away from the score."""
        whole = self.penalty * image.square().sum((1, 2, 3))
        return whole + self.variation * total_variation(image) if self.variation else whole

    def _at(
        self, climb: Climb, image: Tensor
    ) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"], Float[Tensor, "b 3 H W"]]:
        """Score, objective, and the objective's gradient at the image."""
        found, slope = climb(image)
        here = image.detach().requires_grad_()
        with torch.enable_grad():
            cost = self.cost(here)
            (down,) = torch.autograd.grad(cost.sum(), here)
        return found, found - cost.detach(), slope - down


def total_variation(image: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b"]:
    """The sum of squared differences of neighbours (beta = 2 in Mahendran and Vedaldi)."""
    down = image.diff(dim=2).square().sum((1, 2, 3))
    across = image.diff(dim=3).square().sum((1, 2, 3))
    return down + across


def blurred(image: Float[Tensor, "b 3 H W"], deviation: float) -> Float[Tensor, "b 3 H W"]:
    """By a Gaussian, at the border by what there is of the image."""
    reach = max(1, min(round(3 * deviation), min(image.shape[2:]) - 1))
    at = torch.arange(-reach, reach + 1, device=image.device, dtype=image.dtype)
    kernel = torch.exp(-0.5 * (at / deviation) ** 2)
    kernel = (kernel / kernel.sum()).expand(3, 1, -1)
    padded = F.pad(image, (reach,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel[..., None], groups=3), kernel[..., None, :], groups=3)
