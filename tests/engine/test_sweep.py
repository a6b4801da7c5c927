"""Sweeps on launchers: which can run, what jobs in other processes record, and the same runs."""

from __future__ import annotations

import errno
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from pipeline.__main__ import disk_message, go
from pipeline.engine import sweep
from pipeline.engine.inventory import is_locked
from pipeline.engine.launchers import check_launcher, chosen_launcher, is_sweep
from pipeline.engine.sweep import JobOutcome, Sweep
from pipeline.errors import FailedJob, RefusedRun, UserError
from tests.conftest import Cli

SWEEP = ("-m", "+experiment=cam", "data.images=32", "data.val_images=8", "train.epochs=1",
         "train.batch=16", "runtime.shard=8", "stages=[train,explain,localize]",
         "segmenter.threshold=0.3,2,0.5")  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["hydra/launcher=joblib"], "hydra/launcher=joblib: .* add -m"),
        (["-m", "hydra/launcher=joblib,ray"], "one launcher is expected"),
        (["-m", "hydra/launcher=ray", "runner=ray"], "leave one of them away"),
    ],
)
def test_a_launcher_that_cannot_run_is_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_launcher(arguments)


def test_a_launcher_that_is_not_installed_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    plugins = {"joblib": ("hydra_plugins.none", "launchers"), "ray": ("none.at_all", "ray")}
    monkeypatch.setattr("pipeline.engine.launchers.PLUGINS", plugins)
    for name, (_, extra) in plugins.items():
        with pytest.raises(UserError, match=rf"pip install 'label2box\[{extra}\]'"):
            check_launcher(["-m", f"hydra/launcher={name}"])


def test_torchrun_does_not_launch_a_sweep_in_each_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0",
                        "MASTER_ADDR": "127.0.0.1"}.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    check_launcher(["-m", "seed=1,2"])
    with pytest.raises(UserError, match="torchrun has started 2 processes"):
        check_launcher(["-m", "hydra/launcher=joblib", "seed=1,2"])


def test_which_launcher_a_command_chooses() -> None:
    assert chosen_launcher(["-m", "seed=1,2"]) == "basic"
    assert chosen_launcher(["hydra/launcher=joblib", "hydra/launcher=ray"]) == "ray"
    assert is_sweep(["hydra.mode=MULTIRUN"])
    assert not is_sweep(["hydra.mode=RUN"])


@pytest.fixture
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make_sweep(*arguments: str) -> Sweep:
    return Sweep(partial(go, show_only=False), disk_message, arguments)


def test_a_copy_in_another_process_knows_that_it_is_one(in_folder: Path) -> None:
    here = make_sweep("-m", "hydra/launcher=joblib", "outputs=mine", "seed=1,2")
    here.outcomes.append(JobOutcome(0, ["seed=1"]))
    assert here.place is not None
    assert here.place.parent == in_folder / "mine/.sweep"
    copy = pickle.loads(pickle.dumps(here))
    assert (copy.is_copy, copy.outcomes, copy.place) == (True, [], here.place)
    assert (here.is_copy, len(here.outcomes)) == (False, 1)
    assert make_sweep("-m", "seed=1,2").place is None


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (UserError("threshold=2: from 0 to 1"), UserError, "threshold=2: from 0 to 1"),
        (RefusedRun("the data set has faults"), RefusedRun, "the data set has faults"),
        (OSError(errno.ENOSPC, "full", "/disk/file"), UserError, "/disk/file: the disk is full"),
        (KeyError("nothing"), FailedJob, "KeyError: 'nothing'; the traceback is in its log"),
    ],
)
def test_an_error_comes_back_with_its_message_and_its_kind(
    error: Exception, kind: type[Exception], message: str
) -> None:
    outcome = JobOutcome(3, ["seed=1"], error=error)
    record = json.loads(json.dumps(sweep._record_outcome(outcome, disk_message)))
    back = sweep._read_outcome({"number": 3, "overrides": ["seed=1"], "seconds": 1.0, **record},
                               Path("3.log"), None)  # fmt: skip
    assert type(back.error) is kind
    assert str(back.error).startswith(message)


def test_a_job_that_was_killed_is_named_with_its_log(in_folder: Path) -> None:
    arguments = ("-m", "hydra/launcher=joblib", "seed=1,2")
    here = make_sweep(*arguments)
    assert here.place is not None
    begun = {"number": 1, "overrides": ["seed=2"], "begun": 0.0, "host": "node7", "pid": 4321}
    with here.follow():
        (here.place / "1.json").write_text(json.dumps(begun))
        raise RuntimeError("a worker was terminated\nand more")
    with pytest.raises(FailedJob, match="seed=2: its process 4321 on node7 ended") as failure:
        here.finish()
    assert str(here.place / "1.log") in str(failure.value)
    assert "a worker was terminated" in str(failure.value)
    assert here.place.is_dir(), "logs of a failed sweep are kept"
    assert not is_locked(here.place)


def test_a_sweep_that_goes_on_is_locked(in_folder: Path) -> None:
    here = make_sweep("-m", "hydra/launcher=joblib", "seed=1,2")
    assert here.place is not None
    with here.follow():
        assert is_locked(here.place), "`clean` keeps it"
    assert not here.place.exists() or not is_locked(here.place)


def test_a_launcher_that_fails_without_a_job_says_why(in_folder: Path) -> None:
    for error, kind in ((RuntimeError("no queue"), FailedJob), (UserError("no queue"), UserError)):
        here = make_sweep("-m", "hydra/launcher=ray")
        with here.follow():
            raise error
        with pytest.raises(kind, match="no queue"):
            here.finish()


def test_a_failed_job_is_named_in_one_process_too(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(*SWEEP) == 2
    error = capsys.readouterr().err
    assert "label2box: segmenter.threshold=2: " in error
    assert "jobs that were not run after it: 1" in error
    assert len(list((tmp_path / "outputs/runs/cam").iterdir())) == 1


def test_what_a_job_and_its_processes_print_is_in_its_log(tmp_path: Path) -> None:
    print_twice = (
        "import os, sys; from pathlib import Path; from pipeline.engine.sweep import _log_to\n"
        "print('before', flush=True)\n"
        "with _log_to(Path(sys.argv[1])):\n"
        "    print('in it'); os.system('echo by another process')\n"
        "    print('an error', file=sys.stderr)\n"
        "print('after')\n"
    )
    done = subprocess.run([sys.executable, "-c", print_twice, str(tmp_path / "0.log")], check=True,
                          capture_output=True, text=True)  # fmt: skip
    assert done.stdout == "before\nafter\n"
    log = (tmp_path / "0.log").read_text().splitlines()
    assert sorted(log) == ["an error", "by another process", "in it"]


def close_joblib() -> None:
    from joblib.externals.loky import get_reusable_executor

    get_reusable_executor().shutdown(wait=True, kill_workers=True)


LAUNCHERS = [
    ("joblib", ["hydra.launcher.n_jobs=3"], "hydra_plugins.hydra_joblib_launcher", close_joblib),
    ("submitit_local", [], "hydra_plugins.hydra_submitit_launcher", None),
    ("ray", ["hydra.launcher.cpus=0.1"], "ray", None),
]


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """The boxes of both jobs that can run, by Hydra's basic launcher."""
    folder = tmp_path_factory.mktemp("basic")
    command = [sys.executable, "-m", "pipeline", *SWEEP[:-1], "segmenter.threshold=0.3,0.5"]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return sorted(path.read_bytes() for path in folder.glob("outputs/runs/cam/*/boxes.json"))


@pytest.mark.parametrize(
    ("name", "options", "module", "close"), LAUNCHERS, ids=[each[0] for each in LAUNCHERS]
)
def test_a_launcher_gives_the_same_runs(
    name: str, options: list[str], module: str, close: Callable[[], None] | None,
    cli: Cli, tmp_path: Path, boxes: list[bytes],
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Train is made once while the others wait; a failed job is named, and the others are kept."""
    pytest.importorskip(module, reason=f"{module} is not installed")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    assert cli(*SWEEP, f"hydra/launcher={name}", *options) == 2
    if close is not None:
        close()
    output, error = capfd.readouterr()
    assert "label2box: segmenter.threshold=2: " in error
    assert "failed     segmenter.threshold=2 " in output
    rows = output.rstrip().split("\n")[-3:]
    assert rows[0].startswith("percent ")
    assert [row.split()[0] for row in rows[1:]] == [
        "segmenter.threshold=0.3", "segmenter.threshold=0.5"
    ]  # fmt: skip
    outputs = tmp_path / "outputs"
    runs = [Path(row.split()[-1]) for row in rows[1:]]
    assert sorted((tmp_path / run / "boxes.json").read_bytes() for run in runs) == boxes
    assert (outputs / "latest").resolve() == (tmp_path / runs[-1]).resolve()
    assert len([path for path in (outputs / "train").iterdir() if (path / "DONE").is_file()]) == 1
    logs = "".join(path.read_text() for path in outputs.glob(".sweep/*/*.log"))
    assert logs.count("train      made") == 1
    assert logs.count("train      kept") == 1
    assert logs.count("explain    made") == 1
