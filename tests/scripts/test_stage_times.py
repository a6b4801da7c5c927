"""Times of the parts of a process: they add up, and what lies within a part is of that part."""

from __future__ import annotations

import time

import pytest

from scripts.measure.speed_main_job import _table
from scripts.measure.stage_times import Times


class Job:
    def outer(self, name: str) -> str:
        return self.inner(name) + name

    def inner(self, name: str) -> str:
        if name == "refused":
            raise ValueError(name)
        return name


def test_only_outermost_calls_are_parts_and_parts_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Job, "outer", Job.outer)  # so that they are restored
    monkeypatch.setattr(Job, "inner", Job.inner)
    started = time.time()
    times = Times(started)
    times.watch(Job, "outer", lambda given: f"outer {given[1]}")
    times.watch(Job, "inner", lambda _: "inner")
    assert Job().outer("a") == "aa"
    assert Job().inner("b") == "b"
    times.end_part("rest")
    assert list(times.parts) == ["between", "outer a", "inner", "rest"]
    assert sum(wall for wall, _ in times.parts.values()) == pytest.approx(
        time.time() - started, abs=0.5
    )


def test_a_call_that_fails_ends_its_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Job, "inner", Job.inner)
    times = Times(time.time())
    times.watch(Job, "inner", lambda _: "inner")
    with pytest.raises(ValueError, match="refused"):
        Job().inner("refused")
    assert Job().inner("a") == "a"
    assert set(times.parts) == {"between", "inner"}


def test_the_table_has_a_column_for_each_time_of_each_run() -> None:
    runs = {
        "first": {"start": [2.0, 1.0], "all": [5.0, 4.0]},
        "again": {"start": [1.0, 0.5], "all": [1.5, 0.75]},
    }
    lines = _table(runs, (30.0, 40.0)).splitlines()
    assert [line.split()[-4:] for line in lines[1:3]] == [
        ["1.00", "2.00", "0.50", "1.00"],
        ["4.00", "5.00", "0.75", "1.50"],
    ]
    assert lines[3].split() == ["bare", "steps", "40.00", "30.00"]
