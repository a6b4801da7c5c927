"""How a run computes: device, precision, threads, batch. Only the precision changes cache keys."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.engine import runtime

if TYPE_CHECKING:
    import torch

CPU_BATCH = 16  # images in a forward pass: as many as fit the caches of a core
ACCELERATOR_BATCH = 128  # images in a forward pass: as many as keep an accelerator busy


@dataclass(frozen=True)
class Compute:
    """The device, precision, threads and batch size of a process.

    Args:
        device: where networks run.
        precision: what they run in; a part of each cache key.
        workers: threads that decode, segment and draw; 0: no further thread.
        batch: images in a forward pass.
        shard: images in a shard.
    """

    device: torch.device
    precision: runtime.Precision
    workers: int
    batch: int
    shard: int

    @property
    def is_cpu(self) -> bool:
        """Whether networks run on the CPU; then each worker computes batches by itself."""
        return self.device.type == "cpu"

    def autocast(self) -> AbstractContextManager[None]:
        """Return a context in which torch computes in the precision."""
        return runtime.autocast(self.device, self.precision)


def batch_size(wanted: int | None, device: torch.device) -> int:
    """Return `runtime.batch`; where it is None, a batch size that suits the device."""
    return wanted or (CPU_BATCH if device.type == "cpu" else ACCELERATOR_BATCH)
