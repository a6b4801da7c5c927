"""Workers of a Ray cluster: actors, the jobs that they compute, and how they fail."""

from __future__ import annotations

import hashlib
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import UserError
from pipeline.runner.schedule import Schedule
from pipeline.types.jobs import Job, JobResult, Work

if TYPE_CHECKING:
    from pipeline.protocols.runner import ShardTask, Watch

SECONDS_TO_LOOK = 1.0  # between two looks at the nodes
LOW_MEMORY = "running low on memory"


@dataclass(frozen=True)
class Place:
    """Where a worker runs, and what it runs.

    Attributes:
        node: Ray's id of the machine.
        host: the machine's name.
        code: the code of this package and the version of torch, which decide what is computed.
    """

    node: str
    host: str
    code: str


@cache
def hash_code() -> str:
    """Return a hash of the code of this package, and the version of torch."""
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(str(path.relative_to(package)).encode() + path.read_bytes())
    return f"label2box {digest.hexdigest()[:12]}, torch {version('torch')}"


class Actor:
    """Runs in a worker: holds one task, and computes its jobs.

    Args:
        threads: that the worker computes with.
    """

    def __init__(self, threads: int) -> None:
        os.environ["OMP_NUM_THREADS"] = str(threads)
        self._number = -1
        self._task: ShardTask | None = None

    def ready(self) -> Place:
        """Return where it runs."""
        import ray

        node = str(ray.get_runtime_context().get_node_id())
        return Place(node, socket.gethostname(), hash_code())

    def compute(
        self, number: int, load: Callable[[Any], ShardTask], task: Any, job: Job, attached: Any
    ) -> JobResult:
        """Compute a job of a task, which is loaded unless it is the one at hand.

        Args:
            number: of the task.
            load: makes the task.
            task: what it is made of.
            job: the job.
            attached: what came with the job.
        """
        if number != self._number:
            self._task, self._number = None, -1  # so that there is room for the next
            self._task, self._number = load(task), number
        assert self._task is not None
        return self._task.compute(job, attached)


@dataclass(eq=False)
class Worker:
    """A worker as the process of the run knows it.

    Attributes:
        actor: Ray's handle.
        started: answers with the worker's place once it has started.
        node: the id of its node; empty before it has started.
        running: what it computes, and the number of the task.
        is_lost: whether it has died.
    """

    actor: Any
    started: Any
    node: str = ""
    running: dict[Any, tuple[int, Job]] = field(default_factory=dict)
    is_lost: bool = False

    @property
    def is_there(self) -> bool:
        """Whether it has started, and has not died."""
        return bool(self.node) and not self.is_lost


@dataclass(frozen=True)
class Lost:
    """A job that was not computed.

    Attributes:
        why: in words.
        is_worker_lost: whether its worker has died.
        is_memory: whether there was too little memory.
        error: what was raised; None: the worker has died.
    """

    why: str
    is_worker_lost: bool = False
    is_memory: bool = False
    error: Exception | None = None


class SpreadJobs:
    """The jobs of a task, and the workers that compute them.

    Args:
        number: of the task.
        work: the task and its jobs.
        watch: hears of failures.

    Raises:
        UserError: Ray has no room for the task.
    """

    def __init__(self, number: int, work: Work, watch: Watch) -> None:
        self.schedule = Schedule(work.jobs, work.may_begin)
        self._number, self._work, self._watch = number, work, watch
        self._held = _put(work.task)

    def give(self, workers: Sequence[Worker], at_once: int) -> None:
        """Give jobs to workers that have less than `at_once`.

        Args:
            workers: that are there.
            at_once: jobs of a worker.
        """
        for worker in workers:
            while len(worker.running) < at_once:
                job = self.schedule.give(worker, time.monotonic())
                if job is None:
                    break
                attached = self._work.attach(job)
                ref = worker.actor.compute.remote(
                    self._number, self._work.load, self._held, job, attached
                )
                worker.running[ref] = (self._number, job)

    def take(self, workers: Sequence[Worker]) -> Iterator[tuple[Job, JobResult]]:
        """Wait a moment for an answer; yield what workers that have answered computed.

        Args:
            workers: those that compute, of this task or still of an earlier one.

        Yields:
            Jobs and their results.

        Raises:
            UserError: what a worker raised, or workers compute nothing at all.
        """
        import ray

        refs = {ref: worker for worker in workers for ref in worker.running}
        if not ray.wait([*refs], num_returns=1, timeout=SECONDS_TO_LOOK)[0]:
            return
        for ref in ray.wait([*refs], num_returns=len(refs), timeout=0)[0]:
            worker = refs[ref]
            of_task, job = worker.running.pop(ref)
            answer = _get(ref, is_wanted=of_task == self._number)
            worker.is_lost |= isinstance(answer, Lost) and answer.is_worker_lost
            if of_task != self._number:  # another worker was faster with it
                continue
            if isinstance(answer, Lost):
                yield from self._try_again(job, worker, answer)
            elif self.schedule.finish(job, worker, time.monotonic()):
                yield job, answer

    def _try_again(self, job: Job, worker: Worker, lost: Lost) -> Iterator[tuple[Job, JobResult]]:
        """Let a job be tried again; yield its position as set aside where that was enough."""
        failed = self.schedule.fail(job, worker, lost.why, lost.is_memory)
        if failed is None:
            return
        self._watch.say(f"ray: {failed.line}")
        if failed.is_hopeless:
            raise lost.error or UserError(
                f"runner=ray: workers compute no image ({lost.why}); Ray's logs say why, on the "
                "worker's machine in /tmp/ray/session_latest/logs; runner=local computes in this "
                "process"
            )
        if failed.set_aside is not None:
            yield job, JobResult(set_aside=failed.set_aside)


def _put(task: Any) -> Any:
    """Return a task as Ray holds it.

    Raises:
        UserError: Ray has no room for it.
    """
    import ray
    from ray import exceptions

    try:
        return ray.put(task)
    except (exceptions.ObjectStoreFullError, exceptions.OutOfDiskError) as error:
        room = ray.cluster_resources().get("object_store_memory", 0)
        need = f"has {len(task) / 1e6:.0f} MB, and" if isinstance(task, bytes) else "finds no room:"
        raise UserError(
            f"runner=ray: what workers need {need} Ray's object store of {room / 1e6:.0f} MB on "
            "all nodes is full; start Ray with a larger --object-store-memory, or free the disk "
            "under /tmp/ray, which Ray leaves alone once it is 95 % full"
        ) from error


def _get(ref: Any, is_wanted: bool) -> JobResult | Lost:
    """Return what a worker answered; raise the UserError that it raised, if that is wanted."""
    import ray
    from ray import exceptions

    try:
        return ray.get(ref)  # type: ignore[no-any-return]
    except exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, UserError) and is_wanted:
            raise cause from None
        is_memory = isinstance(cause, MemoryError) or "OutOfMemory" in type(cause).__name__
        raised = cause if isinstance(cause, Exception) else error
        return Lost(f"{type(cause).__name__}: {cause}", is_memory=is_memory, error=raised)
    except exceptions.RayError as error:
        # An actor that Ray's memory monitor has ended says so in words alone.
        is_memory = isinstance(error, exceptions.OutOfMemoryError) or LOW_MEMORY in str(error)
        why = "its worker ran out of memory" if is_memory else "its worker has died"
        return Lost(why, is_worker_lost=True, is_memory=is_memory)
