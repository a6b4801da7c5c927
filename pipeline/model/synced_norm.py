"""Batch norm over the images of all processes, so that several train what one would.

    mean and variance of all ranks' images;  y = (x - mean) / sqrt(variance + eps) * weight + bias

Ioffe and Szegedy 2015. torch.nn.SyncBatchNorm is the same for GPUs alone; this serves CPUs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from torch import Tensor, distributed, nn

from pipeline.errors import UserError

if TYPE_CHECKING:
    from jaxtyping import Float

Network = TypeVar("Network", bound=nn.Module)


class SyncedBatchNorm2d(nn.BatchNorm2d):
    """When training; otherwise it is nn.BatchNorm2d."""

    def forward(self, maps: Float[Tensor, "b K h w"]) -> Float[Tensor, "b K h w"]:
        if not self.training:
            normed: Tensor = super().forward(maps)
            return normed
        values = maps.float()
        own = torch.tensor([values.numel() // values.shape[1]], device=maps.device)
        count = int(_summed(own))
        mean = _summed(values.sum((0, 2, 3))) / count
        centred = values - mean[:, None, None]
        variance = _summed(centred.square().sum((0, 2, 3))) / count
        self._remember(mean.detach(), variance.detach() * (count / max(1, count - 1)))
        scale = (variance + self.eps).rsqrt()
        if self.affine:
            scale = scale * self.weight
            return (centred * scale[:, None, None] + self.bias[:, None, None]).to(maps.dtype)
        return (centred * scale[:, None, None]).to(maps.dtype)

    @torch.no_grad()
    def _remember(self, mean: Float[Tensor, "K"], variance: Float[Tensor, "K"]) -> None:
        if self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        share = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)


class _Sum(torch.autograd.Function):
    """The sum over all ranks; its gradient is the sum of theirs."""

    @staticmethod
    def forward(context: Any, own: Tensor) -> Tensor:
        whole = own.clone()
        distributed.all_reduce(whole)
        return whole

    @staticmethod
    def backward(context: Any, *slopes: Tensor) -> Tensor:
        whole = slopes[0].clone()
        distributed.all_reduce(whole)
        return whole


def _summed(own: Tensor) -> Tensor:
    whole: Tensor = _Sum.apply(own)
    return whole


def synced(network: Network, device: str) -> Network:
    """The network with every batch norm over all processes, for a device of this type.

    Raises UserError for a batch norm of a library's own kind, which would stay each process's own.
    """
    every = [one for one in network.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)]
    for one in every:
        if type(one) is not nn.BatchNorm2d:
            raise UserError(
                f"runtime.devices: {type(one).__module__}.{type(one).__name__} cannot be computed "
                "over the images of several processes; train this network with one, "
                "runtime.devices=1"
            )
    if device == "cuda":
        whole = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return cast(Network, whole)
    for one in every:
        one.__class__ = SyncedBatchNorm2d
    return network
