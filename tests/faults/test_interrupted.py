"""Ctrl-C at any moment: words within a second, an end within five, no traceback of anybody."""

from __future__ import annotations

import random
import shutil
import signal
from pathlib import Path

import pytest

from pipeline.engine import interrupt
from pipeline.engine.early_interrupt import EXIT_CODE, STOPPED
from pipeline.engine.inventory import is_locked
from pipeline.engine.store import is_temporary
from tests.faults.conftest import Undisturbed
from tests.faults.processes import Process, complete, read_files, start

ANSWERED, ENDED = 1.0, 5.0  # seconds
LIBRARIES = 2.0  # seconds for which the system may load torch, and nothing else runs
WORDS = {interrupt.ANSWER, STOPPED, interrupt.STOPPED_AT_ONCE}
TITLES = ("train", "pseudo-labels", "first head", "object views", "explain", "localize", "export",
          "annotate", "report")  # fmt: skip


def check(process: Process, answered: float = ANSWERED) -> None:
    """What a person sees, and when."""
    code = process.wait(120)
    struck = process.struck
    if struck is None:
        assert code == 0, process.printed
        return
    words = [line.removeprefix("label2box: ") for _, line in process.errors if line]
    assert set(words) <= WORDS, process.printed
    assert len(words) == len(set(words)) > 0, "words, each once"
    assert code == EXIT_CODE
    first, end = process.errors[0][0] - struck, process.ended - struck
    print(f"answered after {first:.2f} s, ended after {end:.2f} s")
    assert first <= answered
    assert end <= ENDED


@pytest.mark.parametrize("delay", [0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.4, 3.2])
def test_at_the_start(delay: float, undisturbed: Undisturbed, tmp_path: Path) -> None:
    plan = {"titles": ["start"], "delay": delay, "signal": signal.SIGINT}
    command = [*undisturbed.command, f"outputs={tmp_path / 'outputs'}"]
    check(start(tmp_path / "events", command, plan), answered=LIBRARIES)


def test_in_each_stage_once_and_twice(undisturbed: Undisturbed, tmp_path: Path) -> None:
    """Each goes on from where the one before was stopped."""
    outputs, moments = tmp_path / "outputs", random.Random(0)
    command = [*undisturbed.command, f"outputs={outputs}"]
    for n, title in enumerate(TITLES):
        plan = {"titles": TITLES[n:], "delay": moments.uniform(0, 0.6), "signal": signal.SIGINT}
        process = start(tmp_path / f"{n}", command, {**plan, "again": 0.05 if n % 2 else None})
        print(f"\n{title}: ", end="")
        check(process)
        left = [path for path in outputs.rglob("*") if is_temporary(path.name)]
        assert n % 2 or not left, "nothing half-written where it stopped by itself"
        assert not any(is_locked(path.parent) for path in outputs.rglob(".lock"))
    complete(tmp_path / "last", command)
    name = "predictions.json"
    assert read_files(outputs)[name] == read_files(undisturbed.outputs)[name]


@pytest.mark.parametrize("title", ["pseudo-labels", "explain"])
def test_while_threads_compute_long(title: str, undisturbed: Undisturbed, tmp_path: Path) -> None:
    """A batch takes longer than a person waits; OpenCV and BLAS have threads of their own."""
    outputs = tmp_path / "outputs"
    shutil.copytree(undisturbed.outputs, outputs, symlinks=True)
    stages = ("explain",) if title == "explain" else ("pseudo_labels", "refine")
    for stage in ("runs", *stages):
        shutil.rmtree(outputs / stage)
    plan = {"titles": [title], "delay": 1.0, "signal": signal.SIGINT, "slow": {title: 1.0}}
    check(start(tmp_path / "events", [*undisturbed.command, f"outputs={outputs}"], plan))


@pytest.mark.parametrize("delay", [5.0, 7.0, 9.0, 20.0])
def test_several_processes(delay: float, undisturbed: Undisturbed, tmp_path: Path) -> None:
    """While they start, and while they work."""
    plan = {"titles": ["start"], "delay": delay, "signal": signal.SIGINT}
    command = [*undisturbed.command, "runtime.devices=2", "train.epochs=20000"]
    check(start(tmp_path / "events", [*command, f"outputs={tmp_path / 'outputs'}"], plan))
