"""Two processes do what one does: gloo on the CPU, spawned by a stage or started by torchrun."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipeline import ranks, store
from pipeline.records import Problem
from tests.conftest import ROOT, TINY, Cli

RUN = ("+experiment=cam", *TINY, "stages=[train,explain,localize]", "precision=float32",
       "train.batch=15", "train.accumulate=2", "train.ema=0.9")  # fmt: skip


def as_torchrun(rank: int, port: int) -> dict[str, str]:
    """What torchrun sets for one of two processes."""
    return {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
            "GROUP_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}  # fmt: skip


def test_two_processes_train_explain_and_localize_as_one(cli: Cli, tmp_path: Path) -> None:
    """Trained by two that the stage spawns, explained and localized by two that torchrun starts."""
    assert cli(*RUN) == 0
    assert cli(*RUN, "stages=[train]", "runtime.devices=2", "outputs=two") == 0
    (one,), (two,) = ((tmp_path / name / "train").iterdir() for name in ("outputs", "two"))
    assert one.name == two.name, "how work is spread is in no name"
    alone, together = (load_file(folder / "weights.safetensors") for folder in (one, two))
    for name, tensor in alone.items():
        torch.testing.assert_close(together[name], tensor, rtol=1e-3, atol=1e-4)
    assert [path.name for path in two.rglob("metrics.csv")] == ["metrics.csv"], "one of them logs"

    port = ranks._free_port()
    command = [sys.executable, "-m", "pipeline", *RUN, "outputs=two"]
    started = [
        subprocess.Popen(
            command,
            cwd=tmp_path,
            env={**os.environ, **as_torchrun(rank, port), "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    told = [process.communicate(timeout=240) for process in started]
    assert [process.returncode for process in started] == [0, 0], told
    assert "train      kept" in told[0][0]
    assert told[1][0] == "", "rank 0 speaks for both"
    assert len(list((tmp_path / "two/runs/cam").iterdir())) == 2, "and lays out the run folder"
    boxes = [
        json.loads((tmp_path / name / "latest/boxes.json").read_text())
        for name in ("outputs", "two")
    ]
    assert [box["image_id"] for box in boxes[0]] == [box["image_id"] for box in boxes[1]]
    (explained,) = (tmp_path / "two/explain").iterdir()
    assert len(list(explained.glob("shard-*"))) == 3


@pytest.fixture
def second(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process as the second of two."""
    for name, value in as_torchrun(1, 1).items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("second")
def test_each_takes_its_part_and_one_alone_takes_all() -> None:
    assert list(ranks.mine(range(5))) == [1, 3]
    with ranks.alone():
        assert list(ranks.mine(range(5))) == [0, 1, 2, 3, 4]
        assert ranks.total([2.0]) == [2.0]
    assert ranks.world() == ranks.World(1, 2, 1, 2)


def test_one_process_waits_for_nobody() -> None:
    assert ranks.world() == ranks.World()
    assert ranks.total([1.0, 2.0]) == [1.0, 2.0]
    assert ranks.agreed(True)
    assert not ranks.agreed(False)
    ranks.barrier()


def _fail_in_one(folder: Path) -> None:
    if ranks.world().rank == 1:
        raise Problem("train: no image could be read")
    store.write_text(folder / f"{ranks.world().rank}", str(os.getpid()))
    time.sleep(600)


def test_what_goes_wrong_in_one_ends_all_with_its_words(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="no image could be read"):
        ranks.spawn(2, _fail_in_one, tmp_path)
    for path in tmp_path.iterdir():
        with pytest.raises(ProcessLookupError):
            os.kill(int(path.read_text()), 0)


def settings(devices: int = 1, device: str = "auto") -> dict[str, object]:
    return {"devices": devices, "device": device}


@pytest.mark.usefixtures("second")
def test_torchrun_and_devices_are_not_both() -> None:
    with pytest.raises(Problem, match=r"torchrun starts the processes itself, 2 of them"):
        ranks.check(settings(2), torch.device("cpu"))
    ranks.check(settings(), torch.device("cpu"))


def test_devices_that_are_not_there_or_cannot_be_shared() -> None:
    ranks.check(settings(2), torch.device("cpu"))
    with pytest.raises(Problem, match=r"runtime.device=cuda:0: 2 processes cannot share it"):
        ranks.check(settings(2, "cuda:0"), torch.device("cuda:0"))
    if torch.cuda.device_count() < 99:
        with pytest.raises(Problem, match="this machine shows"):
            ranks.check(settings(99, "cuda"), torch.device("cuda"))


def test_wrong_numbers_of_devices_are_refused(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(*RUN, "runtime.devices=0") == 2
    assert "runtime.devices=0: expected a number from 1" in capsys.readouterr().err
