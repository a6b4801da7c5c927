"""Ctrl-C: an answer at once, an end soon, at the second one an end at once; nothing is damaged."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from pipeline.engine import interrupt
from pipeline.engine.early_interrupt import EXIT_CODE, STOPPED
from pipeline.engine.inventory import is_locked
from pipeline.engine.store import is_temporary
from tests.conftest import ROOT, TINY

# A process whose main thread has long work to end when it is interrupted.
BUSY = """
import time
from pipeline.engine import interrupt
from pipeline.engine.interrupt import handle_interrupts

interrupt.at_forced_end.append(lambda: print("forgotten", flush=True))
with handle_interrupts():
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        time.sleep(60)
"""
LOADED = 20.0  # seconds that a busy machine may need for what takes less than one


def start(arguments: Sequence[str], ready: str) -> subprocess.Popen[str]:
    """Start Python, and return once it has printed a line."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-u", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env=environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if ready in line:
            return process
    raise AssertionError(f"{ready!r} was not printed: {process.communicate()[1]}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_does_not_stop_is_ended_in_time(number: signal.Signals) -> None:
    with start(["-c", BUSY], "ready") as process:
        began = time.monotonic()
        process.send_signal(number)
        out, err = process.communicate(timeout=interrupt.SECONDS_TO_STOP + LOADED)
        took = time.monotonic() - began
    assert process.returncode == EXIT_CODE == 130
    assert took > interrupt.SECONDS_TO_STOP - 0.5
    assert err.splitlines() == [f"label2box: {text}" for text in (interrupt.ANSWER,
                                                                  STOPPED)]  # fmt: skip
    assert out == "forgotten\n"


def test_the_second_signal_ends_at_once() -> None:
    code = f"from pipeline.engine import interrupt\ninterrupt.SECONDS_TO_STOP = 50\n{BUSY}"
    with start(["-c", code], "ready") as process:
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert interrupt.ANSWER in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=LOADED)
    assert process.returncode == 130
    assert err == f"label2box: {interrupt.STOPPED_AT_ONCE}\n"


def test_handlers_are_restored_and_an_ignored_signal_stays_ignored(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interrupt, "SECONDS_TO_STOP", 600)  # this process is not to be ended
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    terminate = signal.getsignal(signal.SIGTERM)
    try:
        with interrupt.handle_interrupts():
            assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
            signal.raise_signal(signal.SIGINT)
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGTERM)
            until, err = time.monotonic() + LOADED, ""
            while interrupt.ANSWER not in err and time.monotonic() < until:
                time.sleep(0.01)
                err += capsys.readouterr().err
        assert err == f"label2box: {interrupt.ANSWER}\n", "to SIGTERM alone"
        assert signal.getsignal(signal.SIGTERM) == terminate
    finally:
        signal.signal(signal.SIGINT, before)


# Ctrl-C while a module is imported, when everything else has been.
AT_AN_IMPORT = """
import os, runpy, signal, sys

class Finder:
    def find_spec(self, name, *others):
        if name == os.environ["AT"]:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder())
runpy.run_module("pipeline", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("module", ["multiprocessing", "yaml", "omegaconf", "torch.nn"])
def test_while_it_imports_it_stops_in_words(module: str, tmp_path: Path) -> None:
    if module == "multiprocessing" and "COVERAGE_PROCESS_CONFIG" in os.environ:
        pytest.skip("coverage imports it first")
    command = [sys.executable, "-c", AT_AN_IMPORT, "+experiment=cam", *TINY,
               f"outputs={tmp_path}"]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "AT": module}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert done.returncode == EXIT_CODE
    words = [line.removeprefix("label2box: ") for line in done.stderr.splitlines()]
    assert words in ([STOPPED], [interrupt.ANSWER, STOPPED])


def test_a_run_stops_cleanly_and_goes_on(tmp_path: Path) -> None:
    """In the middle of training, without waiting for its end."""
    arguments = ["-m", "pipeline", "+experiment=cam", *TINY, "train.epochs=3000",
                 "stages=[train]", f"outputs={tmp_path / 'outputs'}"]  # fmt: skip
    with start(arguments, "train: scratch") as process:
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=interrupt.SECONDS_TO_STOP + LOADED)
    assert process.returncode == 130
    words = [line.removeprefix("label2box: ") for line in err.splitlines()]
    # On busy cores it may have stopped before its thread gets to answer.
    assert words in ([STOPPED], [interrupt.ANSWER, STOPPED])
    (result,) = (tmp_path / "outputs/train").iterdir()
    assert not is_locked(result)
    assert not [path for path in result.rglob("*") if is_temporary(path.name)]
    assert not list((tmp_path / "outputs/runs/cam").iterdir()), "there is no result to link to"
