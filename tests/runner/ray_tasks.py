"""Tasks without images or networks, whose jobs fail, wait, or need much memory."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.runner.ray_workers import Actor
from pipeline.types.jobs import Job, JobResult


@dataclass(frozen=True, kw_only=True)
class Task:
    """Answers with the positions of a job, in words.

    Args:
        kills: positions whose computation ends the worker.
        kills_once: a file that is made before a worker is ended, so that the next is not.
        raises: positions that raise a ValueError.
        refuses: positions that raise a UserError.
        most: positions at a time for which there is memory.
        waits: positions at which a worker waits for a minute, but once.
        waited: a file that is made before.
        size: of each result, in bytes.
        seconds: that each job takes.
    """

    kills: frozenset[int] = frozenset()
    kills_once: str = ""
    raises: frozenset[int] = frozenset()
    refuses: frozenset[int] = frozenset()
    most: int = 1000
    waits: frozenset[int] = frozenset()
    waited: str = ""
    size: int = 0
    seconds: float = 0.0
    ballast: bytes = field(default=b"", repr=False)

    def compute(self, job: Job, attached: Any) -> JobResult:
        positions = frozenset(range(job.start, job.stop))
        if positions & self.kills and not (self.kills_once and Path(self.kills_once).exists()):
            if self.kills_once:
                Path(self.kills_once).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if bad := positions & self.raises:
            raise ValueError(f"position {min(bad)}")
        if positions & self.refuses:
            raise UserError("option=7: expected 8")
        if job.piece > self.most:
            raise MemoryError("too many at once")
        if positions & self.waits and not Path(self.waited).exists():
            Path(self.waited).touch()
            time.sleep(60)
        time.sleep(self.seconds)
        text = f"{job.start}-{job.stop}".encode()
        return JobResult(text.ljust(self.size, b" "), [len(self.ballast), os.getppid()])


def load(task: Task) -> Task:
    return task


class DiesAtStart(Actor):
    """A worker that ends before it has started."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        os._exit(1)
