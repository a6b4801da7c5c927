"""Files of weights as training scripts write them, read without running their code."""

from __future__ import annotations

import argparse
import json
from datetime import date
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


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_of_a_diverged_training_are_refused(tmp_path: Path, value: float) -> None:
    bad = {**STATE, "fc.weight": torch.tensor([[0.0, value]])}
    torch.save(bad, tmp_path / "w.pth")
    with pytest.raises(
        UserError, match=r"1 tensor \('fc.weight'\) of 2 holds NaN .* diverged; giv"
    ):
        read_weights(tmp_path / "w.pth")
    torch.save({**STATE, "attn_mask": torch.tensor([0.0, -float("inf")])}, tmp_path / "w.pth")
    assert len(read_weights(tmp_path / "w.pth").tensors) == 3


def test_numpy_arrays_are_read(tmp_path: Path) -> None:
    state = {name: tensor.numpy() for name, tensor in STATE.items()}
    torch.save({"state_dict": STATE, "classes": np.array(["cat", "dog"])}, tmp_path / "w.pth")
    assert read_weights(tmp_path / "w.pth").classes == ("cat", "dog")
    torch.save(state, tmp_path / "w.pth")
    tensors = read_weights(tmp_path / "w.pth").tensors
    assert all(torch.equal(tensors[name], STATE[name]) for name in STATE)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
            "run git lfs pull",
        ),
        (b"<!DOCTYPE html><html><body>Log in</body></html>", "(HTML page), not weights; download"),
        (
            b"\x89HDF\r\n\x1a\n" + bytes(99),
            "HDF5 file, as Keras writes it; only weights of PyTorch",
        ),
        (b"\x08\x08\x12\x07pytorch" + bytes(9), "an ONNX or TensorFlow model; only weights of PyT"),
        (b"\x93NUMPY\x01\x00" + bytes(99), "NumPy array; only weights of PyTorch"),
        (b"\xff\xd8\xff" + bytes(99), "(JPEG image), not weights"),
        (b"\x1f\x8b" + bytes(99), "(gzip archive), not weights; unpack it"),
        (b"", "the file is empty; download"),
        (b"PK\x03\x04" + bytes(99), "cut short, damaged or of another kind; copy or download"),
    ],
)
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_files_of_other_kinds_are_named(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as refused:
        read_weights(tmp_path / name)
    assert said in str(refused.value)
    assert not any(word in str(refused.value) for word in ("\x1b", "weights_only", "Unpickling"))


@pytest.mark.parametrize("is_zip", [True, False])
def test_other_objects_beside_weights_are_named(tmp_path: Path, is_zip: bool) -> None:
    content = {"state_dict": STATE, "when": date(2026, 1, 1)}
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=is_zip)
    with pytest.raises(UserError, match=r"other objects .*\(datetime.date\), .* run code of the f"):
        read_weights(tmp_path / "w.pth")
