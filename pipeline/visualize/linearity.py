"""Linearity: how well the gradient predicts the change of the class score (first-order view).

    S_c(I) ~ w^T (I - I_0) + b        w = dS_c / dI at I_0,   b = S_c(I_0)

Simonyan, Vedaldi and Zisserman 2013, section 3.1, equations 3 and 4: the picture behind the
gradient map. At a distance r from I_0 (root mean square over pixels and channels, in the network's
units) the line is compared with the network itself, along the gradient in both directions, and in
random directions:

    error(r) = sqrt( mean (S_c(I) - line(I))^2 / mean (S_c(I) - S_c(I_0))^2 )

0: the line predicts the change exactly; 1: the line is as wrong as predicting no change. The means
are over the directions of an image. A linear network has an error of 0 at every distance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float

Score = Callable[["Float[Tensor, 'b 3 H W']"], "Float[Tensor, 'b']"]


@dataclass(frozen=True)
class Linearity:
    """Scores and errors of each image and distance.

    Along the gradient, distances are signed: from minus the largest over 0 to the largest.
    """

    score: Float[Tensor, "b 2d+1"]  # of the network along the gradient
    line: Float[Tensor, "b 2d+1"]  # predicted by the gradient
    error_along: Float[Tensor, "b d"]
    error_random: Float[Tensor, "b d"]


def measure_linearity(
    score: Score,
    images: Float[Tensor, "b 3 H W"],
    distances: Sequence[float],
    directions: int,
    seeds: Sequence[int],
) -> Linearity:
    """Compare the score with its first-order line around each image.

    Args:
        score: From images to scores [b].
        images: The points I_0, as the network reads them.
        distances: Root mean squares in the network's units, above 0, in increasing order.
        directions: How many random directions.
        seeds: A seed for each image, of its random directions.
    """
    leaf = images.detach().requires_grad_()
    with torch.enable_grad():
        scores = score(leaf)
        (gradient,) = torch.autograd.grad(scores.sum(), leaf)
    at_image = scores.detach()
    signed = [*(-r for r in reversed(distances)), *distances]
    count = len(distances)

    def compute_changes(direction: Tensor, steps: Sequence[float]) -> tuple[Tensor, Tensor]:
        """Return the changes of the score, by the network and by the line, [b, steps]."""
        length = direction.square().mean((1, 2, 3), keepdim=True).sqrt().clamp_min(1e-20)
        unit = direction / length
        with torch.no_grad():
            real = torch.stack([score(images + r * unit) - at_image for r in steps], 1)
        inner = (unit.double() * gradient.double()).sum((1, 2, 3))
        return real, inner[:, None].float() * torch.tensor(steps, device=images.device)

    real, line = compute_changes(gradient, signed)
    squared_error, squared_change = (real - line).square(), real.square()

    def sum_directions(values: Tensor) -> Tensor:
        """Add the values of both directions along the gradient, [b, d]."""
        return values[:, count:] + values[:, :count].flip(1)

    along = _divide(sum_directions(squared_error), sum_directions(squared_change))
    error_sum = torch.zeros_like(along)
    change_sum = torch.zeros_like(along)
    draws = [torch.Generator().manual_seed(seed) for seed in seeds]
    for _ in range(directions):
        drawn = torch.stack([torch.randn(images.shape[1:], generator=draw) for draw in draws])
        change, predicted = compute_changes(drawn.to(images.device), distances)
        error_sum += (change - predicted).square()
        change_sum += change.square()
    zero = torch.zeros_like(real[:, :1])

    def to_scores(values: Tensor) -> Tensor:
        """Insert the change 0 at the image, and add the score there."""
        with_zero = torch.cat([values[:, :count], zero, values[:, count:]], 1)
        return with_zero + at_image[:, None]

    return Linearity(to_scores(real), to_scores(line), along, _divide(error_sum, change_sum))


def _divide(squared_error: Tensor, squared_change: Tensor) -> Tensor:
    """Return the root of the ratio; 0 where both are 0: the line predicts that nothing changes."""
    both_zero = (squared_error == 0) & (squared_change == 0)
    return torch.where(both_zero, 0.0, (squared_error / squared_change).sqrt())
