"""A shard's work as it is handed to another process, and what comes back."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True, order=True)
class Job:
    """Some positions of a shard, which one worker computes.

    Attributes:
        shard: its number.
        start: the first position.
        stop: the position behind the last.
        piece: positions that are computed together.
    """

    shard: int
    start: int
    stop: int
    piece: int

    def __len__(self) -> int:
        return self.stop - self.start

    def halves(self) -> tuple[Job, Job]:
        """Return the first and the second half of the positions, of which there are two or more."""
        middle = (self.start + self.stop) // 2
        return replace(self, stop=middle), replace(self, start=middle)


@dataclass(frozen=True)
class JobResult:
    """What a worker computed for a job.

    Attributes:
        content: a shard's file (pipeline/formats/arrays.py), or pickled results; None: it could not
            be computed, or the worker has written it.
        gathered: what the worker noted besides, as the hashes of the files that it read.
        set_aside: why the job's only position could not be computed; None: it was.
    """

    content: bytes | None = None
    gathered: list[Any] = field(default_factory=list)
    set_aside: str | None = None


def _attach_nothing(_: Job) -> None:
    """Return what goes with a job that needs nothing but the task."""


def _always() -> bool:
    """Return that a job may begin."""
    return True


@dataclass(frozen=True, kw_only=True)
class Work:
    """A task and its jobs, as a runner hands them to workers.

    Attributes:
        load: a function of a module, which makes the task of `task` in a worker: an object with
            the method of `ShardTask`.
        task: what each worker gets once; it can be pickled.
        jobs: what is to be computed; each is taken when a worker is free for it.
        uses_gpu: whether each worker needs a GPU.
        attach: from a job to what a worker gets with it.
        may_begin: whether a job that no worker has had may be taken now.
    """

    load: Callable[[Any], Any]
    task: Any
    jobs: Iterable[Job]
    uses_gpu: bool = False
    attach: Callable[[Job], Any] = _attach_nothing
    may_begin: Callable[[], bool] = _always
