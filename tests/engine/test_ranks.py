"""Two processes do what one does: gloo on the CPU, spawned by a stage or started by torchrun."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipeline.__main__ import main
from pipeline.engine import ranks
from pipeline.errors import UserError
from pipeline.formats.files import read_json, write_text
from pipeline.stages.train import loop
from tests.conftest import ROOT, TINY, Cli

RUN = ("+experiment=cam", *TINY, "stages=[train,explain,localize]", "precision=float32",
       "train.batch=15", "train.accumulate=2", "train.ema=0.9")  # fmt: skip

SPAWNED = (*RUN, "stages=[train]", "runtime.devices=2")


def as_torchrun(rank: int, port: int) -> dict[str, str]:
    """What torchrun sets for one of two processes."""
    return {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
            "GROUP_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}  # fmt: skip


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The training of two processes that the stage spawned."""
    folder = tmp_path_factory.mktemp("two")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["pipeline", *SPAWNED])
        main()
    (trained,) = (folder / "outputs/train").iterdir()
    return trained


def test_two_processes_learn_what_one_does(cli: Cli, tmp_path: Path, two: Path) -> None:
    assert cli(*RUN, "stages=[train]") == 0
    (single,) = (tmp_path / "outputs/train").iterdir()
    assert single.name == two.name, "how work is spread is in no name"
    alone, together = (load_file(folder / "weights.safetensors") for folder in (single, two))
    for name, tensor in alone.items():
        torch.testing.assert_close(together[name], tensor, rtol=1e-3, atol=1e-4)
    assert [path.name for path in two.rglob("metrics.csv")] == ["metrics.csv"], "one of them logs"


def test_torchrun_gives_the_boxes_of_one_process(cli: Cli, tmp_path: Path) -> None:
    """The program itself: two processes train, explain and localize, and rank 0 speaks."""
    assert cli(*RUN) == 0
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
               "-m", "pipeline", *RUN, "outputs=two"]  # fmt: skip
    process = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("train      made") == 1, process.stdout
    assert len(list((tmp_path / "two/runs/cam").iterdir())) == 1, "one run folder"
    single, two = (
        json.loads((tmp_path / name / "latest/boxes.json").read_text())
        for name in ("outputs", "two")
    )
    assert [box["image_id"] for box in single] == [box["image_id"] for box in two]
    for alone, together in zip(single, two, strict=True):
        assert together["category_id"] == alone["category_id"]
        assert together["bbox"] == pytest.approx(alone["bbox"], abs=1.0), alone["image_id"]
    (explained,) = (tmp_path / "two/explain").iterdir()
    assert len(list(explained.glob("shard-*"))) == 3


# `python -m pipeline`, whose training stops for good before a step; as spawned processes import it
# anew, in each of them.
STOPS = """
import os, sys, time
from pathlib import Path
from pipeline.engine import saved_state
from pipeline.stages.train import loop

saved_state.SAVE_SECONDS, saved_state.SAVE_SHARE = 0.0, 1e9  # a state after every step
real = loop.lr_factor

def rate(step, *others):
    if step == 1:
        Path(f"stopped-{os.getpid()}").touch()
        time.sleep(600)
    return real(step, *others)

loop.lr_factor = rate
if __name__ == "__main__":
    from pipeline.__main__ import main
    main()
"""


def test_killed_in_an_epoch_two_processes_go_on_to_the_same_weights(
    cli: Cli, tmp_path: Path, two: Path
) -> None:
    (tmp_path / "stops.py").write_text(STOPS)
    victim = subprocess.Popen(
        [sys.executable, "stops.py", *SPAWNED],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    stopped = _until(lambda: len(list(tmp_path.glob("stopped-*"))) == 2, 120)
    victim.kill()
    victim.wait()
    assert stopped, "both came to the second step"
    ranks_of_it = [int(path.name.partition("-")[2]) for path in tmp_path.glob("stopped-*")]
    assert _until(lambda: not any(map(_runs, ranks_of_it)), 30), "they end with whom they work for"
    (resumed,) = (tmp_path / "outputs/train").iterdir()
    state = torch.load(resumed / loop.STATE, weights_only=True)
    assert (state["step"], state["history"]) == (1, []), "its first epoch is not over"
    assert cli(*SPAWNED) == 0
    unbroken, again = (load_file(folder / "weights.safetensors") for folder in (two, resumed))
    for name, tensor in unbroken.items():
        torch.testing.assert_close(again[name], tensor, rtol=0, atol=0)
    assert read_json(resumed / "history.json") == read_json(two / "history.json")


def _until(true: Callable[[], bool], seconds: float) -> bool:
    """Whether it became true in that time."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")  # one that ended waits there for whoever fetches its code
    return not (status.is_file() and ") Z " in status.read_text())


@pytest.fixture
def second(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process as the second of two."""
    for name, value in as_torchrun(1, 1).items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("second")
def test_each_takes_its_part_and_one_alone_takes_all() -> None:
    assert list(ranks.shard_for_rank(range(5))) == [1, 3]
    with ranks.single_process():
        assert list(ranks.shard_for_rank(range(5))) == [0, 1, 2, 3, 4]
        assert ranks.all_reduce_sum([2.0]) == [2.0]
    assert ranks.current_world() == ranks.World(1, 2, 1, 2)


def test_one_process_waits_for_nobody() -> None:
    assert ranks.current_world() == ranks.World()
    assert ranks.all_reduce_sum([1.0, 2.0]) == [1.0, 2.0]
    assert ranks.broadcast_flag(True)
    assert not ranks.broadcast_flag(False)
    ranks.barrier()


def _fail_in_one(folder: Path) -> None:
    if ranks.current_world().rank == 1:
        raise UserError("train: no image could be read")
    write_text(folder / f"{ranks.current_world().rank}", str(os.getpid()))
    time.sleep(600)


def _gather(folder: Path) -> None:
    values = ranks.all_gather({ranks.current_world().rank: "read"})
    write_text(folder / f"{ranks.current_world().rank}", json.dumps(values))


def test_all_get_what_each_has(tmp_path: Path) -> None:
    assert ranks.all_gather("alone") == ["alone"]
    ranks.spawn_ranks(2, _gather, tmp_path)
    for rank in "01":
        assert read_json(tmp_path / rank) == [{"0": "read"}, {"1": "read"}]


def test_what_goes_wrong_in_one_ends_all_with_its_words(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no image could be read"):
        ranks.spawn_ranks(2, _fail_in_one, tmp_path)
    for path in tmp_path.iterdir():
        with pytest.raises(ProcessLookupError):
            os.kill(int(path.read_text()), 0)


def settings(devices: int = 1, device: str = "auto") -> dict[str, object]:
    return {"devices": devices, "device": device}


@pytest.mark.usefixtures("second")
def test_torchrun_and_devices_are_not_both() -> None:
    with pytest.raises(UserError, match=r"torchrun starts the processes itself, 2 of them"):
        ranks.check_devices(settings(2), torch.device("cpu"))
    ranks.check_devices(settings(), torch.device("cpu"))


def test_devices_that_are_not_there_or_cannot_be_shared() -> None:
    ranks.check_devices(settings(2), torch.device("cpu"))
    with pytest.raises(UserError, match=r"runtime.device=cuda:0: 2 processes cannot share it"):
        ranks.check_devices(settings(2, "cuda:0"), torch.device("cuda:0"))
    if torch.cuda.device_count() < 99:
        with pytest.raises(UserError, match="this machine shows"):
            ranks.check_devices(settings(99, "cuda"), torch.device("cuda"))


def test_wrong_numbers_of_devices_are_refused(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(*RUN, "runtime.devices=0") == 2
    assert "runtime.devices=0: expected a number from 1" in capsys.readouterr().err
