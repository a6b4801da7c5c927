"""Files of weights as training scripts write them, read without running their code."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pipeline.errors import UserError
from pipeline.model.weights import read_weights

STATE = {"conv.weight": torch.ones(2, 3, 1, 1), "fc.weight": torch.zeros(2, 2)}
OTHER = {name: tensor + 5 for name, tensor in STATE.items()}


@pytest.mark.parametrize(
    ("content", "wrapping"),
    [
        (STATE, ""),
        ({"state_dict": STATE, "epoch": 3, "hyper_parameters": {"lr": 0.1}}, "state_dict"),
        ({"state_dict": OTHER, "state_dict_ema": STATE, "arch": "resnet18"}, "state_dict_ema"),
        ({"model": STATE, "optimizer": {"state": {0: {"m": torch.ones(1)}}}, "epoch": 1,
          "args": argparse.Namespace(lr=0.1, output_dir=Path("/tmp"))}, "model"),
        ({"model": OTHER, "model_ema": STATE}, "model_ema"),
        ({"state_dict": {"model": STATE}}, "state_dict.model"),
        ({"student": STATE, "step": 3}, "student"),
        ({"net": STATE, "acc": np.float64(0.9), "best": np.float32(0.5)}, "net"),
    ],
)  # fmt: skip
def test_wrappings(tmp_path: Path, content: Any, wrapping: str) -> None:
    torch.save(content, tmp_path / "w.pth")
    file = read_weights(tmp_path / "w.pth")
    assert file.wrapping == wrapping
    assert file.tensors.keys() == STATE.keys()
    assert all(torch.equal(file.tensors[name], STATE[name]) for name in STATE)


def test_several_networks_are_not_guessed(tmp_path: Path) -> None:
    torch.save({"student": STATE, "teacher": OTHER}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"several networks, 'student', 'teacher'; save the one"):
        read_weights(tmp_path / "w.pth")


@pytest.mark.parametrize(
    "more",
    [
        {"classes": ["cat", "dog"]},
        {"class_to_idx": {"dog": 1, "cat": 0}},
        {"id2label": {"0": "cat", "1": "dog"}},
        {"hyper_parameters": {"class_names": ("cat", "dog")}},
        {"args": argparse.Namespace(classes=["cat", "dog"])},
        {"meta": {"CLASSES": ["cat", "dog"]}},
    ],
)
def test_names_of_classes(tmp_path: Path, more: dict[str, Any]) -> None:
    torch.save({"state_dict": STATE, **more}, tmp_path / "w.pth")
    assert read_weights(tmp_path / "w.pth").classes == ("cat", "dog")


@pytest.mark.parametrize("classes", [json.dumps(["cat", "dog"]), "cat,dog"])
def test_names_of_classes_in_safetensors(tmp_path: Path, classes: str) -> None:
    save_file(STATE, tmp_path / "w.safetensors", {"classes": classes})
    assert read_weights(tmp_path / "w.safetensors").classes == ("cat", "dog")


@pytest.mark.parametrize("more", [{}, {"classes": 2}, {"class_to_idx": {"a": 0, "b": 2}},
                                  {"names": [1, 2]}])  # fmt: skip
def test_what_names_no_classes(tmp_path: Path, more: dict[str, Any]) -> None:
    torch.save({"state_dict": STATE, **more}, tmp_path / "w.pth")
    assert read_weights(tmp_path / "w.pth").classes == ()


@pytest.mark.filterwarnings("ignore")  # torch on what it refuses
@pytest.mark.parametrize("how", ["module", "wrapped", "script"])
def test_a_whole_network_is_refused_with_a_remedy_that_works(tmp_path: Path, how: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Flatten())
    path = tmp_path / "w.pth"
    if how == "script":
        torch.jit.save(torch.jit.script(model), path)
    else:
        torch.save(model if how == "module" else {"model": model, "epoch": 1}, path)
    with pytest.raises(UserError) as refused:
        read_weights(path)
    message = str(refused.value)
    assert "holds a whole pickled network and not its weights" in message
    remedy = message.rpartition("alone: ")[2]
    exec(remedy, {"torch": torch, "model": model, "FILE": path})
    assert read_weights(path).tensors.keys() == {"0.weight", "0.bias"}
