"""A runner in this process: what it gets is pickled, and results come in a random order."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any, Literal

from pipeline.types.jobs import Job, JobResult, Work


class Shuffled:
    """Computes jobs in a random order.

    Args:
        seed: of the order.
        write: who writes, as of `runner=ray`.
        halves: the share of jobs that are computed in two halves.
        fails: shards of which a single position is set aside, by number.
    """

    spreads = True
    at_most = 0  # jobs that were taken and not yet computed
    tasks = 0

    def __init__(
        self,
        seed: int = 0,
        write: Literal["driver", "workers"] = "driver",
        halves: float = 0.0,
        fails: dict[int, int] | None = None,
    ) -> None:
        self.chance, self.halves = random.Random(seed), halves
        self.writes_in_workers = write == "workers"
        self.fails = fails or {}

    def check(self) -> None:
        return

    def map(self, work: Work, watch: Any) -> Iterator[tuple[Job, JobResult]]:
        Shuffled.tasks += 1
        task, jobs, taken = work.load(work.task), iter(work.jobs), list[Job]()
        watch.note_nodes(3)
        while True:
            while len(taken) < 5 and work.may_begin() and (job := next(jobs, None)) is not None:
                taken.append(job)
            if not taken:
                return
            Shuffled.at_most = max(self.at_most, len(taken))
            job = taken.pop(self.chance.randrange(len(taken)))
            bad = self.fails.get(job.shard)
            if bad is not None and job.start <= bad < job.stop and len(job) > 1:
                taken += job.halves()
            elif bad is not None and job.start == bad:
                yield job, JobResult(set_aside="computing it failed 3 times: a test")
            elif len(job) > 1 and self.chance.random() < self.halves:
                taken += job.halves()
            else:
                yield job, task.compute(job, work.attach(job))

    def close(self) -> None:
        return
