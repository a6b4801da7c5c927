"""Ray workers beside plain processes: `./scripts/bench engine [images=2048] [rounds=3] [size=224]`.

Both compute the same shards of 256 images (MobileNetV2, CAM) with the same network,
which is not trained, in rounds that alternate. Plain processes divide the shards before they begin,
and each writes its own, as `runtime.devices=2` does; Ray workers send theirs back, and this process
writes them. All are started, and have computed a shard, before time counts. Given are wall time and
processor time, of which others on the machine take little: of the workers, of Ray and of this
process.

    start           a local Ray from nothing to its first answer
    explain_2, localize_2   two workers, one core each, beside two plain processes
    overhead_1      one worker beside this process
    jobs            what this process takes of a job: 100 GPUs are simulated with it
                    (scripts/measure/cluster_model.py)
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any
from unittest import mock

from pipeline.engine import spreading
from pipeline.engine.run import Run
from pipeline.results.shards import list_shards
from pipeline.types.jobs import Job, JobResult, Work
from scripts.measure.cluster_model import Cluster, simulate
from scripts.measure.records import Record
from scripts.measure.runs import compose

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from pipeline.protocols.runner import Runner, Watch

SHARD = 256
OPTIONS = ("model.weights=null", "data.val_images=8", "model=mobilenet_v2",
           "train.epochs=1", "runtime.workers=1", f"runtime.shard={SHARD}", "explain.split=train",
           "segmenter=threshold")  # fmt: skip
START_LIMIT, PAIR_LIMIT, OVERHEAD_LIMIT = 12.0, 0.95, 1.05
GPU_IMAGES = 2000.0  # a second, assumed of a GPU
LARGE = Cluster(images=10_000_000, workers=100, rate=GPU_IMAGES, slow=0.02, lives=6 * 3600.0)


class PlainProcesses:
    """A runner whose processes have their shards from the beginning, and write them.

    Args:
        count: of processes.
    """

    spreads = True
    writes_in_workers = True

    def __init__(self, count: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        for _ in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_compute_in_process, args=(theirs,), daemon=True)
            process.start()
            self._pipes.append(ours)

    def check(self) -> None:
        """Check nothing."""

    def map(self, work: Work, watch: Watch) -> Iterator[tuple[Job, JobResult]]:
        """Compute jobs; the arguments are those of `Runner.map`."""
        jobs = list(work.jobs)
        for n, pipe in enumerate(self._pipes):
            pipe.send((work.load, work.task, jobs[n :: len(self._pipes)]))
        for pipe in self._pipes:
            yield from pipe.recv()

    def close(self) -> None:
        """End the processes."""
        for pipe in self._pipes:
            pipe.send(None)
        self._pipes = []


def _compute_in_process(pipe: Connection) -> None:
    """Compute the jobs that come through a pipe, one task after the other."""
    os.environ["OMP_NUM_THREADS"] = "1"
    while (given := pipe.recv()) is not None:
        load, content, jobs = given
        task = load(content)
        pipe.send([(job, task.compute(job, None)) for job in jobs])


@dataclass(frozen=True)
class Spent:
    """What a stage took: wall time and processor time, in seconds."""

    wall: float
    processor: float


def run(*overrides: str) -> list[Record]:
    """Measure Ray beside plain processes, and simulate a large cluster."""
    given = dict(word.split("=", 1) for word in overrides)
    images, rounds = int(given.get("images", 2048)), int(given.get("rounds", 3))
    # Plain processes do not stand back for others either.
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - Ray's own spelling
    from pipeline.runner.ray import Ray

    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), images, given.get("size", "224"))
        start, ray_two = _start_ray(Ray(workers=2))
        plain_two = PlainProcesses(2)
        pairs = bench.alternate({"ray": ray_two, "plain": plain_two}, rounds)
        ray_two.close()
        plain_two.close()
        ray_one = Ray(workers=1)
        singles = bench.alternate({"ray": ray_one, "local": None}, rounds)
        job_seconds = _seconds_of_a_job(ray_one, bench.shard_bytes)
        ray_one.close()
        shard_bytes = bench.shard_bytes
    return [
        Record("start", start, START_LIMIT, START_LIMIT / start, "s", "at most"),
        *_ratios(pairs, "plain", "2", PAIR_LIMIT),
        *_ratios(singles, "local", "1", 1 / OVERHEAD_LIMIT),
        Record("jobs", 1 / job_seconds, None, None, "jobs/s",
               f"answers of {shard_bytes / 1e3:.0f} KB that this process hands out and takes"),
        *_simulated(job_seconds, shard_bytes),
    ]  # fmt: skip


def _start_ray(runner: Any) -> tuple[float, Any]:
    """Return the seconds from nothing to an answer of a worker, and the runner."""
    started = time.perf_counter()
    next(runner.map(Work(load=_trivial, task=0, jobs=[Job(0, 0, 1, 1)]), _Silent()))
    return time.perf_counter() - started, runner


class Bench:
    """Runs stages explain and localize of the same network, each time anew.

    Args:
        folder: where all results are written.
        images: of the split that is explained.
        size: of images, in pixels.
    """

    def __init__(self, folder: Path, images: int, size: str) -> None:
        data = (f"data.images={images}", "data.held_back=0", f"data.size={size}")
        self.folder, self.options = folder, (*OPTIONS, *data)
        first = compose("cam", *self.options, "stages=[train]", f"outputs={folder}/first")
        first.get_or_create("train")
        self.trained = first.checkpoint
        self.shard_bytes = 0
        self._number = 0

    def alternate(
        self, runners: dict[str, Runner | None], rounds: int
    ) -> dict[str, list[dict[str, Spent]]]:
        """Return what stages took with each runner, by its name, and in each round by stage."""
        spent: dict[str, list[dict[str, Spent]]] = {name: [] for name in runners}
        for n in range(rounds + 1):
            for name, runner in runners.items():
                took = self._time(runner)
                if n:  # the first warms up
                    spent[name].append(took)
        return spent

    def _time(self, runner: Runner | None) -> dict[str, Spent]:
        """Return what each stage takes with a runner; None: in this process."""
        self._number += 1
        stages, outputs = "stages=[explain,localize]", f"outputs={self.folder}/{self._number}"
        run = compose("cam", *self.options, f"checkpoint={self.trained}", stages, outputs)
        took = {}
        for stage in ("explain", "localize"):
            before, started = processor_seconds(), time.perf_counter()
            self._make(run, stage, runner)
            took[stage] = Spent(time.perf_counter() - started, processor_seconds() - before)
        shards = list_shards(run.folder("explain"))
        self.shard_bytes = round(median(path.stat().st_size for path in shards))
        return took

    def _make(self, run: Run, stage: str, runner: Runner | None) -> None:
        """Compute a stage's result."""
        spread = None if runner is None else spreading.Spread(runner, uses_gpu=False)
        with mock.patch("pipeline.engine.run.find_spread", return_value=spread):
            _, was_there = run.get_or_create(stage)
        assert not was_there


class _Silent:
    """Shows nothing."""

    def say(self, line: str) -> None:
        """Do nothing."""

    def note_nodes(self, nodes: int) -> None:
        """Do nothing."""


@dataclass(frozen=True)
class _Trivial:
    """Answers at once.

    Args:
        bytes: of an answer.
    """

    bytes: int

    def compute(self, job: Job, attached: None) -> JobResult:
        """Return zeros."""
        return JobResult(bytes(self.bytes))


def _trivial(size: int) -> _Trivial:
    """Return a task whose answers have a size."""
    return _Trivial(size)


def _seconds_of_a_job(runner: Runner, size: int, count: int = 2000) -> float:
    """Return the processor time of this process for a job: hand it out, take the answer, write."""
    jobs = [Job(n, n, n + 1, 1) for n in range(count)]
    with tempfile.TemporaryDirectory() as folder:
        before = time.process_time()
        for job, result in runner.map(Work(load=_trivial, task=size, jobs=jobs), _Silent()):
            spreading._write(Path(folder) / str(job.shard), result.content)
        return (time.process_time() - before) / count


def processor_seconds() -> float:
    """Return the processor time of this process and of all that it started and that go on."""
    parents: dict[int, list[int]] = {}
    times: dict[int, float] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        process = int(path.parent.name)
        parents.setdefault(int(fields[1]), []).append(process)
        times[process] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    tree = [os.getpid()]
    for process in tree:
        tree += parents.get(process, [])
    return sum(times.get(process, 0.0) for process in tree)


def _ratios(
    spent: dict[str, list[dict[str, Spent]]], peer: str, suffix: str, limit: float
) -> Iterator[Record]:
    """Yield the ratios of the peer's times to Ray's, of both stages."""
    for stage in ("explain", "localize"):
        for kind in ("wall", "processor"):
            ours = [getattr(each[stage], kind) for each in spent["ray"]]
            theirs = [getattr(each[stage], kind) for each in spent[peer]]
            ratios = sorted(t / o for o, t in zip(ours, theirs, strict=True))
            note = (
                f"{peer}; wanted {limit:.2f}; rounds {ratios[0]:.2f} to {ratios[-1]:.2f}; theirs "
                f"alone differ by {max(theirs) / min(theirs) - 1:.0%}"
            )
            name = f"{stage}_{suffix}_{kind}"
            yield Record(name, median(ours), median(theirs), median(ratios), "s", note)


def _simulated(job_seconds: float, shard_bytes: int) -> Iterator[Record]:
    """Yield what 10 million images take on 100 GPUs, by who writes, and for larger shards."""
    variants: Sequence[tuple[str, Cluster]] = [
        (f"sim_{write}_{shard}_{times}x", replace(
            LARGE, shard=shard, rate=GPU_IMAGES * times, driver_seconds=job_seconds,
            result_bytes=shard_bytes * shard / SHARD if write == "driver" else 0.0))
        for write in ("driver", "workers") for shard in (256, 1024) for times in (1, 4)
    ]  # fmt: skip
    for name, cluster in variants:
        outcome = simulate(cluster)
        note = (
            f"efficiency; this process busy {outcome.driver_busy:.0%}, end {outcome.tail:.1f} s, "
            f"{outcome.lost} lost, {outcome.copies} twice"
        )
        yield Record(name, outcome.seconds, None, outcome.efficiency, "s", note)
