"""Progress where stdout is no terminal: a line on what goes on, at an interval."""

from __future__ import annotations

import time

import pytest

from pipeline.engine import progress
from pipeline.engine.progress import Task, format_line, show_progress, show_stage


def test_the_rate_does_not_count_what_an_earlier_run_did() -> None:
    task = Task("explain", 1000, 500, "images", began=100.0)
    assert task.describe(110.0) == "500 of 1,000 images, after 10 s"
    task.advance(100)
    assert task.describe(110.0) == "600 of 1,000 images, 10/s, 40 s left"


def test_the_title_names_each_part_once() -> None:
    tasks = [Task("inspect"), Task("inspect: channels", 9, 0, "maps", began=0.0)]
    assert format_line(tasks, 60.0) == "inspect: channels 0 of 9 maps, after 60 s"
    assert format_line([Task("train", began=0.0)], 600.0) == (
        "train      still running, after 10 min"
    )


def test_lines_are_printed_at_an_interval(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.02)
    with show_stage("train"):
        with show_progress("check", 8) as advance:
            advance(3)
            lines = wait_for_lines(capsys)
        assert lines[0].startswith("train: check 3 of 8 images, ")
        assert lines[0].endswith(" left")
        while "still running" not in (lines := wait_for_lines(capsys))[-1]:
            pass
        assert lines[-1].startswith("train      still running, after ")
    capsys.readouterr()
    time.sleep(0.1)
    assert capsys.readouterr().out == "", "nothing once the stage has ended"


def wait_for_lines(capsys: pytest.CaptureFixture[str], seconds: float = 20) -> list[str]:
    """The lines that are printed next."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if lines := capsys.readouterr().out.splitlines():
            return lines
        time.sleep(0.01)
    raise AssertionError("no line was printed")


def test_what_ends_early_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with show_stage("draw"), show_progress("draw", 8) as advance:
        advance(8)
    assert capsys.readouterr().out == ""


def test_only_rank_0_prints(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.01)
    for name, value in (("RANK", 1), ("WORLD_SIZE", 2), ("LOCAL_RANK", 1), ("MASTER_ADDR", "::1")):
        monkeypatch.setenv(name, str(value))
    with show_stage("draw"):
        time.sleep(0.1)
    assert capsys.readouterr().out == ""
