"""Batches for which an accelerator has no memory: halved where their results can be joined."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from pipeline.engine import terminal
from pipeline.errors import UserError

if TYPE_CHECKING:
    import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

# What libraries of CUDA and MPS say in a plain RuntimeError.
MESSAGES = ("CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED", "MPS backend out of memory")
REMEDIES = {
    "train": "train.batch=N with train.accumulate=M needs the memory of N images, and learns from "
    "N * M in a step",
    "refine": "refine.batch=N or runtime.batch=N with a smaller N needs less",
}
"""What helps in a stage whose batch is a part of its result."""
OTHER_REMEDY = "runtime.batch=N with a smaller N needs less"


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that an accelerator has no memory left.

    Args:
        error: any.
    """
    import torch

    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in MESSAGES)


class BatchLimit:
    """How many items are computed at once: halved each time that there is no memory for them.

    The limit holds for all later batches, so that each size fails once. Threads may share it.

    Args:
        device: where they are computed.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.limit: int | None = None
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[BatchLimit], tuple[torch.device]]:
        # A worker of a runner, which has a device of its own, finds a limit of its own.
        return BatchLimit, (self.device,)

    def compute(
        self, work: Callable[[Sequence[Item]], Result], batch: Sequence[Item]
    ) -> list[Result]:
        """Compute a batch in as few parts as there is memory for.

        Args:
            work: computes a part.
            batch: of at least one item.

        Returns:
            The result of each part, in order.

        Raises:
            UserError: there is no memory for a single item.
        """
        results, start = [], 0
        while start < len(batch):
            part = batch[start : start + (self.limit or len(batch))]
            try:
                results.append(work(part))
                start += len(part)
                continue
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                reason = _first_line(error)
            # Outside the block above: until it ends, the error keeps the tensors of `work`.
            self._halve(len(part), reason)
        return results

    def _halve(self, size: int, reason: str) -> None:
        """Let at most half of `size` items be computed at once, and say so."""
        if size == 1:
            raise UserError(
                f"runtime.device={self.device}: it has no memory for a single image ({reason}); "
                "use a smaller image size or network, a smaller batch= of the saliency method, or "
                "runtime.device=cpu"
            )
        _free_cached_memory(self.device)
        with self._lock:
            if self.limit is not None and self.limit < size:
                return  # another thread has halved it
            self.limit = size // 2
            terminal.print_note(
                f"{self.device} has no memory for {size} images at once: {self.limit} are computed "
                f"at once; runtime.batch={self.limit} begins so"
            )


@contextmanager
def explain_error(stage: str) -> Iterator[None]:
    """Turn an accelerator's error about memory into a UserError that says what needs less.

    Args:
        stage: what runs within the block.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(
            f"{stage}: the accelerator has no memory for this ({_first_line(error)}); "
            f"{REMEDIES.get(stage, OTHER_REMEDY)}"
        ) from error


def _free_cached_memory(device: torch.device) -> None:
    """Give memory that torch keeps for later back, so that smaller blocks find room."""
    import torch

    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def _first_line(error: BaseException) -> str:
    text = (str(error).splitlines() or [type(error).__name__])[0]
    return text.split(". ")[0][:120]
