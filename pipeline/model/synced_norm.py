"""Batch norm over the images of all processes, so that they train the network that one would.

    y = (x - mean) / sqrt(variance + eps) * weight + bias
    with mean and variance over the images of all ranks

Ioffe and Szegedy 2015. torch.nn.SyncBatchNorm computes the same, on GPUs alone; this is for CPUs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from torch import Tensor, distributed, nn

from pipeline.errors import UserError
from pipeline.model.running_statistics import update_running_statistics

if TYPE_CHECKING:
    from jaxtyping import Float

Module = TypeVar("Module", bound=nn.Module)


class SyncedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over the images of all ranks in training, nn.BatchNorm2d otherwise."""

    def forward(self, maps: Float[Tensor, "b K h w"]) -> Float[Tensor, "b K h w"]:
        """Normalize maps; in training, also update the running statistics."""
        if not self.training:
            normed: Tensor = super().forward(maps)
            return normed
        values = maps.float()
        local_count = torch.tensor([values.numel() // values.shape[1]], device=maps.device)
        count = int(_sum_over_ranks(local_count))
        mean = _sum_over_ranks(values.sum((0, 2, 3))) / count
        centred = values - mean[:, None, None]
        variance = _sum_over_ranks(centred.square().sum((0, 2, 3))) / count
        unbiased = variance.detach() * (count / max(1, count - 1))
        update_running_statistics(self, mean.detach(), unbiased)
        scale = (variance + self.eps).rsqrt()
        if self.affine:
            scale = scale * self.weight
            return (centred * scale[:, None, None] + self.bias[:, None, None]).to(maps.dtype)
        return (centred * scale[:, None, None]).to(maps.dtype)


class _AllReduceSum(torch.autograd.Function):
    """The sum of a tensor over all ranks; its gradient is the sum of the gradients of all ranks."""

    @staticmethod
    def forward(context: Any, values: Tensor) -> Tensor:
        total = values.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        distributed.all_reduce(total)
        return total


def _sum_over_ranks(values: Tensor) -> Tensor:
    total: Tensor = _AllReduceSum.apply(values)
    return total


def synchronize_batch_norm(network: Module, device: str) -> Module:
    """Replace each batch norm of a network by one over the images of all processes.

    Args:
        network: is changed.
        device: the type of the device that it is trained on: cuda or cpu.

    Returns:
        The network; on cuda it may be another object.

    Raises:
        UserError: A batch norm is not nn.BatchNorm2d but a library's subclass or another dimension,
            which would be computed over the images of each process alone.
    """
    norms = [
        module
        for module in network.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
    ]
    for norm in norms:
        if type(norm) is not nn.BatchNorm2d:
            raise UserError(
                f"runtime.devices: {type(norm).__module__}.{type(norm).__name__} cannot be "
                "computed over the images of several processes; train this network with one, "
                "runtime.devices=1"
            )
    if device == "cuda":
        synced = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return cast(Module, synced)
    for norm in norms:
        norm.__class__ = SyncedBatchNorm2d
    return network
