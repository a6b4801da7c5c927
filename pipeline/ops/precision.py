"""The precision that gradients and maps are computed in, whatever the run's is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def full_precision(images: Tensor, graph: bool = True) -> Iterator[None]:
    """Compute in float32 within the block: gradients at the image are noise in bfloat16.

    Their boxes agree with float32's on few images, whereas those of maps that are made of late
    activations do.

    Args:
        images: A tensor on the device that computes, or a tensor of shapes alone.
        graph: Whether gradients are recorded, whatever the caller chose.
    """
    with disable_autocast(images), torch.set_grad_enabled(graph):
        yield


def disable_autocast(images: Tensor) -> torch.autocast:
    """Return a context within which nothing is computed in less than float32.

    Args:
        images: A tensor on the device that computes, or a tensor of shapes alone.
    """
    # Autocast does not know the device of tensors that have shapes alone.
    return torch.autocast("cpu" if images.is_meta else images.device.type, enabled=False)
