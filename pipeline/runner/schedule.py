"""Which worker computes which job, where workers die, are slow, join and leave.

Each job is finished once. A job whose worker dies, or that fails, is given to a worker again. One
that failed TRIES times is computed in halves, to find the image that it fails on; a single image
that fails TRIES times is set aside, unless nothing was computed yet: then it comes once more after
others, and all is given up where MOST_AT_FIRST images were so. Once no job is left to give, jobs
that run for longer than the others took are given to a second worker, and the first result counts:
a slow machine holds the end no longer than its own shard takes elsewhere.

It neither waits nor reads a clock: who calls it says what time it is (Ray, or a simulation).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field, replace
from statistics import median

from pipeline.types.jobs import Job

TRIES = 3
MOST_AT_FIRST = 3  # images that fail while none is computed: no fault of theirs
SLOW = 1.5  # times the median of the last jobs: such a job is given to a second worker
LAST = 199  # jobs


@dataclass
class _Running:
    """A job that workers compute now, and since when each does."""

    since: dict[Hashable, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Failed:
    """What follows from a failure.

    Attributes:
        line: what to say of it.
        set_aside: why the job's only position is set aside; None: the job is tried again.
        is_hopeless: whether nothing was computed yet, and nothing is left that could be.
    """

    line: str
    set_aside: str | None = None
    is_hopeless: bool = False


class Schedule:
    """The jobs of a task, and who computes them.

    Args:
        jobs: all of them; each is taken when a worker is free for it.
        may_begin: whether another may be taken now.
    """

    def __init__(self, jobs: Iterable[Job], may_begin: Callable[[], bool] = lambda: True) -> None:
        self._jobs = iter(jobs)
        self._may_begin = may_begin
        self._waiting = deque[Job]()
        self._hopeless: set[tuple[int, int, int]] = set()
        self._running: dict[Job, _Running] = {}
        self._failures: dict[tuple[int, int, int], int] = {}
        self._is_part: set[tuple[int, int, int]] = set()
        self._durations = deque[float](maxlen=LAST)
        self._median: float | None = None  # of the durations; None: to be computed
        self.finished = 0

    @property
    def is_finished(self) -> bool:
        """Whether no job waits or runs."""
        return not self._running and not self._waiting and not self._take_next()

    def _take_next(self) -> bool:
        """Let the next job wait; return whether there is one."""
        job = next(self._jobs, None)
        if job is not None:
            self._waiting.append(job)
        return job is not None

    def give(self, worker: Hashable, now: float) -> Job | None:
        """Return a job for a worker that has none; None: there is none for it now.

        Args:
            worker: who asks.
            now: the time in seconds.
        """
        if self._waiting or (self._may_begin() and self._take_next()):
            job = self._waiting.popleft()
        elif (slow := self._find_slow(worker, now)) is not None:
            job = slow
        else:
            return None
        self._running.setdefault(job, _Running()).since[worker] = now
        return job

    def _find_slow(self, worker: Hashable, now: float) -> Job | None:
        """Return the job that runs for the longest, if that is long and one worker has it."""
        if not self._durations:
            return None
        if self._median is None:
            self._median = median(self._durations)
        least = SLOW * self._median
        single = [
            (next(iter(running.since.values())), job)
            for job, running in self._running.items()
            if len(running.since) == 1 and worker not in running.since
        ]
        began, job = min(single, default=(now, None))
        return job if now - began > least else None

    def finish(self, job: Job, worker: Hashable, now: float) -> bool:
        """Note that a worker has computed a job; return whether it is the first to do so."""
        running = self._running.pop(job, None)
        if running is None:
            return False
        if worker in running.since:
            self._durations.append(now - running.since[worker])
            self._median = None
        self.finished += 1
        return True

    def fail(self, job: Job, worker: Hashable, why: str, is_memory: bool = False) -> Failed | None:
        """Note that a worker did not compute a job; return what follows from it.

        Args:
            job: the job.
            worker: who had it.
            why: the reason, for the message.
            is_memory: whether there was too little memory: it is tried again in smaller pieces.

        Returns:
            None where another worker has computed the job, or computes it now.
        """
        running = self._running.get(job)
        if running is None:
            return None
        running.since.pop(worker, None)
        if running.since:
            return None
        del self._running[job]
        place = (job.shard, job.start, job.stop)
        count = self._failures[place] = self._failures.get(place, 0) + 1
        smaller = replace(job, piece=max(1, job.piece // 2)) if is_memory else job
        what = f"shard {job.shard}, positions {job.start} to {job.stop - 1}"
        # A part of a job that failed TRIES times is divided at once; its last image is tried again.
        if count < (1 if place in self._is_part and len(job) > 1 else TRIES):
            self._waiting.appendleft(smaller)
            pieces = f", {smaller.piece} images at a time" if smaller != job else ""
            return Failed(f"{what}: {why}; tried again{pieces} ({count + 1} of {TRIES})")
        if len(job) > 1:
            halves = smaller.halves()
            self._is_part.update((half.shard, half.start, half.stop) for half in halves)
            self._waiting.extendleft(reversed(halves))
            return Failed(f"{what}: {why}; now in halves, to find the image that it fails on")
        if not self.finished:
            self._hopeless.add(place)
            is_any_left = self._is_any_left() or bool(self._running)
            if len(self._hopeless) == MOST_AT_FIRST or not is_any_left:
                return Failed(f"{what}: {why}, {count} times", is_hopeless=True)
            self._failures[place] = 0
            self._waiting.append(job)
            return Failed(f"{what}: {why}, {count} times; tried again after others")
        reason = f"computing it failed {count} times: {why}"
        return Failed(f"{what}: {why}, {count} times; this image is set aside", reason)

    def _is_any_left(self) -> bool:
        """Return whether a job waits that is not of an image that failed TRIES times."""
        if all((job.shard, job.start, job.stop) in self._hopeless for job in self._waiting):
            return self._take_next()
        return True
