"""A model of a large cluster in virtual time: the schedule of the runner, and measured costs.

Workers compute jobs for as long as shards take; the process of the run is one server that takes
each result, writes it and hands out the next job, for as long as that was measured to take, and has
a network card. Nothing of it waits: 10 million images take seconds.
"""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field

from pipeline.runner.schedule import Schedule
from pipeline.types.jobs import Job


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """What is simulated.

    Args:
        images: of the run.
        workers: GPUs, each a worker with two jobs at hand.
        rate: images a second of a GPU.
        shard: images of a job.
        driver_seconds: of the process of the run for each job.
        result_bytes: of a shard, which cross its network card; 0: workers write them.
        card: bytes a second of the network card.
        noise: the standard deviation of the logarithm of a job's time.
        slow: the share of workers that are `slow_times` slower.
        slow_times: how many times.
        lives: seconds that a worker lives on average; 0: for ever. Another starts after
            `restart` seconds.
        restart: seconds.
        seed: of the random numbers.
    """

    images: int
    workers: int
    rate: float
    shard: int = 256
    driver_seconds: float = 0.0
    result_bytes: float = 0.0
    card: float = 1.25e9
    noise: float = 0.1
    slow: float = 0.0
    slow_times: float = 3.0
    lives: float = 0.0
    restart: float = 30.0
    seed: int = 0


@dataclass
class Outcome:
    """What came of it.

    Attributes:
        seconds: until the last shard was there.
        efficiency: the time that all workers without any loss would take, over `seconds`.
        driver_busy: the share of the time in which the process of the run worked.
        tail: seconds in which no job was left to give, but jobs were still computed.
        lost: jobs that died with their workers.
        copies: jobs that were computed twice, as a worker was slow.
    """

    seconds: float = 0.0
    efficiency: float = 0.0
    driver_busy: float = 0.0
    tail: float = 0.0
    lost: int = 0
    copies: int = 0


@dataclass
class _State:
    """Events that are to come, and the worker of each."""

    events: list[tuple[float, int, int, Job | None]] = field(default_factory=list)
    number: int = 0

    def add(self, at: float, worker: int, job: Job | None) -> None:
        """Add an event: a worker ends a job, or (None) has started again."""
        self.number += 1
        heapq.heappush(self.events, (at, self.number, worker, job))


def simulate(cluster: Cluster) -> Outcome:
    """Return what comes of a run on a cluster.

    Args:
        cluster: what is simulated.
    """
    chance = random.Random(cluster.seed)
    count = -(-cluster.images // cluster.shard)
    jobs = (Job(n, n * cluster.shard, (n + 1) * cluster.shard, cluster.shard) for n in range(count))
    schedule, state, outcome = Schedule(jobs), _State(), Outcome()
    pace = [
        cluster.slow_times if n < cluster.slow * cluster.workers else 1.0
        for n in range(cluster.workers)
    ]
    free_at = [0.0] * cluster.workers
    at_driver = cluster.driver_seconds + cluster.result_bytes / cluster.card
    driver_free = busy = last_given = 0.0
    given = 0
    waiting = [n for n in range(cluster.workers) for _ in range(2)]  # two jobs at hand
    clock = 0.0
    while True:
        still = []
        for worker in waiting:
            job = schedule.give(worker, clock)
            if job is None:
                still.append(worker)
                continue
            given, last_given = given + 1, clock if given < count else last_given
            spread = chance.lognormvariate(0.0, cluster.noise)
            took = cluster.shard / cluster.rate * pace[worker] * spread
            free_at[worker] = max(free_at[worker], clock) + took
            state.add(free_at[worker], worker, job)
        waiting = still
        if schedule.is_finished:
            break
        at, _, worker, job = heapq.heappop(state.events)
        if waiting and schedule.finished and at > clock + 1.0:  # looks for slow jobs once a second
            state.add(at, worker, job)
            clock += 1.0
            continue
        clock = max(clock, at)
        if job is None:
            waiting += [worker] * 2
            continue
        if cluster.lives and chance.random() < cluster.shard / cluster.rate / cluster.lives:
            outcome.lost += schedule.fail(job, worker, "its worker has died") is not None
            free_at[worker] = clock + cluster.restart
            waiting.append(worker)
            continue
        driver_free = max(driver_free, clock) + at_driver
        busy += at_driver
        schedule.finish(job, worker, clock)
        clock = max(clock, driver_free - 1.0)  # answers wait for the process of the run
        waiting.append(worker)
    outcome.seconds = max(clock, driver_free)
    ideal = cluster.images / (cluster.rate * sum(1 / p for p in pace))
    outcome.efficiency = ideal / outcome.seconds
    outcome.driver_busy = busy / outcome.seconds
    outcome.tail = outcome.seconds - last_given
    outcome.copies = given - count - outcome.lost
    return outcome
