"""Training: resumed to the same weights, chosen by labels alone, each recipe on its own ground."""

from __future__ import annotations

import json
import signal
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pipeline import store
from pipeline.records import GroundTruth, Problem
from pipeline.stages import train
from tests.conftest import TINY, Cli

ONLY_TRAIN = ("+experiment=cam", *TINY, "stages=[train]")


def weights(outputs: Path) -> dict[str, torch.Tensor]:
    (folder,) = (outputs / "train").iterdir()
    return load_file(folder / "weights.safetensors")


class Killed(BaseException):
    """What kill -9 looks like from inside: nothing after it runs."""


@pytest.mark.parametrize("step", [2, 3, 5])
def test_a_killed_training_goes_on_to_the_same_weights(
    step: int, cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    longer = (*ONLY_TRAIN, "train.epochs=3")
    assert cli(*longer, "outputs=whole") == 0

    monkeypatch.setattr(train, "SAVE_SECONDS", 0.0)  # a state after every step
    monkeypatch.setattr(train, "SAVE_SHARE", 1e9)
    real, steps = train.rate, 0

    def rate(*arguments: Any) -> float:
        nonlocal steps
        steps += 1
        if steps == step:
            raise Killed
        return real(*arguments)

    monkeypatch.setattr(train, "rate", rate)
    with pytest.raises(Killed):
        cli(*longer, "outputs=cut")
    assert list((tmp_path / "cut/train").rglob("state.pt"))
    assert cli(*longer, "outputs=cut") == 0
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    for name, tensor in whole.items():
        torch.testing.assert_close(resumed[name], tensor, rtol=0, atol=0)
    assert not list((tmp_path / "cut").rglob("state.pt"))


def test_the_same_seed_gives_the_same_weights_and_another_others(cli: Cli, tmp_path: Path) -> None:
    for outputs, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert cli(*ONLY_TRAIN, f"outputs={outputs}", f"seed={seed}") == 0
    a, b, c = (weights(tmp_path / name)["head.linear.weight"] for name in "abc")
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_training_and_maps_never_ask_for_ground_truth(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a box was looked at")

    monkeypatch.setattr(GroundTruth, "__init__", refuse)
    assert cli("+experiment=cam", *TINY, "stages=[train,explain,localize]") == 0


def test_the_best_epoch_is_the_held_back_one(cli: Cli, tmp_path: Path) -> None:
    assert cli(*ONLY_TRAIN, "train.epochs=4") == 0
    (folder,) = (tmp_path / "outputs/train").iterdir()
    history = json.loads((folder / "history.json").read_text())
    card = json.loads((folder / "card.json").read_text())
    assert [epoch["epoch"] for epoch in history] == [1, 2, 3, 4]
    assert card["best"]["held_back_top1"] == max(e["held_back_top1"] for e in history)


def test_train_held_back_and_val_share_no_image() -> None:
    from pipeline.data.shapes import Shapes

    data = Shapes(images=200, val_images=50)
    parts = [set(data.ids(split)) for split in ("train", "held_back", "val")]
    assert len(set.union(*parts)) == sum(map(len, parts)) == 250


def test_a_loss_that_is_not_finite_says_what_to_do() -> None:
    with pytest.raises(Problem, match=r"the loss is nan in epoch 3; try a smaller train\.lr"):
        train._epoch(2, [1.0, float("nan")], 0.5)


@pytest.mark.parametrize("split", [(64, 64), (50, 80)])
def test_crops_lie_inside_and_keep_their_share(split: tuple[int, int]) -> None:
    for n in range(200):
        top, left, height, width = train.crop_of(np.random.default_rng(n), split, 0.3)
        assert 0 <= top <= split[0] - height
        assert 0 <= left <= split[1] - width
        assert height >= 1
        assert width >= 1
        assert height * width >= 0.2 * split[0] * split[1]
    assert train.crop_of(np.random.default_rng(0), split, 1.0) == (0, 0, *split)


def test_the_rate_warms_up_and_falls_to_nothing() -> None:
    rates = [train.rate(step, 100, 10) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == 1.0
    assert rates[9] == 1.0
    assert rates[-1] < 0.001
    assert all(a >= b for a, b in pairwise(rates[10:]))


REAL = ("+experiment=cam", "data=folder", "model=mobilenet_v2", "stages=[train]", "train.epochs=3")


@pytest.fixture
def real(shared: Path, folder_of_images: Path) -> tuple[str, ...]:
    weights = shared / "data/weights/mobilenet_v2_imagenet.pth"
    return (*REAL, f"data.root={folder_of_images}", f"model.weights={weights}", "data.size=64")


def test_a_new_head_learns_on_frozen_features(
    cli: Cli, real: tuple[str, ...], tmp_path: Path
) -> None:
    assert cli(*real) == 0
    (folder,) = (tmp_path / "outputs/train").iterdir()
    card = store.read_json(folder / "card.json")
    assert card["recipe"] == "head"
    assert card["classes"] == ["blue", "red"]
    assert card["model"]["weights"] is None
    assert str(tmp_path) not in (folder / "card.json").read_text(), "no path of this machine"
    assert cli(*real, "train.lr=0.02") == 0
    assert len(list((tmp_path / "outputs/features").iterdir())) == 2, "features are made once"


def test_classes_that_the_network_knows_need_no_training(
    cli: Cli, real: tuple[str, ...], folder_of_images: Path, tmp_path: Path
) -> None:
    (folder_of_images / "classes.txt").write_text("red Tench\nblue garbage_truck\n")
    assert cli(*real) == 0
    (folder,) = (tmp_path / "outputs/train").iterdir()
    assert store.read_json(folder / "card.json")["recipe"] == "own"
    assert cli(*real, "train.head=new", "outputs=new") == 0
    (folder,) = (tmp_path / "new/train").iterdir()
    assert store.read_json(folder / "card.json")["recipe"] == "head"


def test_a_head_of_its_own_for_unknown_classes_is_refused(
    cli: Cli, real: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(*real, "train.head=own") == 2
    assert "does not know ['blue', 'red']" in capsys.readouterr().err


def test_fine_tuning_moves_the_backbone(cli: Cli, real: tuple[str, ...], tmp_path: Path) -> None:
    assert cli(*real, "train.freeze=none", "train.epochs=1", "train.batch=8") == 0
    (folder,) = (tmp_path / "outputs/train").iterdir()
    card = store.read_json(folder / "card.json")
    assert card["recipe"] == "finetune"
    moved = load_file(folder / "weights.safetensors")["body.features.0.0.weight"]
    before = torch.load(real[-2].split("=", 1)[1], weights_only=True)["features.0.0.weight"]
    assert not torch.equal(moved, before.float())


def test_sigint_ends_with_one_line(
    cli: Cli, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> float:
        signal.raise_signal(signal.SIGINT)
        return 1.0

    monkeypatch.setattr(train, "rate", interrupt)
    assert cli(*ONLY_TRAIN) == 130
    assert "the same command goes on from here" in capsys.readouterr().err
