"""How far the first-order view holds: is the class score the straight line its gradient draws?

    S_c(I) ~ w^T (I - I_0) + b        w = dS_c / dI at I_0,   b = S_c(I_0)

Simonyan, Vedaldi and Zisserman 2013, section 3.1, equations 3 and 4: the picture behind the
gradient map. At a distance r from I_0 (root mean square over pixels and channels, in the network's
own units) the line is held against the network itself, along the gradient, both ways, and in random
directions:

    error(r) = sqrt( mean (S_c(I) - line(I))^2 / mean (S_c(I) - S_c(I_0))^2 )

0: the line tells all of the change; 1: as far off as to say that nothing changes. The means are
over the directions of one image. A linear network has an error of 0 at every distance.
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
class Line:
    """Of each image and distance. `along` is signed: minus the distances from the farthest on, 0,
    and the distances."""

    score: Float[Tensor, "b 2d+1"]  # of the network along the gradient
    line: Float[Tensor, "b 2d+1"]
    error_along: Float[Tensor, "b d"]
    error_random: Float[Tensor, "b d"]


def first_order(
    score: Score,
    images: Float[Tensor, "b 3 H W"],
    distances: Sequence[float],
    directions: int,
    seeds: Sequence[int],
) -> Line:
    """Around each image; its random directions follow from its own of `seeds`.

    `distances` grow and are above 0.
    """
    here = images.detach().requires_grad_()
    with torch.enable_grad():
        found = score(here)
        (slope,) = torch.autograd.grad(found.sum(), here)
    at_image = found.detach()
    signed = [*(-r for r in reversed(distances)), *distances]
    count = len(distances)

    def both(direction: Tensor, steps: Sequence[float]) -> tuple[Tensor, Tensor]:
        """Changes of the score, by the network and by the line, [b, steps]."""
        length = direction.square().mean((1, 2, 3), keepdim=True).sqrt().clamp_min(1e-20)
        unit = direction / length
        with torch.no_grad():
            real = torch.stack([score(images + r * unit) - at_image for r in steps], 1)
        inner = (unit.double() * slope.double()).sum((1, 2, 3))
        return real, inner[:, None].float() * torch.tensor(steps, device=images.device)

    real, line = both(slope, signed)
    wrong, moved = (real - line).square(), real.square()

    def folded(values: Tensor) -> Tensor:
        """Both ways together, [b, d]."""
        return values[:, count:] + values[:, :count].flip(1)

    along = _ratio(folded(wrong), folded(moved))
    wrong_sum = torch.zeros_like(along)
    moved_sum = torch.zeros_like(along)
    draws = [torch.Generator().manual_seed(seed) for seed in seeds]
    for _ in range(directions):
        drawn = torch.stack([torch.randn(images.shape[1:], generator=draw) for draw in draws])
        change, told = both(drawn.to(images.device), distances)
        wrong_sum += (change - told).square()
        moved_sum += change.square()
    zero = torch.zeros_like(real[:, :1])

    def whole(values: Tensor) -> Tensor:
        with_zero = torch.cat([values[:, :count], zero, values[:, count:]], 1)
        return with_zero + at_image[:, None]

    return Line(whole(real), whole(line), along, _ratio(wrong_sum, moved_sum))


def _ratio(wrong: Tensor, moved: Tensor) -> Tensor:
    """0 where neither is anything: the line says that nothing changes, and nothing does."""
    both_zero = (wrong == 0) & (moved == 0)
    return torch.where(both_zero, 0.0, (wrong / moved).sqrt())
