"""Which worker gets which job: failures, slow workers, and what is computed twice."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Iterator

from pipeline.runner.schedule import TRIES, Schedule
from pipeline.types.jobs import Job


def jobs(count: int, size: int = 16) -> list[Job]:
    return [Job(n, n * size, (n + 1) * size, 4) for n in range(count)]


def test_each_job_is_finished_once() -> None:
    schedule, given = Schedule(jobs(3)), []
    while (job := schedule.give("a", 0.0)) is not None:
        given.append(job)
        assert schedule.finish(job, "a", 1.0)
        assert not schedule.finish(job, "a", 1.0), "a second result does not count"
    assert given == jobs(3)
    assert schedule.is_finished
    assert schedule.finished == 3


def test_a_failed_job_is_given_again_first() -> None:
    schedule = Schedule(jobs(2))
    first = schedule.give("a", 0.0)
    assert first is not None
    failed = schedule.fail(first, "a", "its worker has died")
    assert failed is not None
    assert failed.set_aside is None
    assert failed.line == "shard 0, positions 0 to 15: its worker has died; tried again (2 of 3)"
    assert schedule.give("b", 1.0) == first


def test_too_little_memory_makes_the_pieces_smaller() -> None:
    schedule = Schedule(jobs(1))
    pieces = []
    for _ in range(TRIES):
        job = schedule.give("a", 0.0)
        assert job is not None
        pieces.append(job.piece)
        failed = schedule.fail(job, "a", "its worker ran out of memory", is_memory=True)
    assert pieces == [4, 2, 1]
    assert failed is not None
    assert "in halves" in failed.line


def test_the_image_that_a_shard_fails_on_is_found_and_set_aside() -> None:
    """Whatever its place; all other images of the shard are computed, once."""
    for bad in (0, 5, 15):
        schedule, computed, aside = Schedule(jobs(1)), Counter[int](), []
        deaths = 0
        while (job := schedule.give("a", 0.0)) is not None:
            if job.start <= bad < job.stop:
                deaths += 1
                failed = schedule.fail(job, "a", "its worker has died")
                assert failed is not None
                if failed.set_aside:
                    aside.append((job, failed.set_aside))
            else:
                assert schedule.finish(job, "a", 1.0)
                computed.update(range(job.start, job.stop))
        assert schedule.is_finished
        assert [job.start for job, _ in aside] == [bad]
        assert aside[0][1] == "computing it failed 3 times: its worker has died"
        assert computed == Counter(set(range(16)) - {bad})
        # The shard, three sizes of halves, and the image; once more where nothing else was there.
        assert deaths == TRIES + 3 + TRIES * (2 if bad == 0 else 1)


def test_nothing_is_set_aside_where_nothing_can_be_computed() -> None:
    """As where a package is missing in all workers."""
    for count in (1, 40):
        schedule, failed = Schedule(jobs(count)), None
        while (job := schedule.give("a", 0.0)) is not None:
            failed = schedule.fail(job, "a", "its worker has died")
            assert failed is not None
            assert failed.set_aside is None
            if failed.is_hopeless:
                break
        assert failed is not None
        assert failed.is_hopeless


def test_jobs_are_taken_when_they_may_begin() -> None:
    taken, room = [], [2]

    def stream() -> Iterator[Job]:
        for job in jobs(3):
            taken.append(job)
            room[0] -= 1
            yield job

    schedule = Schedule(stream(), lambda: room[0] > 0)
    first, second = schedule.give("a", 0.0), schedule.give("b", 0.0)
    assert [first, second] == jobs(2)
    assert schedule.give("c", 0.0) is None
    assert taken == jobs(2)
    assert not schedule.is_finished
    room[0] = 1
    assert schedule.give("c", 0.0) == jobs(3)[2]


def test_a_slow_worker_holds_the_end_no_longer_than_its_shard_takes_elsewhere() -> None:
    schedule = Schedule(jobs(3))
    slow = schedule.give("slow", 0.0)
    assert slow is not None
    for start in (0.0, 1.0):
        job = schedule.give("fast", start)
        assert job is not None
        schedule.finish(job, "fast", start + 1.0)
    assert schedule.give("fast", 1.4) is None, "not yet slow: jobs take 1.0"
    assert schedule.give("slow", 2.0) is None, "it has the job itself"
    assert schedule.give("fast", 2.0) == slow
    assert schedule.give("third", 9.0) is None, "two workers are enough"
    assert schedule.finish(slow, "fast", 3.0)
    assert schedule.is_finished
    assert not schedule.finish(slow, "slow", 50.0)


def test_a_copy_that_fails_is_no_failure_while_the_other_runs() -> None:
    schedule = Schedule(jobs(2))
    first = schedule.give("a", 0.0)
    second = schedule.give("b", 0.0)
    assert first is not None
    assert second is not None
    schedule.finish(second, "b", 1.0)
    assert schedule.give("b", 5.0) == first
    assert schedule.fail(first, "b", "its worker has died") is None
    assert schedule.fail(first, "a", "its worker has died") is not None
    assert schedule.give("b", 6.0) == first


def test_with_random_deaths_nothing_is_lost_and_nothing_double() -> None:
    """Workers die in a third of all jobs, and are ten times as slow in others."""
    for seed in range(20):
        chance, schedule = random.Random(seed), Schedule(jobs(40))
        clock, number, done = 0.0, 0, Counter[int]()
        events: list[tuple[float, int, str, Job]] = []
        idle = [f"worker {n}" for n in range(4)]
        while not schedule.is_finished:
            for worker in [*idle]:
                job = schedule.give(worker, clock)
                if job is not None:
                    idle.remove(worker)
                    number += 1
                    took = chance.choice([1.0, 1.0, 1.0, 10.0])
                    heapq.heappush(events, (clock + took, number, worker, job))
            if not events or (idle and events[0][0] > clock + 0.5):
                clock += 0.5
                continue
            clock, _, worker, job = heapq.heappop(events)
            idle.append(worker)
            if chance.random() < 0.33 and len(job) > 1:
                schedule.fail(job, worker, "its worker has died")
            elif schedule.finish(job, worker, clock):
                done.update(range(job.start, job.stop))
        assert done == Counter(range(40 * 16))
