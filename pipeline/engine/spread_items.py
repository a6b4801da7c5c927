"""Map a function over items of a stream, in threads, or in the workers of a runner.

Workers get pieces of items with what is known of them, and send their results back: they need no
disk of this machine but for what the function reads by itself. Results come in order.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pipeline.engine import runtime
from pipeline.engine.spreading import (
    NeededPath,
    Spread,
    current_spread,
    explain_missing_file,
    map_jobs,
    pickle_task,
    unpickle,
)
from pipeline.errors import UserError
from pipeline.types.jobs import Job, JobResult, Work

Item = TypeVar("Item")
Result = TypeVar("Result")

ITEMS = 64  # of a job: with a map each, about half a second of stage evaluate
AHEAD = 256  # jobs that are computed at most before the first of them is asked for
BYTES_AHEAD = 1 << 30  # of results that wait for one before them: no job begins then


def map_items(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    threads: int,
    ahead: int = 64,
    needed: Sequence[NeededPath] = (),
    writes: bool = False,
) -> Iterator[Result]:
    """Map a function over items; yield the results in order.

    Args:
        function: is called in workers of the runner, if it has some, else in threads.
        items: are read in this thread.
        threads: number of threads; 0: this thread computes each result when it is asked for.
        ahead: how many results are computed by threads at most before they are asked for.
        needed: what the function reads or writes besides the data set.
        writes: whether it writes files: then only workers that may write compute.

    Raises:
        UserError: workers cannot compute an item, or what `function` raises.
    """
    spread = current_spread()
    if spread is None or (writes and not spread.runner.writes_in_workers):
        yield from runtime.map_in_threads(function, items, threads, ahead)
    else:
        yield from _map_in_workers(spread, function, items, needed)


def _map_in_workers(
    spread: Spread,
    function: Callable[[Item], Result],
    items: Iterable[Item],
    needed: Sequence[NeededPath],
) -> Iterator[Result]:
    """Map a function over items in workers; yield the results in order."""
    stream = _Stream(items)
    content, _ = pickle_task(function, [*spread.files, *needed])
    work = Work(load=_load, task=content, jobs=stream.jobs(), attach=stream.pickle_items,
                may_begin=stream.may_begin)  # fmt: skip
    for job, result in map_jobs(spread, work):
        if result.set_aside is not None:
            raise UserError(
                f"item {job.start}: {result.set_aside}; runner=local computes it in this process"
            )
        stream.add(job, result)
        yield from stream.take_ready()


class _Stream:
    """Items that are in work, and results that wait for those before them.

    Args:
        items: all of them.
    """

    def __init__(self, items: Iterable[Any]) -> None:
        self._batches = runtime.split_into_batches(items, ITEMS)
        self._items: dict[int, tuple[int, list[Any]]] = {}  # by shard: the first position, items
        self._results: dict[int, dict[int, list[Any]]] = {}  # by shard, and position
        self._next = 0  # the shard whose results come next
        self._waiting: dict[int, int] = {}  # bytes of results, by shard

    def jobs(self) -> Iterator[Job]:
        """Yield a job for each batch of items, which is read when the job is taken."""
        start = 0
        for number, batch in enumerate(self._batches):
            self._items[number] = start, batch
            yield Job(number, start, start + len(batch), len(batch))
            start += len(batch)

    def may_begin(self) -> bool:
        """Return whether few enough jobs are in work, so that memory does not grow."""
        return len(self._items) < AHEAD and sum(self._waiting.values()) < BYTES_AHEAD

    def pickle_items(self, job: Job) -> bytes:
        """Return the items of a job."""
        start, batch = self._items[job.shard]
        return pickle.dumps(batch[job.start - start : job.stop - start], protocol=5)

    def add(self, job: Job, result: JobResult) -> None:
        """Keep the results of a job."""
        assert result.content is not None
        waiting = self._waiting.get(job.shard, 0)
        self._waiting[job.shard] = waiting + len(result.content)
        self._results.setdefault(job.shard, {})[job.start] = pickle.loads(result.content)

    def take_ready(self) -> Iterator[Any]:
        """Yield the results that all results before have come for."""
        while (parts := self._results.get(self._next)) is not None:
            _, batch = self._items[self._next]
            if sum(map(len, parts.values())) < len(batch):
                return
            del self._items[self._next], self._results[self._next], self._waiting[self._next]
            self._next += 1
            for _, results in sorted(parts.items()):
                yield from results


# -- in a worker ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _ItemTask:
    """Computes jobs in a worker.

    Args:
        function: from an item to its result.
    """

    function: Callable[[Any], Any]

    def compute(self, job: Job, attached: bytes) -> JobResult:
        """Compute a job; the arguments are those of `ShardTask.compute`."""
        items = pickle.loads(attached)
        with explain_missing_file():
            results = [*runtime.map_in_threads(self.function, items, runtime.worker_threads())]
        return JobResult(pickle.dumps(results, protocol=5))


def _load(content: bytes) -> _ItemTask:
    """Return the task that `_map_in_workers` has pickled."""
    function, _ = unpickle(content)
    return _ItemTask(function)
