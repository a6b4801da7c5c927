"""How OpenMP's threads wait: passively where the command line starts and nobody said otherwise."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipeline.engine.passive_wait import OTHERS, VALUE, VARIABLE, wait_passively
from tests.conftest import ROOT, TINY

# What the command line does until it has imported torch, which loads OpenMP.
UNTIL_TORCH = """
import atexit, os, runpy, sys

def say():
    assert "torch" in sys.modules
    print("after:", os.environ.get("OMP_WAIT_POLICY"))

atexit.register(say)
runpy.run_module("pipeline", run_name="__main__", alter_sys=True)
"""


def start(code: str, *arguments: str, **given: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in an environment with no variable on waiting but those that are given."""
    kept = {name: value for name, value in os.environ.items() if name not in (VARIABLE, *OTHERS)}
    environment = {**kept, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **given}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True)


@pytest.mark.parametrize(("given", "expected"), [({}, "PASSIVE"), ({VARIABLE: "ACTIVE"}, "ACTIVE")])
def test_openmp_itself_reads_it(given: dict[str, str], expected: str, tmp_path: Path) -> None:
    """OMP_DISPLAY_ENV lets the library that torch has loaded print what it uses."""
    arguments = ("+experiment=cam", *TINY, "--cfg", "job", f"outputs={tmp_path / 'outputs'}")
    done = start(UNTIL_TORCH, *arguments, OMP_DISPLAY_ENV="TRUE", **given)
    assert f"after: {expected}" in done.stdout.splitlines()
    if "OpenMP" in torch.__config__.parallel_info():
        assert f"OMP_WAIT_POLICY = '{expected}'" in done.stderr


def test_a_library_import_sets_none() -> None:
    names = (VARIABLE, *OTHERS)
    start(
        "import os, pipeline; pipeline.methods(); import pipeline.__main__, torch; "
        f"assert not set({names!r}) & set(os.environ)"
    )


@pytest.fixture
def nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (VARIABLE, *OTHERS):
        monkeypatch.setenv(name, "")  # so that it is restored, whatever the test sets
        monkeypatch.delenv(name)


@pytest.mark.usefixtures("nothing_said")
def test_a_process_that_is_started_inherits_it() -> None:
    wait_passively()
    command = [sys.executable, "-c", f"import os; print(os.environ[{VARIABLE!r}])"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == VALUE


@pytest.mark.usefixtures("nothing_said")
@pytest.mark.parametrize("name", [VARIABLE, *OTHERS])
def test_what_the_user_set_stays(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "given")
    wait_passively()
    settings = {each: os.environ[each] for each in (VARIABLE, *OTHERS) if each in os.environ}
    assert settings == {name: "given"}
