"""The running statistics of a batch norm whose mean and variance are computed elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


@torch.no_grad()
def update_running_statistics(
    norm: nn.modules.batchnorm._NormBase, mean: Float[Tensor, "K"], variance: Float[Tensor, "K"]
) -> None:
    """Update the running statistics as torch's own forward pass does in training.

    r <- (1 - m) r + m s, where m is the momentum; without momentum r is the average of all batches.

    Args:
        norm: is changed; one without running statistics is not.
        mean: of the batch.
        variance: of the batch, unbiased.
    """
    if norm.running_mean is None or norm.running_var is None:
        return
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked += 1
    share = norm.momentum if norm.momentum is not None else 1 / float(norm.num_batches_tracked)
    norm.running_mean.lerp_(mean.to(norm.running_mean), share)
    norm.running_var.lerp_(variance.to(norm.running_var), share)
