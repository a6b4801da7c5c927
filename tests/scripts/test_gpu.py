"""./scripts/gpu: rows are written as they are measured, and what is not measured has a reason."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from scripts.measure import gpu, gpu_rows, timing
from scripts.measure.generated import write_photographs
from scripts.measure.gpu_rows import Measured, Rows, Setting, Skip, measure_all
from tests.conftest import ROOT

CPU = torch.device("cpu")


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def rows(folder: Path, is_rehearsal: bool = False) -> Rows:
    setting = Setting(device=CPU, is_rehearsal=is_rehearsal, folder=folder)
    return Rows(folder / "out" / "check.jsonl", "check", setting)


def measure_good(setting: Setting) -> Iterator[Measured]:
    yield Measured(name="first", value=1.0, unit="share", aim=0.9)
    written = read(setting.folder / "out" / "check.jsonl")
    assert [row.get("name") for row in written] == [None, "first"]  # before the next is measured
    yield Measured(name="second", value=0.0, unit="share", aim=0.0, at_most=True)


def measure_missed(setting: Setting) -> Iterator[Measured]:
    yield Measured(name="slow", value=0.5, unit="share", aim=0.9)


def measure_peer(setting: Setting) -> Iterator[Measured]:
    yield Measured(name="before", value=1.0, unit="share")
    importlib.import_module("a_peer_that_is_not_installed")


def measure_ours(setting: Setting) -> Iterator[Measured]:
    import pipeline.no_such_module  # type: ignore[import-untyped]  # noqa: F401

    yield Measured(name="never", value=1.0, unit="share")


def measure_broken(setting: Setting) -> Iterator[Measured]:
    raise ValueError("two lines\nof text")
    yield


def measure_not_here(setting: Setting) -> Iterator[Measured]:
    raise Skip("it needs a CUDA device")
    yield


def measure_endless(setting: Setting) -> Iterator[Measured]:
    while True:
        try:
            time.sleep(0.01)
        except Exception:
            pytest.fail("the time limit is no Exception")
    yield


def test_a_row_for_each_number_skip_and_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = rows(tmp_path)
    measure_all(
        written, (measure_good, measure_peer, measure_ours, measure_broken, measure_not_here), 60
    )
    machine, *others = read(written.path)
    assert (machine["status"], machine["device"], machine["torch"]) == (
        "machine", "cpu", torch.__version__)  # fmt: skip
    assert [(row["status"], row["name"]) for row in others] == [
        ("measured", "first"), ("measured", "second"), ("measured", "before"), ("skipped", "peer"),
        ("failed", "ours"), ("failed", "broken"), ("skipped", "not_here"),
    ]  # fmt: skip
    assert [row["holds"] for row in others[:3]] == [True, True, None]
    assert others[1]["value"] == 0.0
    assert others[3]["reason"] == "No module named 'a_peer_that_is_not_installed'"
    assert others[5]["reason"] == "ValueError: two lines"
    assert others[6]["reason"] == "it needs a CUDA device"
    assert written.summarize() == [f"check: 3 measured, 2 skipped, 2 failed; {written.path}"]
    assert written.exit_code == 1
    assert '"name": "second"' in capsys.readouterr().out


def test_an_aim_that_is_missed_is_named(tmp_path: Path) -> None:
    missed, rehearsed = rows(tmp_path / "a"), rows(tmp_path / "b", is_rehearsal=True)
    for each in (missed, rehearsed):
        measure_all(each, (measure_missed,), 60)
    assert missed.summarize()[1] == "1 below the aim: slow"
    assert (missed.exit_code, rehearsed.exit_code) == (1, 0)
    assert read(rehearsed.path)[1]["holds"] is None
    assert "no aim was held" in rehearsed.summarize()[1]


def test_the_time_of_a_part_is_bounded(tmp_path: Path) -> None:
    """In a process of its own, as its timer's signal once ended the process of the tests."""
    code = "import sys; from tests.scripts.test_gpu import bound; bound(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], check=True, timeout=120, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def bound(folder: str) -> None:
    gpu_rows.LEAST_SECONDS = 0.2
    written = rows(Path(folder))
    started = time.monotonic()
    measure_all(written, (measure_endless, measure_good), 0.5)
    assert time.monotonic() - started < 20
    assert [(row["status"], row["name"]) for row in read(written.path)[1:]] == [
        ("skipped", "endless"), ("skipped", "good"),
    ]  # fmt: skip
    assert written.exit_code == 1  # nothing was measured


@pytest.fixture
def run_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Rehearses some measurements of a part on the CPU in this process; the exit code and rows."""
    monkeypatch.setattr(gpu, "CUBLAS", {})

    def run(part: str, *only: str) -> tuple[int, list[dict[str, Any]]]:
        code = gpu.main(part, str(tmp_path), "--device", "cpu", "--only", ",".join(only))
        return code, read(tmp_path / f"{part}.jsonl")[1:]

    return run


def test_rehearsal_of_check(run_part: Any) -> None:
    code, measured = run_part("check", "maps", "lower_precision", "layout", "halving")
    assert code == 0
    values = {row["name"]: row["value"] for row in measured if row["status"] == "measured"}
    assert 0 < values["maps of cam, float32"] < 1e-4  # channels_last beside contiguous
    assert all(value < 1e-4 for name, value in values.items() if "float32" in name)
    assert 1e-4 < values["maps of cam, fp16"] < values["maps of cam, bf16"] < 0.1
    assert values["layers that are channels_last"] == 1.0
    assert [row["name"] for row in measured if row["status"] == "skipped"] == ["halving"]


def test_rehearsal_of_runs(run_part: Any) -> None:
    code, measured = run_part("check", "runs")
    assert code == 0
    values = {row["name"]: row["value"] for row in measured}
    assert values["training twice"] == values["training, interrupted and resumed"] == 0
    assert values["shards of maps, interrupted and resumed"] == 1
    assert values["boxes, float32"] == 1


def test_peers_that_are_not_installed(run_part: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchcam", None)
    code, measured = run_part("peers", "torchcam", "pytorch_grad_cam")
    assert code == 0
    assert [(row["status"], row["name"]) for row in measured] == [
        ("skipped", "torchcam"), ("measured", "gradcam vs pytorch-grad-cam GradCAM"),
    ]  # fmt: skip
    assert "torchcam" in measured[0]["reason"]
    assert measured[1]["low"] <= measured[1]["value"] <= measured[1]["high"]


def test_rehearsal_of_speed(run_part: Any) -> None:
    code, measured = run_part("speed", "maps", "decoding", "cuda_graph", "overlap")
    assert code == 0
    skipped = [row["name"] for row in measured if row["status"] == "skipped"]
    assert skipped == ["decoding", "overlap", "cuda_graph"]
    named = {row["name"]: row["value"] for row in measured if row["status"] == "measured"}
    assert named["cam / forward, float32"] > 0
    assert any(name.startswith("decoded by") for name in named)


BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[1].split(","):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocked())
from scripts.measure import gpu, gpu_check, gpu_peers
sys.exit(gpu.main("speed", sys.argv[2], "--device", "cpu", "--only", "training,best,decoding"))
"""
MISSING = (
    "hydra,omegaconf,pycocotools,lightning_fabric,torchcam,captum,pytorch_grad_cam,pytest,timm"
)


def test_without_what_a_gpu_machine_lacks(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", BLOCKED, MISSING, str(tmp_path)], cwd=ROOT, capture_output=True,
        text=True,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    written = read(tmp_path / "speed.jsonl")[1:]
    skipped = {row["name"]: row["reason"] for row in written if row["status"] == "skipped"}
    assert "No module named 'omegaconf'" in skipped["training"]
    assert "No module named 'omegaconf'" in skipped["best"]
    assert [row["status"] for row in written].count("measured") == 1  # by the workers


def test_arguments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main("check", str(tmp_path), "--device", "cpu", "--only", "mapps") == 2
    assert "choices: maps, " in capsys.readouterr().err
    if not torch.cuda.is_available():
        assert gpu.main("check", str(tmp_path)) == 2
        assert "--device cpu rehearses the script" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_script_uses_the_python_it_is_given(tmp_path: Path) -> None:
    stub = tmp_path / "python"
    stub.write_text('#!/usr/bin/env bash\necho "$PYTHONPATH|$*"\n')
    stub.chmod(0o755)
    given = {**os.environ, "PYTHON": str(stub), "PYTHONPATH": "/more"}
    ended = subprocess.run(
        [ROOT / "scripts/gpu", "peers", "folder"], cwd=tmp_path, env=given, check=True,
        capture_output=True, text=True,
    )  # fmt: skip
    assert ended.stdout == f"{ROOT}:/more|-m scripts.measure.gpu peers folder\n"


def test_generated_photographs(tmp_path: Path) -> None:
    from PIL import Image

    root = write_photographs(tmp_path / "images", 412, (75, 100))
    files = sorted(root.rglob("*.jpg"))
    assert (len(files), sum(path.is_symlink() for path in files)) == (412, 12)
    assert len({path.parent for path in files}) == 10
    assert all(Image.open(path).size == (100, 75) for path in files[:20])
    one = write_photographs(tmp_path / "one", 1)
    size = next(one.rglob("*.jpg")).stat().st_size
    assert 400 * size < 50e6  # what ./scripts/gpu needs at most
    assert size > 15_000  # as slow to decode as a photograph


def test_works_are_compared_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    now = 0.0
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: now))

    def work(name: str, seconds: list[float]) -> None:
        nonlocal now
        calls.append(name)
        now += seconds.pop(0)

    slow = [9.0, 9.0, 2.0, 2.0, 4.0, 3.0]  # the first three are the warm-up
    fast = [9.0, 9.0, 1.0, 1.0, 1.0, 1.0]
    taken = timing.compare(
        lambda: work("fast", fast), lambda: work("slow", slow), CPU, rounds=3, seconds=1.0
    )
    assert calls == ["fast"] * 3 + ["slow"] * 3 + ["fast", "slow"] * 3
    assert taken == timing.Compared(ours=1.0, theirs=3.0, ratio=3.0, low=2.0, high=4.0)


def test_a_measurement_has_as_many_calls_as_its_time_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    now, calls = 0.0, 0
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: now))

    def work() -> None:
        nonlocal now, calls
        now, calls = now + 0.25, calls + 1

    taken = timing.compare(work, work, CPU, rounds=2, seconds=1.0)
    assert calls == 2 * 3 + 2 * 2 * 4
    assert taken.ours == taken.theirs == 0.25
