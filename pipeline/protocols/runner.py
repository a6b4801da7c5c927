"""What a runner must have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.types.jobs import Job, JobResult, Work


class ShardTask(Protocol):
    """Computes jobs in a worker, which holds it, with its network, for all jobs of a task."""

    def compute(self, job: Job, attached: Any) -> JobResult:
        """Compute a job.

        Args:
            job: some positions of a shard.
            attached: what came with the job.

        Raises:
            UserError: the job cannot be computed, and no other can.
        """


class Watch(Protocol):
    """Hears what happens to workers."""

    def say(self, line: str) -> None:
        """Show a line on a failure, or on workers that came or went.

        Args:
            line: the line.
        """

    def note_nodes(self, nodes: int) -> None:
        """Note on how many machines workers compute now.

        Args:
            nodes: their number.
        """


class Runner(Protocol):
    """A choice of `runner=`: who computes shards. It is no part of any cache key."""

    @property
    def spreads(self) -> bool:
        """Whether `map` computes the shards; else the processes of the run do, without it."""

    @property
    def writes_in_workers(self) -> bool:
        """Whether workers write the shards that they compute into the folder of the result."""

    def check(self) -> None:
        """Check at start that this runner can run.

        Raises:
            UserError: a package is missing, or the processes were not started as expected.
        """

    def map(self, work: Work, watch: Watch) -> Iterator[tuple[Job, JobResult]]:
        """Compute jobs in workers, each once.

        Args:
            work: the task and its jobs.
            watch: hears of failures and nodes.

        Yields:
            Jobs as they are finished, in any order. A job that workers cannot compute comes in
            parts.

        Raises:
            UserError: what `ShardTask.compute` raises, or no worker can compute anything.
        """

    def close(self) -> None:
        """End the workers; the next call of `map` starts others."""
