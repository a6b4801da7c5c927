"""Shards that a runner spreads over workers: what they get, and what is done with their results.

A worker gets the function that computes pieces of a shard, with all that it holds: the network, the
images' names, the saliency method. It reads images by itself, so `data.root` must be where it can
read it. This process writes the shards as they come, whole, and in any order: the bytes are those
of a run without a runner.
"""

from __future__ import annotations

import io
import os
import pickle
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from pipeline.engine import interrupt, progress, ranks, runtime, terminal
from pipeline.engine.choices import choice_name, instantiate
from pipeline.engine.reuse import GatheredStamps, Stamps
from pipeline.engine.shard_parts import concatenate_parts
from pipeline.errors import UserError
from pipeline.formats.arrays import pack_arrays, unpack_arrays, write_arrays
from pipeline.formats.files import atomic_write
from pipeline.ops.hashing import hash_of, to_plain
from pipeline.results.shards import Arrays, Skipped, shard_path
from pipeline.types.jobs import Job, JobResult, Work

if TYPE_CHECKING:
    import torch

    from pipeline.model.compiled import Compiled
    from pipeline.protocols.runner import Runner

Join = Callable[[Sequence[Any]], tuple[Arrays, Skipped]]

_spreading: list[Spread] = []  # of the run that goes on, if its runner spreads
_runners: dict[str, Runner] = {}  # kept for all stages, and for the runs of a sweep


class Gathers(Protocol):
    """What notes something in a worker, for its counterpart in this process, which has `take`."""

    def hand_over(self) -> Any:
        """Return what was noted since the last call, or in all."""


@dataclass(frozen=True)
class NeededPath:
    """A path that workers need as this process has it.

    Attributes:
        option: whose value it is, or what it is.
        path: absolute.
        entry: the name of a file or folder in it; empty: there is none, or it is no folder.
        remedy: what else can be done than to share it.
    """

    option: str
    path: Path
    entry: str = ""
    remedy: str = ""

    @classmethod
    def of(cls, option: str, path: Path, remedy: str = "") -> NeededPath:
        """Return a path with an entry that it has here.

        Args:
            option: whose value it is.
            path: a file or folder on this machine.
            remedy: what else can be done than to share it.
        """
        path = path.absolute()
        entry = ""
        if path.is_dir():
            with os.scandir(path) as entries:
                entry = next((each.name for each in entries), "")
        return cls(option, path, entry, remedy)

    def check(self) -> None:
        """Check that the path is here, as it was where this was made.

        Raises:
            UserError: it is not; an empty folder may be one where nothing was mounted.
        """
        if not (self.path / self.entry).exists():
            raise UserError(
                f"{self.option}={self.path}: runner=ray computes on {socket.gethostname()}, where "
                f"{self.path / self.entry} is not; workers read it by themselves: use a folder "
                f"that all machines have at the same path{self.remedy}, or runner=local"
            )


@dataclass(frozen=True)
class Spread:
    """How this run spreads shards.

    Args:
        runner: who computes them.
        uses_gpu: whether networks run on GPUs.
        files: what workers read by themselves, by option: a file or folder, and a name in it.
    """

    runner: Runner
    uses_gpu: bool
    files: Sequence[NeededPath] = ()


def find_spread(config: Mapping[str, Any], device: torch.device) -> Spread | None:
    """Return how a run spreads shards; None where its own processes compute them.

    Args:
        config: the configuration.
        device: that networks run on, in this process and in workers.

    Raises:
        UserError: the runner cannot run here, or there are two ways to start processes.
    """
    node = config["runner"]
    if (name := hash_of(to_plain(node))) not in _runners:
        while _runners:  # the workers of another would hold its cores
            _runners.popitem()[1].close()
        runner = cast("Runner", instantiate("runner", node))
        runner.check()
        interrupt.at_forced_end.append(runner.close)
        _runners[name] = runner
    runner = _runners[name]
    if not runner.spreads:
        return None
    count = max(config["runtime"]["devices"], ranks.launched_world().size)
    if count > 1:
        raise UserError(
            f"runner={choice_name('runner', str(node['_target_']))}: it starts workers itself, and "
            f"there are {count} processes already; leave runtime.devices and torchrun away"
        )
    return Spread(runner, device.type != "cpu", _find_paths(config))


def _find_paths(config: Mapping[str, Any]) -> list[NeededPath]:
    """Return the files and folders on this machine that options of the data set name."""
    given = {f"data.{name}": value for name, value in config["data"].items()}
    return [
        NeededPath.of(option, Path(each))
        for option, value in {**given, "images": config["images"]}.items()
        for each in (value if isinstance(value, list) else [value])
        if isinstance(each, str) and each and Path(each).exists()
    ]


TRAINING = ("train", "refine")


@contextmanager
def spread_shards(spread: Spread | None, stage: str) -> Iterator[None]:
    """Let `write_shards` hand shards of a stage to a runner.

    Args:
        spread: who computes them; None: this process does.
        stage: its name; of one that trains a line says where.
    """
    if spread is not None and stage in TRAINING:
        terminal.print_line(
            f"{stage:<10} this process trains, and workers compute the shards; torchrun trains on "
            "several GPUs and machines (docs/machines.md)"
        )
    before = [*_spreading]
    _spreading[:] = [] if spread is None else [spread]
    try:
        yield
    finally:
        _spreading[:] = before


def current_spread() -> Spread | None:
    """Return how shards are spread now; None: they are not."""
    return _spreading[0] if _spreading else None


# -- in this process -----------------------------------------------------------------------------


def write_spread_shards(
    spread: Spread,
    folder: Path,
    jobs: Sequence[Job],
    flow: Callable[[Iterator[range]], Iterator[Any]],
    join: Join,
    advance: Callable[[int], None],
    image_at: Callable[[int], int] | None,
    reads: Sequence[Path] = (),
) -> None:
    """Let workers compute shards, and write them.

    Args:
        spread: who computes them.
        folder: where the shards are written.
        jobs: whole shards.
        flow: from ranges of positions to the part of each, in order.
        join: from the parts of a shard to its arrays and its skipped images.
        advance: is called with the number of positions that are computed.
        image_at: from a position to that of its image; None: positions are not of images, and none
            is set aside.
        reads: folders under the run's outputs that `flow` reads.

    Raises:
        UserError: what `flow` raises in a worker; or a position cannot be computed, or a shard is
            not where a worker has written it.
    """
    if not jobs:
        return
    target = folder.resolve() if spread.runner.writes_in_workers else None
    whole = {job.shard: (job.start, job.stop) for job in jobs}
    needed = [*spread.files, *(NeededPath.of("outputs", path) for path in reads)]
    if target is not None:
        remedy = ", or runner.write=driver"
        needed.append(NeededPath.of("outputs", target, remedy))
    content, kept = pickle_task((flow, join, target, whole if target else {}), needed)
    parts: dict[int, dict[int, tuple[int, JobResult]]] = {}
    work = Work(load=_load, task=content, jobs=jobs, uses_gpu=spread.uses_gpu)
    for job, result in map_jobs(spread, work):
        for each, gathered in zip(kept, result.gathered, strict=False):  # none of what is set aside
            each.take(gathered)
        path = shard_path(folder, job.shard)
        if result.set_aside is not None and image_at is None:
            raise UserError(f"{path}: {result.set_aside}; runner=local computes it in this process")
        if (job.start, job.stop) == whole[job.shard] and result.set_aside is None:
            _write(path, result.content)
        else:
            of_shard = parts.setdefault(job.shard, {})
            of_shard[job.start] = job.stop, result
            start, stop = whole[job.shard]
            if sum(end - first for first, (end, _) in of_shard.items()) == stop - start:
                assert image_at is not None
                _join_parts(path, parts.pop(job.shard), image_at)
        advance(len(job))


class _Terminal:
    """Shows what happens to workers."""

    def say(self, line: str) -> None:
        """Print a line."""
        terminal.print_line(line)

    def note_nodes(self, nodes: int) -> None:
        """Let the progress say on how many machines workers compute."""
        progress.note_place(f"on {nodes} node{'s' * (nodes != 1)}" if nodes else "")


def map_jobs(spread: Spread, work: Work) -> Iterator[tuple[Job, JobResult]]:
    """Yield jobs with their results, in any order, and show where they are computed.

    Args:
        spread: who computes them.
        work: the task and its jobs.
    """
    try:
        yield from spread.runner.map(work, _Terminal())
    finally:
        progress.note_place("")


def _write(path: Path, content: bytes | None) -> None:
    """Write a shard; None: a worker has written it."""
    if content is not None:
        with atomic_write(path) as temporary:
            temporary.write_bytes(content)
    elif not path.is_file():
        raise UserError(
            f"runner.write=workers: a worker has written {path}, and it is not there; use "
            "runner.write=driver, or a folder of outputs that all machines have at the same path"
        )


def _join_parts(
    path: Path, parts: dict[int, tuple[int, JobResult]], image_at: Callable[[int], int]
) -> None:
    """Write a shard of the parts that it was divided into, and of images that are set aside."""
    read: list[tuple[Arrays, Skipped]] = []
    for start, (_, result) in sorted(parts.items()):
        if result.set_aside is not None:
            read.append(({}, [(image_at(start), result.set_aside)]))
            continue
        assert result.content is not None
        arrays, notes = unpack_arrays(result.content)
        read.append((arrays, [(int(n), why) for n, why in notes["set_aside"]]))
    arrays, skipped = concatenate_parts(read)
    write_arrays(path, arrays, set_aside=skipped)


def pickle_task(task: Any, needed: Sequence[NeededPath]) -> tuple[bytes, list[Stamps | Compiled]]:
    """Return a task as bytes, and what stays here of it: stamps, and what a backend has done.

    Workers have counterparts of these. What they note comes back with their results: hashes of the
    files that they read, and why a backend, which each worker compiles for itself, was refused.

    Args:
        task: what workers get.
        needed: what they need on their machines; it is checked before the task is loaded.
    """
    import cloudpickle

    from pipeline.model.compiled import Compiled

    kept: list[Stamps | Compiled] = []

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        def persistent_id(self, value: Any) -> tuple[int, str | None] | None:
            if not isinstance(value, Stamps | Compiled):
                return None
            if all(value is not known for known in kept):
                kept.append(value)
            number = next(n for n, known in enumerate(kept) if known is value)
            return number, value.backend if isinstance(value, Compiled) else None

    buffer = io.BytesIO()
    pickler = Pickler(buffer, protocol=5)
    pickler.dump((str(Path.cwd()), [*needed]))
    pickler.dump(task)
    return buffer.getvalue(), kept


# -- in a worker ---------------------------------------------------------------------------------


@dataclass
class SpreadTask:
    """Computes jobs in a worker.

    Args:
        flow: from ranges of positions to the part of each, in order.
        join: from the parts of a shard to its arrays and its skipped images.
        folder: where whole shards are written; None: they are sent back.
        whole: the positions of each shard, first and last + 1, where `folder` is given.
        gathered: what notes something for this process.
    """

    flow: Callable[[Iterator[range]], Iterator[Any]]
    join: Join
    folder: Path | None
    whole: Mapping[int, tuple[int, int]]
    gathered: Sequence[Gathers] = ()

    def compute(self, job: Job, attached: None) -> JobResult:
        """Compute a job; the arguments are those of `ShardTask.compute`."""
        positions = range(job.start, job.stop)
        pieces = [positions[a : a + job.piece] for a in range(0, len(positions), job.piece)]
        with explain_missing_file():
            arrays, skipped = self.join([*self.flow(iter(pieces))])
        noted = [each.hand_over() for each in self.gathered]
        if self.folder is not None and self.whole[job.shard] == (job.start, job.stop):
            write_arrays(shard_path(self.folder, job.shard), arrays, set_aside=skipped)
            return JobResult(None, noted)
        return JobResult(pack_arrays(arrays, set_aside=skipped), noted)


def _load(content: bytes) -> SpreadTask:
    """Return the task that `write_spread_shards` has pickled."""
    (flow, join, folder, whole), gathered = unpickle(content)
    return SpreadTask(flow, join, folder, whole, gathered)


def unpickle(content: bytes) -> tuple[Any, list[Gathers]]:
    """Return what `pickle_task` has written, which computes with as many threads as it may.

    Args:
        content: what it returned.

    Returns:
        The task, and the counterparts of what `pickle_task` has kept, in the same order.

    Raises:
        UserError: a path that it needs is not on this machine.
    """
    from pipeline.model.compiled import Compiled

    gathered: dict[int, Gathers] = {}

    class Unpickler(pickle.Unpickler):
        def persistent_load(self, given: Any) -> Gathers:
            number, backend = given
            if number not in gathered:
                gathered[number] = GatheredStamps() if backend is None else Compiled(backend)
            return gathered[number]

    unpickler = Unpickler(io.BytesIO(content))
    folder, needed = unpickler.load()
    for path in needed:
        path.check()
    if Path(folder).is_dir():  # relative paths mean the same here
        os.chdir(folder)
    with explain_missing_file():
        task = unpickler.load()
    runtime.limit_threads(int(os.environ["OMP_NUM_THREADS"]))
    return task, [gathered[n] for n in sorted(gathered)]


@contextmanager
def explain_missing_file() -> Iterator[None]:
    """Turn the error about a file that is missing on a worker's machine into a UserError."""
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(
            f"runner=ray: {error.filename or error} is not on {socket.gethostname()}; workers read "
            "it by themselves: use a folder that all machines have at the same path, or "
            "runner=local"
        ) from error
