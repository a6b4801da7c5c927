"""Training: resumed to the same weights, chosen by labels alone, each recipe on its own ground."""

from __future__ import annotations

import csv
import json
import re
import shutil
import signal
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pipeline.engine import saved_state
from pipeline.errors import UserError
from pipeline.formats.files import read_json
from pipeline.ops.schedule import lr_factor
from pipeline.stages.train import images, log, loop
from pipeline.types import GroundTruth
from tests.conftest import TINY, Cli

ONLY_TRAIN = ("+experiment=cam", *TINY, "stages=[train]")


def weights(outputs: Path) -> dict[str, torch.Tensor]:
    (folder,) = (outputs / "train").iterdir()
    return load_file(folder / "weights.safetensors")


class Killed(BaseException):
    """What kill -9 looks like from inside: nothing after it runs."""


ALL_KNOBS = ("train.batch=10", "train.accumulate=2", "train.ema=0.9", "train.balanced=true",
             "train.patience=3")  # fmt: skip


@pytest.mark.parametrize(("step", "more"), [(2, ()), (3, ()), (7, ALL_KNOBS)])
def test_a_killed_training_goes_on_to_the_same_weights(
    step: int,
    more: tuple[str, ...],
    cli: Cli,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    longer = (*ONLY_TRAIN, "train.epochs=3", *more)
    assert cli(*longer, "outputs=whole") == 0

    monkeypatch.setattr(saved_state, "SAVE_SECONDS", 0.0)  # a state after every step
    monkeypatch.setattr(saved_state, "SAVE_SHARE", 1e9)
    steps = 0

    def rate(*arguments: Any) -> float:
        nonlocal steps
        steps += 1
        if steps == step:
            raise Killed
        return lr_factor(*arguments)

    monkeypatch.setattr(loop, "lr_factor", rate)
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


@pytest.mark.parametrize("split", [(64, 64), (50, 80)])
def test_crops_lie_inside_and_keep_their_share(split: tuple[int, int]) -> None:
    for n in range(200):
        top, left, height, width = images.draw_crop(np.random.default_rng(n), split, 0.3)
        assert 0 <= top <= split[0] - height
        assert 0 <= left <= split[1] - width
        assert height >= 1
        assert width >= 1
        assert height * width >= 0.2 * split[0] * split[1]
    assert images.draw_crop(np.random.default_rng(0), split, 1.0) == (0, 0, *split)


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
    card = read_json(folder / "card.json")
    assert card["recipe"] == "head"
    assert card["classes"] == ["blue", "red"]
    assert card["model"]["weights"] is None
    assert str(tmp_path) not in (folder / "card.json").read_text(), "no path of this machine"
    assert cli(*real, "train.lr=0.02") == 0
    assert len(list((tmp_path / "outputs/features").iterdir())) == 2, "features are made once"


@pytest.mark.parametrize("step", [4, 8])
def test_a_killed_training_of_a_head_goes_on_to_the_same_weights(
    step: int, cli: Cli, folder_of_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.models import squeezenet1_1

    from pipeline.stages.train import head

    torch.save(squeezenet1_1().state_dict(), "w.pth")
    command = ("+experiment=cam", "data=folder", f"data.root={folder_of_images}", "data.size=64",
               "stages=[train]", "train.epochs=4", "train.batch=8", "train.ema=0.9",
               "model=squeezenet1_0", "model.name=squeezenet1_1",
               "model.weights=w.pth")  # fmt: skip
    assert cli(*command, "outputs=whole") == 0
    monkeypatch.setattr(saved_state, "SAVE_SECONDS", -1.0)  # a state after every epoch
    monkeypatch.setattr(saved_state, "SAVE_SHARE", 1e9)
    steps: list[int] = []

    def rate(now: int, *arguments: Any) -> float:
        if len(steps) == step:
            raise Killed
        steps.append(now)
        return lr_factor(now, *arguments)

    monkeypatch.setattr(head, "lr_factor", rate)
    with pytest.raises(Killed):
        cli(*command, "outputs=cut")
    step = -1
    assert cli(*command, "outputs=cut") == 0
    assert 0 not in steps[1:], "its first epoch is not learned again"
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    for name, tensor in whole.items():
        torch.testing.assert_close(resumed[name], tensor, rtol=0, atol=0)
    assert not list((tmp_path / "cut").rglob("state.pt"))


def test_names_that_the_network_knows_are_checked_on_images(
    cli: Cli,
    real: tuple[str, ...],
    folder_of_images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (folder_of_images / "classes.txt").write_text("red Tench\nblue garbage_truck\n")
    for head, recipe in (("auto", "head"), ("own", "own"), ("new", "head")):
        assert cli(*real, f"train.head={head}", f"outputs={head}") == 0
        (folder,) = (tmp_path / head / "train").iterdir()
        assert read_json(folder / "card.json")["recipe"] == recipe
        printed = capsys.readouterr().out
        failed = re.search(r"fails on 1 of 2 classes: 'Tench' right on [01] of 10", printed)
        assert (failed is not None) == (head != "new")


def test_a_head_of_its_own_for_unknown_classes_is_refused(
    cli: Cli, real: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(*real, "train.head=own") == 2
    assert "does not know ['blue', 'red']" in capsys.readouterr().err


def test_fine_tuning_moves_the_backbone(cli: Cli, real: tuple[str, ...], tmp_path: Path) -> None:
    assert cli(*real, "train.freeze=none", "train.epochs=1", "train.batch=8") == 0
    (folder,) = (tmp_path / "outputs/train").iterdir()
    card = read_json(folder / "card.json")
    assert card["recipe"] == "finetune"
    moved = load_file(folder / "weights.safetensors")["body.features.0.0.weight"]
    before = torch.load(real[-2].split("=", 1)[1], weights_only=True)["features.0.0.weight"]
    assert not torch.equal(moved, before.float())


def test_the_first_stages_stay_frozen_batch_norm_and_all(
    cli: Cli, real: tuple[str, ...], tmp_path: Path
) -> None:
    knobs = ("train.freeze=stages:3", "train.epochs=1", "train.batch=8", "train.ema=0.5")
    assert cli(*real, *knobs) == 0
    (folder,) = (tmp_path / "outputs/train").iterdir()
    assert read_json(folder / "card.json")["recipe"] == "finetune"
    after = load_file(folder / "weights.safetensors")
    before = torch.load(real[-2].split("=", 1)[1], weights_only=True)
    same = {
        int(name.split(".")[1])
        for name in before
        if name.startswith("features.") and torch.equal(before[name].float(), after[f"body.{name}"])
    }
    changed = {
        int(name.split(".")[1])
        for name in before
        if name.endswith(("conv.0.0.weight", "running_mean"))
        and name.startswith("features.")
        and not torch.equal(before[name].float(), after[f"body.{name}"])
    }
    assert {0, 1, 2, 3, 4, 5, 6} <= same - changed
    assert changed == set(range(7, 19))


@pytest.mark.parametrize(
    ("freeze", "told"),
    [
        ("stages:9", "this network has 5 stages; possible: auto, backbone, none, stages:1 to sta"),
        ("stages:0", "choices: auto, backbone, none, stages:N"),
        ("some", "choices: auto, backbone, none, stages:N"),
    ],
)
def test_another_freeze_is_refused_with_what_is_possible(
    freeze: str, told: str, cli: Cli, real: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(*real, f"train.freeze={freeze}") == 2
    assert told in capsys.readouterr().err


def test_random_weights_are_never_frozen(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(*ONLY_TRAIN, "train.freeze=stages:1") == 2
    assert "random weights would stay so; give model.weights=" in capsys.readouterr().err


# -- knobs of the loop ---------------------------------------------------------------------------


def test_accumulated_gradients_are_those_of_one_large_batch(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # But for batch norm, whose mean and variance are each batch's own: without it they are equal.
    monkeypatch.setattr(torch.nn, "BatchNorm2d", torch.nn.Identity)
    for name, knobs in (("large", ("train.batch=32",)),
                        ("parts", ("train.batch=8", "train.accumulate=4"))):  # fmt: skip
        assert cli(*ONLY_TRAIN, "precision=float32", *knobs, f"outputs={name}") == 0
    large, parts = weights(tmp_path / "large"), weights(tmp_path / "parts")
    for name, tensor in large.items():
        torch.testing.assert_close(parts[name], tensor, rtol=1e-4, atol=1e-6)


def test_patience_ends_training_where_no_epoch_is_better(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judged = iter([0.5, 0.75, 0.75, 0.25, 1.0])
    monkeypatch.setattr(images.HeldBackImages, "top1", lambda *_: next(judged))
    assert cli(*ONLY_TRAIN, "train.epochs=9", "train.patience=2") == 0
    (folder,) = (tmp_path / "outputs/train").iterdir()
    found = [one["held_back_top1"] for one in read_json(folder / "history.json")]
    assert found == [0.5, 0.75, 0.75, 0.25]
    assert "stopped after 4 of 9 epochs: 2 without a better one" in capsys.readouterr().out


@pytest.mark.parametrize("knob", ["accumulate=0", "ema=1.0", "ema=-0.1", "patience=0"])
def test_a_knob_out_of_its_range_is_refused(
    knob: str, cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(*ONLY_TRAIN, f"train.{knob}") == 2
    assert f"train.{knob}: expected a number from" in capsys.readouterr().err


def test_patience_wants_images_held_back(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(*ONLY_TRAIN, "train.patience=2", "data.held_back=0") == 2
    assert "no image is held back" in capsys.readouterr().err


def test_a_head_takes_the_same_knobs(cli: Cli, real: tuple[str, ...], tmp_path: Path) -> None:
    knobs = ("train.ema=0.9", "train.patience=1", "train.balanced=true", "train.accumulate=2",
             "train.batch=4", "train.epochs=40")  # fmt: skip
    assert cli(*real, *knobs) == 0
    (folder,) = (tmp_path / "outputs/train").iterdir()
    assert read_json(folder / "card.json")["recipe"] == "head"
    assert len(read_json(folder / "history.json")) < 40


# -- logs ----------------------------------------------------------------------------------------


def test_logs_lie_in_the_result_and_are_no_part_of_it(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(*ONLY_TRAIN) == 0
    (folder,) = (tmp_path / "outputs/train").iterdir()
    with (folder / "logs/csv/version_0/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows if row["loss"]] == ["1", "2"]
    (judged,) = [row for row in rows if row["epoch"]]
    history = read_json(folder / "history.json")
    assert float(judged["held_back_top1"]) == history[0]["held_back_top1"]
    shutil.rmtree(folder / "logs")
    capsys.readouterr()
    assert cli(*ONLY_TRAIN, "train.loggers=[]") == 0
    assert "train      kept" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_logger_that_is_not_installed_is_refused_with_the_remedy(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=rf"pip install 'label2box\[{name}\]'"):
        log.check([name])


def test_an_unknown_logger_is_refused(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(*ONLY_TRAIN, "train.loggers=[tensorbord]") == 2
    assert "did you mean 'tensorboard'?" in capsys.readouterr().err


def test_tensorboard_reads_loss_and_accuracy(cli: Cli, tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    assert cli(*ONLY_TRAIN, "train.loggers=[csv,tensorboard]") == 0
    (folder,) = (tmp_path / "outputs/train").iterdir()
    (events,) = (folder / "logs/tensorboard").rglob("events.out*")
    found = reader.EventAccumulator(str(events)).Reload()
    with (folder / "logs/csv/version_0/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    for name in ("loss", "lr", "epoch_loss", "held_back_top1"):
        wanted = [(int(row["step"]), float(row[name])) for row in rows if row[name]]
        assert wanted
        logged: list[Any] = [(e.step, pytest.approx(e.value)) for e in found.Scalars(name)]
        assert logged == wanted


def test_weights_and_biases_gets_every_step(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told: list[dict[str, float]] = []
    run = SimpleNamespace(
        log=told.append, finish=lambda: told.append({"end": 1}), define_metric=lambda *_, **__: None
    )
    fake = ModuleType("wandb")
    fake.init = lambda **kind: run if kind["project"] == "label2box" else None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setattr(log, "find_spec", lambda _: True)
    assert cli(*ONLY_TRAIN, "train.loggers=[wandb]") == 0
    assert [one["step"] for one in told if "loss" in one] == [1, 2]
    assert told[-1] == {"end": 1}

    class Refused(Exception):
        pass

    def refuse(**_: object) -> None:
        raise Refused("No API key configured.")

    fake.init, fake.Error = refuse, Refused  # type: ignore[attr-defined]
    assert cli(*ONLY_TRAIN, "train.loggers=[wandb]", "seed=1") == 2
    assert (
        "No API key configured.); `wandb login`, or WANDB_MODE=offline" in capsys.readouterr().err
    )


def test_sigint_ends_with_one_line(
    cli: Cli, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> float:
        signal.raise_signal(signal.SIGINT)
        return 1.0

    monkeypatch.setattr(loop, "lr_factor", interrupt)
    # A shell's background job ignores the signal, and what it starts inherits that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert cli(*ONLY_TRAIN) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert "the same command goes on from here" in capsys.readouterr().err
