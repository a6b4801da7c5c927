"""Which backend is chosen, what it leaves on disk, and what a run says of it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.engine import backends, ranks, runtime
from pipeline.engine.backends import BackendChoice, compiled, describe_runtime, select_backend
from pipeline.engine.compute import Compute
from pipeline.engine.inventory import read_inventory
from pipeline.errors import UserError
from pipeline.formats.arrays import read_arrays
from pipeline.formats.files import read_json
from pipeline.model import compiled as compiling
from pipeline.model.backends import Backend, is_installed
from pipeline.model.onnx_file import export_onnx
from pipeline.results.computed import Computed
from pipeline.results.shards import list_shards
from tests.conftest import TINY, Cli
from tests.model.test_compiled import break_sessions, images, plain_chain

CPU = torch.device("cpu")
SIDE = (24, 28)
needs_onnxruntime = pytest.mark.skipif(
    not is_installed("onnxruntime"), reason="onnxruntime or onnx is not installed"
)


def compute(
    name: Backend = "onnxruntime", outputs: Path | None = None, named: bool = True
) -> Compute:
    choice = BackendChoice(name, named, outputs)
    return Compute(CPU, "float32", workers=2, batch=16, shard=256, backend=choice)


def pretend_installed(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setattr(backends, "is_installed", lambda name: name in ("torch", *names))


# -- which


@pytest.mark.parametrize(
    ("installed", "chosen"),
    [((), "torch"), (("openvino",), "openvino"), (("openvino", "onnxruntime"), "onnxruntime")],
)
def test_auto_takes_what_is_installed(
    installed: tuple[str, ...], chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_installed(monkeypatch, *installed)
    assert select_backend("auto", CPU, "float32", False) == chosen
    assert select_backend("auto", CPU, "bf16", False) == "torch"
    assert select_backend("auto", CPU, "float32", True) == "torch", "deterministic"
    assert select_backend("auto", torch.device("cuda"), "float32", False) == "torch"
    assert select_backend("torch", CPU, "float32", False) == "torch"


@pytest.mark.parametrize(
    ("wanted", "where", "precision", "deterministic", "said"),
    [("openvino", "cpu", "float32", False, r"openvino: not installed; pip install 'label2box\[op"),
     ("onnxruntime", "cuda", "float32", False, "leave runtime.device=cuda away"),
     ("onnxruntime", "cpu", "bf16", False, "leave precision=bf16 away"),
     ("onnxruntime", "cpu", "float32", True, "leave runtime.deterministic=true away"),
     ("tensorrt", "cpu", "float32", False, "choices: auto, torch, onnxruntime, openvino")],
)  # fmt: skip
def test_what_cannot_be_had_is_refused(
    wanted: str, where: str, precision: Any, deterministic: bool, said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    pretend_installed(monkeypatch, "onnxruntime")
    with pytest.raises(UserError, match=said):
        select_backend(wanted, torch.device(where), precision, deterministic)


def test_the_line_says_what_is_used_and_what_would_be_faster(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runtime, "has_fast_bf16", lambda where: False)
    monkeypatch.setattr(backends, "has_unused_gpu", lambda: False)
    pretend_installed(monkeypatch)
    config, asked = ("auto", "auto"), ("auto", "torch")
    plain = "runtime    cpu, float32, torch, 2 workers"
    line = describe_runtime(compute("torch"), *config, ["explain"])
    assert line == f"{plain}; faster: pip install 'label2box[onnxruntime]'"
    assert describe_runtime(compute("torch"), *asked, ["train"]) == plain
    assert describe_runtime(compute("torch"), *config, ["evaluate"]) is None, "no network runs"
    monkeypatch.setattr(runtime, "has_fast_bf16", lambda where: True)
    monkeypatch.setattr(backends, "has_unused_gpu", lambda: True)
    line = describe_runtime(replace(compute("torch"), workers=1), *asked, ["train"])
    assert line.startswith("runtime    cpu, float32, torch, 1 worker; faster: a GPU is here that")
    assert "; precision=bf16" in line


# -- when, and what is kept


@pytest.mark.parametrize(
    ("named", "passes", "expected"), [(True, 1, 1), (False, 1, 0), (False, 1e6, 1)]
)
def test_auto_compiles_only_what_pays(
    named: bool, passes: float, expected: int, tmp_path: Path
) -> None:
    network = plain_chain()
    with compiled([network], compute(named=named), passes, SIDE, tmp_path) as active:
        assert len(active) == expected
        assert (network.compiled is not None) == bool(expected)
    assert network.compiled is None
    assert backends.read_used(tmp_path) == "torch", "nothing was computed"


def logits(network: Any, outputs: Path, folder: Path) -> np.ndarray:
    with compiled([network], compute(outputs=outputs), 1, SIDE, folder), torch.no_grad():
        return np.asarray(network(images()).logits)


@needs_onnxruntime
def test_a_network_is_compiled_once_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported: list[int] = []

    def count(*arguments: Any) -> bytes:
        exported.append(1)
        return export_onnx(*arguments)

    monkeypatch.setattr(compiling, "export_onnx", count)
    folder, outputs = tmp_path / "result", tmp_path / "outputs"
    first = logits(plain_chain(), outputs, folder)
    assert np.array_equal(logits(plain_chain(), outputs, folder), first)
    assert len(exported) == 1
    assert backends.read_used(folder) == "onnxruntime"
    (kept,) = (outputs / "compiled").iterdir()
    (listed,) = read_inventory(outputs).results
    assert (listed.stage, listed.is_done) == ("compiled", True)
    (kept / "network.onnx").write_bytes(b"cut off")
    assert np.array_equal(logits(plain_chain(), outputs, folder), first)
    assert len(exported) == 2, "a damaged file is made anew"
    other: Any = plain_chain()
    other.body.block.first.weight[0, 0, 0, 0] += 1
    assert not np.array_equal(logits(other, outputs, folder), first)
    assert len(list((outputs / "compiled").iterdir())) == 2
    shutil.rmtree(outputs)
    outputs.write_text("a file, in which nothing can be kept")
    assert np.array_equal(logits(plain_chain(), outputs, folder), first)


@needs_onnxruntime
def test_a_killed_run_that_goes_on_elsewhere_names_both(tmp_path: Path) -> None:
    network = plain_chain()

    def compute_some() -> None:
        with compiled([network], compute(), 1, SIDE, tmp_path), torch.no_grad():
            network(images())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compute_some()
    assert network.compiled is None
    with compiled([network], compute("torch"), 1, SIDE, tmp_path):
        network(images())
    assert backends.read_used(tmp_path) == "onnxruntime, torch"


# -- a whole run

RUN = (*TINY, "stages=[train,explain,localize]", "explain.methods=[cam,gradcam]")


@needs_onnxruntime
def test_a_run_has_the_same_maps_boxes_and_names(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The network is trained once: its results have the same keys, whatever computes them."""
    ranks.print_once.cache_clear()  # of tests before it
    assert cli("+experiment=cam", *RUN, "runtime.backend=torch", "stages=[train]") == 0
    trained = tmp_path / "outputs"
    for name in ("torch", "onnxruntime"):
        shutil.copytree(trained, tmp_path / name)
        assert cli("+experiment=cam", *RUN, f"runtime.backend={name}", f"outputs={name}") == 0
        assert f"runtime    cpu, float32, {name}" in capsys.readouterr().out
    results = {name: tmp_path / name / "explain" for name in ("torch", "onnxruntime")}
    keys = {name: sorted(each.name for each in at.iterdir()) for name, at in results.items()}
    assert keys["torch"] == keys["onnxruntime"]
    assert len(keys["torch"]) == 2
    for key in keys["torch"]:
        assert Computed.read(results["torch"] / key).backend == "torch"
        assert Computed.read(results["onnxruntime"] / key).backend == "onnxruntime"
        ours, theirs = (read_arrays(list_shards(at / key)[0])[0] for at in results.values())
        largest = np.abs(ours["row_scale"])
        assert np.abs(ours["row_scale"] - theirs["row_scale"]).max() <= 1e-4 * largest.max()
        gap = np.abs(ours["row_map"].astype(float) - theirs["row_map"].astype(float))
        assert gap.max() <= 1e-3, "of the maximum, as float16 keeps it"
        assert gap.mean() <= 1e-4
        assert np.array_equal(ours["row_predicted"], theirs["row_predicted"])
    boxes = [read_json(next((tmp_path / name / "runs").glob("*/*/boxes.json"))) for name in results]
    same = [a["bbox"] == b["bbox"] for a, b in zip(*boxes, strict=True)]
    assert np.mean(same) >= 0.999


@needs_onnxruntime
def test_a_run_says_once_that_a_backend_was_refused(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    break_sessions(monkeypatch, 1.001)
    run = (*TINY, "stages=[train,explain]", "runtime.backend=onnxruntime")
    assert cli("+experiment=cam", *run) == 0
    out = capsys.readouterr().out
    assert "runtime.backend=onnxruntime: the network is computed by torch (Mismatch: " in out
    (folder,) = (tmp_path / "outputs" / "explain").iterdir()
    assert Computed.read(folder).backend == "torch"
    notes = read_json(folder / "notes.json")
    assert len(notes) == 1
    assert "Mismatch" in notes[0]["text"]
