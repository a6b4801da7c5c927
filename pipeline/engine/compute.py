"""How a run computes: device, precision, threads, batch, backend.

Only the precision changes cache keys.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipeline.engine import runtime
from pipeline.engine.backends import BackendChoice

if TYPE_CHECKING:
    import torch

CPU_BATCH = 6  # images in a forward pass: glibc keeps the memory of activations below 32 MB
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
        backend: what computes what needs no gradients.
    """

    device: torch.device
    precision: runtime.Precision
    workers: int
    batch: int
    shard: int
    backend: BackendChoice = field(default_factory=BackendChoice)

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
