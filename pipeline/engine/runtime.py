"""Device, precision, threads, batches and shards: how work is distributed."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Literal, TypeVar, get_args

from pipeline.errors import UserError

if TYPE_CHECKING:
    import torch

Item = TypeVar("Item")
Result = TypeVar("Result")
Precision = Literal["float32", "bf16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


def select_device(name: str) -> torch.device:
    """Return the device that `runtime.device` names; switch off TF32 where it is a GPU.

    Args:
        name: auto (a GPU where there is one, else the CPU), cpu, cuda, cuda:N or mps.

    Raises:
        UserError: this machine has no such device.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(name)
    except RuntimeError:
        raise UserError(
            f"runtime.device={name}: no such device; choices: auto, cpu, cuda, cuda:N, mps"
        ) from None
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"runtime.device={name}: this machine shows {torch.cuda.device_count()} CUDA devices; "
            "use runtime.device=cpu or auto"
        )
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise UserError("runtime.device=mps: not available here; use runtime.device=cpu or auto")
    if chosen.type == "cuda":  # TF32 would keep only 10 of the 23 bits of float32
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
    return chosen


def select_precision(wanted: str, where: torch.device) -> Precision:
    """Return the precision that networks run in.

    On a CPU `auto` is float32 whether it multiplies bf16 or not, so that the same command gives the
    same numbers on all of them.

    Args:
        wanted: float32, bf16 or auto, which is bf16 on a GPU that multiplies it (CUDA since Ampere)
            and float32 elsewhere.
        where: the device.
    """
    if wanted in PRECISIONS:
        return wanted
    return "bf16" if where.type == "cuda" and has_fast_bf16(where) else "float32"


def has_fast_bf16(where: torch.device) -> bool:
    """Return whether a device multiplies bf16 in hardware: CUDA since Ampere, AVX512-BF16, AMX.

    Args:
        where: the device.
    """
    import torch

    if where.type == "cuda":
        return torch.cuda.get_device_capability(where) >= (8, 0)
    if where.type == "cpu" and sys.platform == "linux":
        try:
            with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
                return any(flag in file.read(1 << 16) for flag in ("avx512_bf16", "amx_bf16"))
        except OSError:
            return False
    return False


def describe_bf16_gain(wanted: str, where: torch.device) -> str | None:
    """Return the words on precision=bf16 where it is faster; None where it is in use or is not.

    Args:
        wanted: the value of `precision=`; what was chosen by name needs no line.
        where: the device.
    """
    if wanted != "auto" or where.type != "cpu" or not has_fast_bf16(where):
        return None
    return "precision=bf16, which this CPU multiplies (docs/training.md, Precision)"


def has_unused_gpu() -> bool:
    """Return whether the machine has a GPU of NVIDIA's that torch cannot use."""
    import torch

    return not torch.cuda.is_available() and any(
        os.path.exists(path) for path in ("/proc/driver/nvidia/version", "/dev/nvidia0", "/dev/dxg")
    )


def set_deterministic(wanted: bool) -> None:
    """Let torch use only deterministic algorithms, or all of its algorithms."""
    import torch

    if wanted:  # cuBLAS requires this before it is first used
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if torch.are_deterministic_algorithms_enabled() != wanted:  # the call imports torch's compiler
        torch.use_deterministic_algorithms(wanted)


@contextmanager
def explain_nondeterminism() -> Iterator[None]:
    """Turn torch's error about an operation without deterministic algorithm into a UserError."""
    try:
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        raise UserError(
            f"runtime.deterministic=true: {str(error).split('. ')[0]}; use runtime.device=cpu, "
            "another method, or runtime.deterministic=false"
        ) from error


@contextmanager
def autocast(where: torch.device, chosen: Precision) -> Iterator[None]:
    """Let torch compute in a precision on a device."""
    import torch

    with torch.autocast(where.type, torch.bfloat16, enabled=chosen == "bf16"):
        yield


def count_workers(wanted: int | None) -> int:
    """Return `runtime.workers`; where it is None, the number of cores that this process may use."""
    if wanted is not None:
        return wanted
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_most_threads: int | None = None  # of each call of map_in_threads


def limit_threads(most: int) -> None:
    """Let this process compute with at most so many threads, whatever it is asked for.

    Args:
        most: the threads of a worker of a runner, which shares its machine with others.
    """
    import torch

    global _most_threads
    _most_threads = most
    torch.set_num_threads(most)


def worker_threads() -> int:
    """Return with how many threads a worker of a runner maps; with one, it needs no other."""
    return 0 if _most_threads is None or _most_threads == 1 else _most_threads


def map_in_threads(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int, ahead: int = 64
) -> Iterator[Result]:
    """Map a function over items in threads; yield the results in order.

    Threads suffice: decoding, scaling and arithmetic release the GIL. Memory does not grow with the
    number of items.

    Args:
        function: is called in the threads.
        items: are read in this thread.
        threads: number of threads; 0: this thread computes each result when it is asked for.
        ahead: how many results are computed at most before they are asked for.
    """
    if _most_threads is not None:
        threads = min(threads, _most_threads)
    if threads == 0:
        yield from map(function, items)
        return
    queue = iter(items)
    with ThreadPoolExecutor(threads, thread_name_prefix="label2box") as pool:
        pending = deque(pool.submit(function, item) for item in islice(queue, ahead))
        try:
            while pending:
                result = pending.popleft().result()
                pending.extend(pool.submit(function, item) for item in islice(queue, 1))
                yield result
        finally:
            for future in pending:
                future.cancel()


def split_into_batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield lists of `size` items; the last list may be shorter."""
    queue = iter(items)
    while batch := list(islice(queue, size)):
        yield batch


def split_into_shards(count: int, size: int) -> list[tuple[int, range]]:
    """Return the number and the positions of each shard of `size` of `count` items."""
    return [(n, range(a, min(a + size, count))) for n, a in enumerate(range(0, count, size))]
