"""Several processes at work on one result: who does which part, and who writes.

`runtime.devices=N` spawns N processes inside a stage, on one machine. torchrun starts them all,
over as many nodes as there are, and each runs the whole command. Either way a process finds
torchrun's variables in its environment; rank 0 alone writes what is not a shard, and speaks.

Numbers pass between processes through their CPUs (gloo), gradients through NCCL where there is
CUDA. Every function here is without effect where there is one process.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from pipeline.errors import UserError

if TYPE_CHECKING:
    import torch

# A rank may wait for hours while another works; one that died ends the others by itself.
TIMEOUT = timedelta(days=30)


@dataclass(frozen=True)
class World:
    rank: int = 0
    size: int = 1
    local_rank: int = 0  # among the processes of this machine
    local_size: int = 1


_SINGLE_PROCESS = False


def launched_world() -> World:
    """As torchrun, or `spawn`, started this process."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR")
    if any(name not in os.environ for name in names):
        return World()
    size = int(os.environ["WORLD_SIZE"])
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", size))
    return World(int(os.environ["RANK"]), size, int(os.environ["LOCAL_RANK"]), local_size)


def current_world() -> World:
    """Who takes part in what is being done now."""
    return World() if _SINGLE_PROCESS else launched_world()


@contextmanager
def single_process() -> Iterator[None]:
    """What rank 0 does while the others wait."""
    global _SINGLE_PROCESS
    before, _SINGLE_PROCESS = _SINGLE_PROCESS, True
    try:
        yield
    finally:
        _SINGLE_PROCESS = before


def shard_for_rank(items: Any) -> Any:
    """This rank's part of a sequence or an array: every size-th."""
    return items[current_world().rank :: current_world().size]


# -- between ranks -------------------------------------------------------------------------------


def _init_process_group() -> None:
    import torch
    from torch import distributed

    if not distributed.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        distributed.init_process_group(backend, timeout=TIMEOUT)
        atexit.register(destroy_process_group)


def destroy_process_group() -> None:
    """Before the process ends."""
    if "torch" in sys.modules:
        from torch import distributed

        if distributed.is_available() and distributed.is_initialized():
            distributed.destroy_process_group()


def all_reduce_sum(values: Sequence[float]) -> list[float]:
    """The sums of each rank's values, in every rank, once all have come here."""
    if current_world().size == 1:
        return list(values)
    import torch
    from torch import distributed

    _init_process_group()
    sums = torch.tensor(values, dtype=torch.float64)
    distributed.all_reduce(sums)
    return [float(one) for one in sums]


def barrier() -> None:
    """Wait until all ranks have come here."""
    all_reduce_sum([0.0])


def broadcast_flag(flag: bool) -> bool:
    """What rank 0 says, in every rank; the others' own word does not count."""
    return all_reduce_sum([float(flag and current_world().rank == 0)])[0] > 0


# -- starting them -------------------------------------------------------------------------------


def spawn_ranks(count: int, function: Callable[..., None], *arguments: Any) -> None:
    """Run a module's function in `count` processes of this machine, each a rank; wait for all.

    The first UserError or OSError of a rank ends all and is raised here; so does an interrupt.
    """
    from torch import multiprocessing
    from torch.multiprocessing.spawn import ProcessException, start_processes

    raised = multiprocessing.get_context("spawn").SimpleQueue()
    context = start_processes(  # type: ignore[no-untyped-call]
        _run_rank,
        (count, _free_port(), raised, function, arguments),
        nprocs=count,
        join=False,
        daemon=True,
        start_method="spawn",
    )
    assert context is not None
    try:
        while not context.join():
            pass
    except ProcessException:
        if raised.empty():
            raise
        raise raised.get() from None
    finally:
        for process in context.processes:
            if process.is_alive():
                process.terminate()


def _run_rank(
    rank: int,
    count: int,
    port: int,
    raised: Any,
    function: Callable[..., None],
    arguments: Sequence[Any],
) -> None:
    import torch

    # By this signal torch ends a rank whose starter was killed; a shell's background job, and what
    # it starts, would ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    settings = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count,
                "GROUP_RANK": 0, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}  # fmt: skip
    os.environ.update({name: str(value) for name, value in settings.items()})
    torch.set_num_threads(max(1, torch.get_num_threads() // count))
    silence_nonzero_ranks()
    try:
        function(*arguments)
    except (UserError, OSError) as error:
        raised.put(error)
        raise
    finally:
        destroy_process_group()


def _free_port() -> int:
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def silence_nonzero_ranks() -> None:
    """Rank 0 speaks for all; what went wrong is said by whom it happened to, on stderr."""
    if launched_world().rank > 0:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def device_for_rank(wanted: torch.device) -> torch.device:
    """Of the GPUs of this machine, this rank's."""
    import torch

    here = launched_world()
    if here.size == 1 or wanted.type != "cuda":
        return wanted
    return torch.device("cuda", here.local_rank)


def check_devices(runtime: Mapping[str, Any], wanted: torch.device) -> None:
    """Raises UserError where so many processes cannot share this machine's devices."""
    devices, here = runtime["devices"], launched_world()
    if devices > 1 and here.size > 1:
        raise UserError(
            f"runtime.devices={devices}: torchrun starts the processes itself, {here.size} of "
            "them; leave runtime.devices away"
        )
    count = max(devices, here.local_size)
    if count == 1 or wanted.type == "cpu":
        return
    if wanted.type != "cuda" or runtime["device"] not in ("auto", "cuda"):
        raise UserError(
            f"runtime.device={runtime['device']}: {count} processes cannot share it; use "
            "runtime.device=cuda, of which each takes its own, or cpu"
        )
    import torch

    if count > torch.cuda.device_count():
        raise UserError(
            f"runtime.devices={count}: this machine shows {torch.cuda.device_count()} CUDA "
            "devices; expected no more than these"
        )
