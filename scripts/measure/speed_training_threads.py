"""Speed of training on threads, relative to independent processes with a single thread each.

    ./scripts/bench training_threads [images=640] [steps=6] [rounds=12] [cores=2] [OPTION=VALUE ...]

Steps of stage train, with reading ahead and augmentation: of the embedded data set and the small
network, or what further options of the run choose (model=..., objective=..., precision=bf16). Each
round measures the same number of steps, in turn:

    single       one process, one thread of torch, whole batches, no further worker
    whole        one process, a thread of torch on each core, whole batches: what torch does
    parts        one process, whose threads compute parts of the batch (model/batch_parts.py)
    processes    as many independent processes like `single` as there are cores, side by side

A row is the median over rounds of the ratio of images a second, `processes` counted together; and
the processor time of an image relative to `single`, which other work on the machine hardly changes.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count, islice
from multiprocessing.connection import Connection
from statistics import median
from typing import TYPE_CHECKING

from pipeline.engine.passive_wait import wait_passively
from scripts.measure.records import Record
from scripts.measure.runs import compose

if TYPE_CHECKING:
    from pipeline.stages.train.images import Part, TrainingImages

SINGLE, WHOLE, PARTS, PROCESSES = "single", "whole", "parts", "processes"
DEFAULTS = {"images": "640", "steps": "6", "rounds": "12", "cores": "2"}


@dataclass(frozen=True)
class Rate:
    """What some steps of a training took.

    Attributes:
        images: a second of wall time.
        cost: seconds of processor time for an image.
    """

    images: float
    cost: float


def run(*given: str) -> list[Record]:
    """Return the ratios of the ways to train.

    `given`: numbers as in DEFAULTS, and options of the run.
    """
    pairs = dict(argument.split("=", 1) for argument in given)
    numbers = {name: int(pairs.pop(name, value)) for name, value in DEFAULTS.items()}
    options = [f"{name}={value}" for name, value in pairs.items()]
    cores, steps = numbers["cores"], numbers["steps"]
    wait_passively()  # as the command line does; the processes inherit it
    with tempfile.TemporaryDirectory() as folder:
        start = partial(_start, folder, [f"data.images={numbers['images']}", *options])
        workers = {
            SINGLE: [start("0", 1, 1, False)],
            WHOLE: [start("whole", cores, cores, False)],
            PARTS: [start("parts", 1, cores, True)],
        }
        others = [start(str(n), 1, 1, False) for n in range(1, cores)]
        workers[PROCESSES] = [*workers[SINGLE], *others]
        for way in (WHOLE, PARTS, PROCESSES):
            _measure(workers[way], 1)
        rounds = []
        for n in range(numbers["rounds"]):
            rounds.append({way: _measure(workers[way], steps) for way in workers})
            shown = {way: f"{rate.images:.0f}" for way, rate in rounds[-1].items()}
            print(f"round {n + 1}: images/s {shown}, load {os.getloadavg()[0]:.1f}", flush=True)
        for worker in {id(w): w for way in workers.values() for w in way}.values():
            worker.send(0)
    return [
        _compare("parts_of_processes", rounds, PARTS, PROCESSES),
        _compare("whole_of_processes", rounds, WHOLE, PROCESSES),
        _compare("parts_of_single", rounds, PARTS, SINGLE),
        _compare("whole_of_single", rounds, WHOLE, SINGLE),
        *(_compare_cost(rounds, way) for way in (PARTS, WHOLE, PROCESSES)),
    ]


def _compare(name: str, rounds: Sequence[Mapping[str, Rate]], ours: str, theirs: str) -> Record:
    ratios = sorted(each[ours].images / each[theirs].images for each in rounds)
    low, high = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
    mine, others = (median(each[way].images for each in rounds) for way in (ours, theirs))
    note = f"{theirs}; the middle half of {len(rounds)} rounds: {low:.2f} to {high:.2f}"
    return Record(name, mine, others, median(ratios), "images/s", note)


def _compare_cost(rounds: Sequence[Mapping[str, Rate]], way: str) -> Record:
    ours, theirs = (1e3 * median(each[w].cost for each in rounds) for w in (way, SINGLE))
    ratio = median(each[SINGLE].cost / each[way].cost for each in rounds)
    return Record(f"processor_time_{way}", ours, theirs, ratio, "ms/image", SINGLE)


def _measure(workers: Sequence[Connection], steps: int) -> Rate:
    """Let workers take steps side by side, and return what all of them did."""
    for worker in workers:
        worker.send(steps)
    rates: list[Rate] = [worker.recv() for worker in workers]
    return Rate(sum(r.images for r in rates), sum(r.cost for r in rates) / len(rates))


def _start(
    folder: str, options: Sequence[str], name: str, threads: int, cores: int, splits: bool
) -> Connection:
    """Start a process that trains, and return the connection to it."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    settings = [f"outputs={folder}/{name}", f"runtime.workers={cores}", "train.loggers=[]",
                *options]  # fmt: skip
    context.Process(target=_work, args=(theirs, settings, threads, splits), daemon=True).start()
    return ours


def _work(connection: Connection, options: Sequence[str], threads: int, splits: bool) -> None:
    """Take as many steps of a training as the connection asks for, until it asks for none."""
    import torch

    from pipeline.model import batch_parts
    from pipeline.stages.train import loop

    def serve(training: loop.Training) -> None:
        training.network.train()
        batches = _iterate_steps(training.images)
        while steps := connection.recv():
            wall, cost, images = time.perf_counter(), time.process_time(), 0
            for parts in islice(batches, steps):
                training.take_step(parts)
                images += sum(len(part.labels) for part in parts)
            seconds, used = time.perf_counter() - wall, time.process_time() - cost
            connection.send(Rate(images / seconds, used / images))
        raise SystemExit

    torch.set_num_threads(threads)
    if not splits:
        batch_parts.MAX_PARTS = 1
    loop.Training.run = serve  # type: ignore[method-assign, assignment]
    compose("cam", *options).get_or_create("train")


def _iterate_steps(images: TrainingImages) -> Iterator[list[Part]]:
    """Yield the steps of one epoch after the other."""
    for epoch in count():
        yield from images.iterate_steps(epoch, 0)
