"""Compare two maps: correlation, rank correlation, structural similarity, overlap of top cells.

    pearson   Pearson's correlation of the cells
    rank      Spearman, "The proof and measurement of association between two things", 1904:
              Pearson's correlation of the ranks; ties get their mean rank
    ssim      Wang et al., "Image quality assessment", 2004, equation 13, mean over 7x7 windows;
              maps are scaled to [0, 1] first
    top_k     the share of the k highest cells of one map that are among the k highest of the other
              (Ghorbani et al. 2019)

All ignore the scale of a map and its offset, as boxes segmented from it do. A constant map (as
after a ReLU that is 0 everywhere) has no ranks: its correlation with any map is 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Float64, Int, Shaped

WINDOW = 7
C1, C2 = 0.01**2, 0.03**2  # Wang et al., for a range of 1


def enlarge(maps: Float[Tensor, "b h w"], size: Sequence[int]) -> Float[Tensor, "b H W"]:
    """Upsample maps bilinearly with half-pixel centres, as maps are scaled everywhere.

    Args:
        maps: At any resolution.
        size: Height and width of the result.
    """
    if list(maps.shape[1:]) == list(size):
        return maps
    large = F.interpolate(maps[:, None], list(size), mode="bilinear", align_corners=False)
    return large[:, 0]


def normalize_min_max(maps: Float[Tensor, "b h w"]) -> Float[Tensor, "b h w"]:
    """Scale each map to [0, 1]: values that are not finite become 0, as does a constant map."""
    finite = maps.isfinite()
    lowest = maps.where(finite, torch.inf).amin((1, 2), keepdim=True)
    maps = maps.where(finite, lowest.where(lowest.isfinite(), 0))
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    spread = high - low
    return torch.where(spread > 0, (maps - low) / spread.where(spread > 0, 1), 0)


def compute_ranks(values: Float[Tensor, "b n"]) -> Float64[Tensor, "b n"]:
    """Compute ranks from 1 up within each row; ties get the mean of the ranks that they share."""
    ordered, order = values.sort(1)
    n = values.shape[1]
    place = torch.arange(n, device=values.device).expand_as(order)
    new = torch.ones_like(ordered, dtype=torch.bool)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    last = torch.ones_like(new)
    last[:, :-1] = new[:, 1:]
    first_of = place.where(new, 0).cummax(1).values
    last_of = place.where(last, n).flip(1).cummin(1).values.flip(1)
    mean = (first_of + last_of).double() / 2 + 1
    return torch.empty_like(mean).scatter_(1, order, mean)


def pearson_correlation(
    a: Shaped[Tensor, "b *n"], b: Shaped[Tensor, "b *n"]
) -> Float64[Tensor, "b"]:
    """Compute Pearson's correlation of each pair of maps, in [-1, 1]; 0 where one is constant."""
    x, y = (maps.flatten(1).double() for maps in (a, b))
    varies = (x != x[:, :1]).any(1) & (y != y[:, :1]).any(1)  # a mean may differ in rounding
    x, y = x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
    spread = (x.square().sum(1) * y.square().sum(1)).sqrt()
    is_defined = varies & (spread > 0)
    correlation = (x * y).sum(1) / spread.where(is_defined, 1)
    return correlation.clamp(-1, 1).where(is_defined, 0)


def rank_correlation(a: Float[Tensor, "b h w"], b: Float[Tensor, "b h w"]) -> Float64[Tensor, "b"]:
    """Compute Spearman's rank correlation of each pair of maps, in [-1, 1]."""
    return pearson_correlation(*(compute_ranks(maps.flatten(1)) for maps in (a, b)))


def ssim(a: Float[Tensor, "b H W"], b: Float[Tensor, "b H W"]) -> Float64[Tensor, "b"]:
    """Compute the mean structural similarity of each pair of maps, in [-1, 1].

    Maps are scaled to [0, 1]. Windows of 7 x 7 pixels lie inside the map; smaller maps have smaller
    windows.
    """
    window = min(WINDOW, *a.shape[1:])
    x, y = normalize_min_max(a).double()[:, None], normalize_min_max(b).double()[:, None]
    pixels = window**2
    sample = pixels / max(1, pixels - 1)  # variances as of a sample, as Wang's code has them

    def mean(of: Tensor) -> Tensor:
        return F.avg_pool2d(of, window, 1)

    mx, my = mean(x), mean(y)
    vx, vy = (sample * (mean(values * values) - m * m) for values, m in ((x, mx), (y, my)))
    vxy = sample * (mean(x * y) - mx * my)
    above = (2 * mx * my + C1) * (2 * vxy + C2)
    below = (mx**2 + my**2 + C1) * (vx + vy + C2)
    similarity: Tensor = (above / below).mean((1, 2, 3))
    return similarity


def order_by_importance(maps: Float[Tensor, "b H W"], seeds: Sequence[int]) -> Int[Tensor, "b n"]:
    """Order the pixels of each map from the most to the least important.

    Args:
        maps: The maps.
        seeds: For each map, the seed of the order of equal values: in raster order, a constant map
            would rank the upper pixels first.

    Returns:
        Indices of the flattened pixels.
    """
    flat = maps.flatten(1)
    mixed = torch.from_numpy(
        np.stack([np.random.default_rng(seed).permutation(flat.shape[1]) for seed in seeds])
    ).to(flat.device)
    return mixed.gather(1, flat.gather(1, mixed).argsort(dim=1, descending=True, stable=True))


def mark_top_cells(order: Int[Tensor, "b n"], k: int) -> Bool[Tensor, "b n"]:
    """Return a mask of the first `k` cells of each order of importance."""
    chosen = torch.zeros_like(order, dtype=torch.bool)
    return chosen.scatter_(1, order[:, :k], True)


def compare_top_k(a: Int[Tensor, "b n"], b: Int[Tensor, "b n"], k: int) -> Float64[Tensor, "b"]:
    """Return the share of the first `k` cells that two orders of importance have in common."""
    return (mark_top_cells(a, k) & mark_top_cells(b, k)).sum(1).double() / k
