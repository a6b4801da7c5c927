"""Batch norm over all parts of a batch, which threads compute side by side.

    y = (x - mean) / sqrt(variance + eps) * weight + bias
    n = sum_p n_p      mean = sum_p n_p mean_p / n
    variance = sum_p n_p (variance_p + (mean_p - mean)^2) / n
    dx = weight / sqrt(variance + eps) * (dy - sum(dy) / n - z sum(dy z) / n),  z = y without
        weight and bias, sums over the images of all parts

Ioffe and Szegedy 2015; the variance of parts: Chan, Golub and LeVeque 1979. Normalized values,
gradients and running statistics are those of the whole batch, but for rounding. A part passes over
its maps as often as torch's own batch norm does, and costs as much.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.model.part_exchange import PartExchange
from pipeline.model.running_statistics import update_running_statistics

if TYPE_CHECKING:
    from jaxtyping import Float

KINDS: tuple[type[_BatchNorm], ...] = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
PartStatistics = tuple[int, "Tensor", "Tensor"]  # count, mean and variance of a part


class PartNorm(_BatchNorm):
    """Batch norm of a part, by the statistics of all parts in training.

    It is not built: `replace_norms` makes it of a batch norm of torch.

    Attributes:
        part: the number of the part.
        place: of the batch norm in the network.
        exchange: where the parts meet.
    """

    part: int
    place: str
    exchange: PartExchange

    def forward(self, maps: Float[Tensor, "b K ..."]) -> Float[Tensor, "b K ..."]:
        """Normalize maps; in training, also update the running statistics, once for all parts."""
        if not self.training and self.running_mean is not None:
            normed: Tensor = super().forward(maps)
            return normed
        normed = _Normalize.apply(maps, self.weight, self.bias, self)
        return normed

    def _check_input_dim(self, maps: Tensor) -> None:
        """Accept maps of any number of axes, which the layer's own kind has checked."""

    def merge(self, statistics: Sequence[PartStatistics]) -> PartStatistics:
        """Merge the statistics of all parts, and update the running statistics.

        Args:
            statistics: count, mean and variance of each part.
        """
        count = sum(n for n, _, _ in statistics)
        shares = torch.tensor([[n / count] for n, _, _ in statistics], dtype=torch.float64)
        means = torch.stack([mean for _, mean, _ in statistics]).double()
        variances = torch.stack([variance for _, _, variance in statistics]).double()
        mean = (shares * means).sum(0)
        variance = (shares * (variances + (means - mean).square())).sum(0)
        if self.training:
            update_running_statistics(self, mean, variance * (count / max(1, count - 1)))
        kind = statistics[0][1].dtype
        return count, mean.to(kind), variance.to(kind)


class _Normalize(torch.autograd.Function):
    """Batch norm in training, of a part by the statistics of all parts."""

    @staticmethod
    def forward(
        context: Any, maps: Tensor, weight: Tensor | None, bias: Tensor | None, norm: PartNorm
    ) -> Tensor:
        channels = maps.shape[1]
        # In float32 as these are: without running statistics those of bfloat16 maps are bfloat16.
        unused = torch.zeros(2, channels, dtype=torch.promote_types(maps.dtype, torch.float32))
        mean, variance = torch.batch_norm_update_stats(maps, unused[0], unused[1], 0.0)
        local = (maps.numel() // channels, mean, variance)
        with torch.no_grad():
            count, mean, variance = norm.exchange.combine(
                norm.part, (norm.place, "forward"), local, norm.merge
            )
        context.save_for_backward(maps, weight, mean, variance)
        context.norm, context.count = norm, count
        normed, _, _ = torch.native_batch_norm(
            maps, weight, bias, mean, variance, False, 0.0, norm.eps
        )
        return normed

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradients: Tensor) -> tuple[Tensor | None, ...]:
        maps, weight, mean, variance = context.saved_tensors
        norm, count = context.norm, context.count
        scale = torch.ones_like(mean) if weight is None else weight
        _, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            gradients, maps, scale, mean, variance, None, None, False, norm.eps,
            [False, True, True],
        )  # fmt: skip
        factor = scale * (variance + norm.eps).rsqrt()

        def merge(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
            sums = torch.stack([torch.stack(part) for part in parts]).sum(0)
            along, total = sums * (factor / -count)
            return along, total

        along, total = norm.exchange.combine(
            norm.part, (norm.place, "backward"), (of_weight, of_bias), merge
        )
        of_maps = None
        if context.needs_input_grad[0]:
            # Nearly equal terms are subtracted: their sum is rounded to the maps' dtype once.
            of_maps, _, _ = torch.native_batch_norm(
                maps.to(mean.dtype), along, total, mean, variance, False, 0.0, norm.eps
            )
            factor = factor.view(-1, *[1] * (maps.ndim - 2))
            of_maps = of_maps.addcmul_(gradients.to(mean.dtype), factor).to(maps.dtype)
        learned = context.needs_input_grad
        return of_maps, of_weight if learned[1] else None, of_bias if learned[2] else None, None


def replace_norms(network: nn.Module, part: int) -> None:
    """Let each batch norm of a part's network normalize by the statistics of all parts.

    Their exchange is set before each pass.

    Args:
        network: of the part; its batch norms are of the KINDS.
        part: its number.
    """
    for place, module in network.named_modules():
        if type(module) in KINDS:
            module.__class__ = PartNorm
            module.part, module.place = part, place


def list_other_norms(network: nn.Module) -> list[str]:
    """Return the kinds of batch norm in a network that are not torch's own, sorted.

    Args:
        network: of any kind.
    """
    kinds = {type(m) for m in network.modules() if isinstance(m, _BatchNorm)} - {*KINDS}
    return sorted(f"{kind.__module__}.{kind.__name__}" for kind in kinds)
