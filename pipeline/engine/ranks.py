"""Ranks: several processes that compute a result together.

`runtime.devices=N` spawns N processes inside a stage, on one machine. torchrun starts all
processes, on as many nodes as there are, and each runs the complete command. In both cases a
process reads torchrun's variables from its environment; only rank 0 prints, and writes what is not
a shard.

Numbers are exchanged through the CPUs (gloo), gradients through NCCL where there is CUDA. In a
single process the functions of this module have no effect.
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
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar, cast

from pipeline.engine import terminal
from pipeline.engine.early_interrupt import EXIT_CODE
from pipeline.errors import UserError

if TYPE_CHECKING:
    import torch

Value = TypeVar("Value")

# A rank may wait for hours while another works. If a rank dies, its starter ends the others.
TIMEOUT = timedelta(days=30)


@dataclass(frozen=True)
class World:
    """The place of a process among the processes that work together.

    Attributes:
        rank: its number, from 0.
        size: the number of processes.
        local_rank: its number on this machine.
        local_size: the number of processes on this machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1


_SINGLE_PROCESS = False


def launched_world() -> World:
    """Return the ranks as torchrun or `spawn_ranks` started this process."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR")
    if any(name not in os.environ for name in names):
        return World()
    size = int(os.environ["WORLD_SIZE"])
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", size))
    return World(int(os.environ["RANK"]), size, int(os.environ["LOCAL_RANK"]), local_size)


def current_world() -> World:
    """Return the ranks that work together now: within `single_process` only this one."""
    return World() if _SINGLE_PROCESS else launched_world()


@contextmanager
def single_process() -> Iterator[None]:
    """Let this process work as if it were the only one, while the other ranks wait."""
    global _SINGLE_PROCESS
    before, _SINGLE_PROCESS = _SINGLE_PROCESS, True
    try:
        yield
    finally:
        _SINGLE_PROCESS = before


def shard_for_rank(items: Any) -> Any:
    """Return this rank's part of a sequence or an array: each `size`-th item from `rank` on."""
    return items[current_world().rank :: current_world().size]


# -- communication -------------------------------------------------------------------------------


def _init_process_group() -> None:
    """Start the process group that connects the ranks, unless it is started already."""
    import torch
    from torch import distributed

    if not distributed.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        distributed.init_process_group(backend, timeout=TIMEOUT)
        atexit.register(destroy_process_group)


def destroy_process_group() -> None:
    """Stop the process group, before this process ends."""
    if "torch" in sys.modules:
        from torch import distributed

        if distributed.is_available() and distributed.is_initialized():
            distributed.destroy_process_group()


def all_reduce_sum(values: Sequence[float]) -> list[float]:
    """Return in all ranks the sums of their values; wait until all have called this."""
    if current_world().size == 1:
        return list(values)
    import torch
    from torch import distributed

    _init_process_group()
    sums = torch.tensor(values, dtype=torch.float64)
    distributed.all_reduce(sums)
    return [float(value) for value in sums]


def all_gather(value: Value) -> list[Value]:
    """Return in all ranks the values of all, by rank; wait until all have called this.

    Args:
        value: of this rank; it is pickled.
    """
    if current_world().size == 1:
        return [value]
    from torch import distributed

    _init_process_group()
    values: list[Any] = [None] * current_world().size
    distributed.all_gather_object(values, value)
    return values


def broadcast_value(compute: Callable[[], Value]) -> Value:
    """Return in all ranks what rank 0 computes; wait until all have called this.

    Args:
        compute: is called in rank 0; its value is pickled.
    """
    return cast(Value, all_gather(compute() if current_world().rank == 0 else None)[0])


def barrier() -> None:
    """Wait until all ranks have called this."""
    all_reduce_sum([0.0])


def broadcast_flag(flag: bool) -> bool:
    """Broadcast rank 0's flag: return it in all ranks, whatever they pass themselves."""
    return all_reduce_sum([float(flag and current_world().rank == 0)])[0] > 0


# -- starting processes --------------------------------------------------------------------------


def spawn_ranks(count: int, function: Callable[..., None], *arguments: Any) -> None:
    """Run a function in `count` new processes of this machine, each a rank, and wait for all.

    An interrupt ends all ranks.

    Args:
        count: number of processes.
        function: a function of a module, so that it can be imported in the processes.
        arguments: its arguments.

    Raises:
        UserError: the first that a rank raises; it ends all ranks.
        OSError: likewise.
    """
    from torch import multiprocessing
    from torch.multiprocessing.spawn import ProcessException, start_processes

    raised = multiprocessing.get_context("spawn").SimpleQueue()
    with _blocked_interrupts():
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


@contextmanager
def _blocked_interrupts() -> Iterator[None]:
    """Block SIGINT in this thread, and in the processes that start within until they unblock it.

    A process that is interrupted while it starts would print a traceback.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_silently(number: int, frame: object) -> None:
    os._exit(EXIT_CODE)


def _run_rank(
    rank: int,
    count: int,
    port: int,
    raised: Any,
    function: Callable[..., None],
    arguments: Sequence[Any],
) -> None:
    """Run a function in a spawned process as one of `count` ranks; hand on what it raises."""
    import torch

    # torch sends SIGINT to the ranks of a process that was killed, and a terminal sends it to all,
    # of which the first process answers. The background jobs of a shell, and what they start,
    # ignore SIGINT unless its handler is set.
    signal.signal(signal.SIGINT, _end_silently)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
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
    """Return a TCP port of this machine that is free now."""
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def silence_nonzero_ranks() -> None:
    """Discard what ranks other than 0 print; errors still go to their stderr."""
    if launched_world().rank > 0:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


@cache
def print_once(line: str | None) -> None:
    """Print a line from rank 0, and in a sweep not again for the next job; None: nothing.

    Args:
        line: the line.
    """
    if line is not None and current_world().rank == 0:
        terminal.print_line(line)


def device_for_rank(wanted: torch.device) -> torch.device:
    """Return the GPU of this rank, where several ranks use CUDA; else the device as it is."""
    import torch

    world = launched_world()
    if world.size == 1 or wanted.type != "cuda":
        return wanted
    return torch.device("cuda", world.local_rank)


def check_devices(runtime: Mapping[str, Any], wanted: torch.device) -> None:
    """Check that this machine has a device for each process.

    Args:
        runtime: the options `runtime.*`.
        wanted: the device that runtime.device selects.

    Raises:
        UserError: there are more processes than devices, or two ways to start processes.
    """
    devices, world = runtime["devices"], launched_world()
    if devices > 1 and world.size > 1:
        raise UserError(
            f"runtime.devices={devices}: torchrun starts the processes itself, {world.size} of "
            "them; leave runtime.devices away"
        )
    count = max(devices, world.local_size)
    if count == 1 or wanted.type == "cpu":
        return
    if wanted.type != "cuda" or runtime["device"] not in ("auto", "cuda"):
        raise UserError(
            f"runtime.device={runtime['device']}: {count} processes cannot share it; use "
            "runtime.device=cuda, which gives each process a GPU, or cpu"
        )
    import torch

    if count > torch.cuda.device_count():
        raise UserError(
            f"runtime.devices={count}: this machine shows {torch.cuda.device_count()} CUDA "
            "devices; expected no more than these"
        )
