"""Training in parts of the batch: the same weights on any number of cores."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipeline.model import batch_parts
from tests.conftest import TINY, Cli

ONLY_TRAIN = ("+experiment=cam", *TINY, "stages=[train]", "train.lr=0.01", "train.batch=64")


def read_weights(outputs: Path) -> dict[str, torch.Tensor]:
    (folder,) = (outputs / "train").iterdir()
    return load_file(folder / "weights.safetensors")


def read_loss(outputs: Path) -> float:
    (folder,) = (outputs / "train").iterdir()
    (epoch,) = json.loads((folder / "history.json").read_text())
    return float(epoch["loss"])


def test_workers_change_no_weight_and_whole_batches_teach_the_same(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = torch.get_num_threads()
    for workers in (0, 1, 3):
        assert cli(*ONLY_TRAIN, f"runtime.workers={workers}", f"outputs={workers}") == 0
    assert torch.get_num_threads() == before
    first = read_weights(tmp_path / "0")
    for workers in (1, 3):
        for name, tensor in read_weights(tmp_path / str(workers)).items():
            assert torch.equal(tensor, first[name]), name

    monkeypatch.setattr(batch_parts, "MAX_PARTS", 1)
    assert cli(*ONLY_TRAIN, "outputs=whole") == 0
    assert read_loss(tmp_path / "0") == pytest.approx(read_loss(tmp_path / "whole"), rel=1e-3)
    for name, tensor in read_weights(tmp_path / "whole").items():
        torch.testing.assert_close(first[name], tensor, rtol=0.02, atol=0.01, msg=name)


def test_a_network_that_cannot_be_split_is_trained_and_said(
    cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(*ONLY_TRAIN, "objective=adl") == 0
    said = "train: batches are computed whole, not in parts: the network draws random numbers"
    assert said in capsys.readouterr().out
