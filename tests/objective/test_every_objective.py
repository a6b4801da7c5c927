"""The contract of all objectives: the network keeps its protocol, is saved and resumed."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from pipeline.engine import checkpoint, saved_state
from pipeline.engine.choices import fill_defaults, instantiate, list_choices, read_choice
from pipeline.errors import UserError
from pipeline.ops.schedule import lr_factor
from pipeline.protocols import WrappingObjective
from pipeline.saliency.fitting import list_fittable
from pipeline.stages.train import loop
from tests.conftest import TINY, Cli
from tests.objective.conftest import classifier

OBJECTIVES = list_choices("objective")


def built(name: str) -> Any:
    return instantiate(name, fill_defaults(name, read_choice("objective", name)))


TRANSFORMERS = ("attention_rollout", "gradient_rollout", "legrad")
WRAPPING = [name for name in OBJECTIVES if isinstance(built(name), WrappingObjective)]
ON_FEATURES = ["binary_cross_entropy", "cross_entropy"]
WITH_MAPS = ["acol", "bas", "spg"]


def trained(name: str, batch: tuple[Tensor, Tensor], steps: int = 3) -> Any:
    """Train a network for a few steps of an objective."""
    objective, network = built(name), classifier()
    if isinstance(objective, WrappingObjective):
        network = objective.wrap(network)
    network.train()
    optimizer = torch.optim.SGD(network.parameters(), 0.05)
    for step in range(steps):
        torch.manual_seed(step)
        loss, logits = objective(network, *batch)
        assert loss.shape == ()
        assert logits.shape == (len(batch[1]), 3)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network


def test_those_that_change_the_network_are_known() -> None:
    assert {*WRAPPING} == {"adl", *WITH_MAPS}
    assert [name for name in OBJECTIVES if not built(name).needs_images] == ON_FEATURES


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_step_is_the_same_whatever_was_drawn_before(
    name: str, batch: tuple[Tensor, Tensor]
) -> None:
    objective = built(name)
    network = (
        objective.wrap(classifier()) if isinstance(objective, WrappingObjective) else classifier()
    )
    losses = []
    for before in (0, 5):
        torch.rand(before)
        copied = copy.deepcopy(network).train()
        torch.manual_seed(7)
        loss, _ = objective(copied, *batch)
        losses.append(loss.detach())
    assert torch.equal(*losses)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_all_weights_learn_and_the_loss_goes_down(name: str, batch: tuple[Tensor, Tensor]) -> None:
    before, after = trained(name, batch, 0), trained(name, batch, 1)
    for (key, old), new in zip(before.named_parameters(), after.parameters(), strict=True):
        assert torch.isfinite(new).all()
        assert not torch.equal(old, new), key


@pytest.mark.parametrize("name", WRAPPING)
def test_a_wrapped_network_answers_as_before(name: str, batch: tuple[Tensor, Tensor]) -> None:
    images, _ = batch
    plain = classifier().eval()
    network = built(name).wrap(classifier()).eval()
    layers = ("input", "block2", "below", "last")
    wanted, answer = plain(images, at=layers), network(images, at=layers)
    assert torch.equal(answer.logits, wanted.logits)
    for layer in layers:
        assert torch.equal(answer.activations[layer], wanted.activations[layer]), layer
    assert torch.equal(network(images).logits, wanted.logits)
    assert torch.equal(network.class_weights, plain.class_weights)
    assert network.head_kind == plain.head_kind
    # The graph is cut at the layer, as of any network.
    cut = network(images, at=("last",))
    cut.logits.sum().backward()
    assert cut.activations["last"].is_leaf
    assert network.body.block1.conv.weight.grad is None


@pytest.mark.parametrize("name", OBJECTIVES)
def test_what_is_frozen_costs_no_gradient_and_stays(
    name: str, batch: tuple[Tensor, Tensor]
) -> None:
    objective = built(name)
    network = (
        objective.wrap(classifier()) if isinstance(objective, WrappingObjective) else classifier()
    )
    network.train()
    first = network.body.block1.requires_grad_(False)
    kept: list[Tensor] = []
    handle = first.register_forward_hook(lambda module, inputs, output: kept.append(output))
    objective(network, *batch)[0].backward()
    handle.remove()
    assert not kept[0].requires_grad
    assert network.body.block2.conv.weight.grad is not None


@pytest.mark.parametrize("name", WRAPPING)
def test_an_image_has_the_answer_that_it_has_alone(name: str, batch: tuple[Tensor, Tensor]) -> None:
    network = trained(name, batch).eval()
    at = ("last", *network.branches)
    with torch.no_grad():
        together = network(batch[0], at=at)
        alone = network(batch[0][2:3], at=at)
    torch.testing.assert_close(alone.logits, together.logits[2:3])
    for layer in at:
        torch.testing.assert_close(alone.activations[layer], together.activations[layer][2:3])


@pytest.mark.parametrize("name", WITH_MAPS)
def test_the_foreground_is_from_zero_to_one(name: str, batch: tuple[Tensor, Tensor]) -> None:
    network = trained(name, batch).eval()
    maps = network(batch[0], at=("foreground",)).activations["foreground"]
    assert maps.shape == (4, 1 if name == "spg" else 3, 8, 8)
    assert ((maps >= 0) & (maps <= 1)).all()
    assert maps.std() > 0


@pytest.mark.parametrize("name", WRAPPING)
def test_all_saliency_methods_still_work(name: str, batch: tuple[Tensor, Tensor]) -> None:
    network = trained(name, batch).eval().requires_grad_(False)
    images = batch[0][:1]
    quick = {"rise": {"masks": 8}, "occlusion": {"step": 16}, "smoothgrad": {"samples": 2},
             "lime": {"samples": 8}, "kernel_shap": {"samples": 8},
             "extremal_perturbation": {"steps": 2}, "xrai": {"steps": 2}}  # fmt: skip
    for choice in list_choices("saliency"):
        node = fill_defaults(choice, read_choice("saliency", choice))
        asked = {key: value for key, value in quick.get(choice, {}).items() if key in node}
        method = instantiate(choice, {**node, **asked})
        if list_fittable(method) or choice in ("foreground", "refined", *TRANSFORMERS):
            continue  # these look at training images first; those are tested above, or no CNN's
        answer = method(network, images, lambda logits: logits.argmax(1, keepdim=True))
        assert torch.isfinite(answer.maps).all(), choice
    hooks = sum(len(layer._forward_hooks) for layer in network.modules())
    assert hooks == (2 if name == "adl" else 0), "none but the attention's is left behind"


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_saved_network_comes_back(
    name: str, batch: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    network = trained(name, batch).eval().to(memory_format=torch.channels_last)
    node = {"_target_": "pipeline.model.small.Small", "width": 2, "stride": 4}
    card = {
        "size": [32, 32],
        "mean": [0.5] * 3,
        "std": [0.25] * 3,
        "objective": fill_defaults(name, read_choice("objective", name)),
    }
    checkpoint.save(tmp_path, network, node, card)
    loaded = checkpoint.load(tmp_path, torch.device("cpu")).network
    images, at = batch[0], ("last", *network.branches)
    wanted, answer = network(images, at=at), loaded(images, at=at)
    assert torch.equal(answer.logits, wanted.logits)
    for layer in at:
        assert torch.equal(answer.activations[layer], wanted.activations[layer]), layer
    assert [*loaded.branches] == [*network.branches]
    assert not any(weight.requires_grad for weight in loaded.parameters())


def test_a_card_may_name_no_foreign_objective(batch: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    node = {"_target_": "pipeline.model.small.Small", "width": 2, "stride": 4}
    card = {"size": [32, 32], "mean": [0.5] * 3, "std": [0.25] * 3,
            "objective": {"_target_": "os.system", "command": "false"}}  # fmt: skip
    checkpoint.save(tmp_path, trained("cross_entropy", batch), node, card)
    with pytest.raises(UserError, match="a card must not run code"):
        checkpoint.load(tmp_path, torch.device("cpu"))


def test_what_the_maps_are_made_of_has_the_objective_in_it(
    batch: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    """The same weights with another threshold of erasing give other maps."""
    node = {"_target_": "pipeline.model.small.Small", "width": 2, "stride": 4}
    prints = []
    for delta in (0.6, 0.8):
        objective = {"_target_": "pipeline.objective.acol.ACoL", "delta": delta}
        card = {"size": [32, 32], "mean": [0.5] * 3, "std": [0.25] * 3, "objective": objective}
        checkpoint.save(tmp_path, trained("acol", batch), node, card)
        prints.append(checkpoint.fingerprint(tmp_path))
    assert prints[0] != prints[1]


# -- from the command line


@pytest.mark.parametrize("name", WITH_MAPS)
def test_the_branch_that_was_trained_explains(name: str, cli: Cli, tmp_path: Path) -> None:
    run = ("+experiment=cam", *TINY, "model.width=4", f"objective={name}", "saliency=foreground")
    assert cli(*run, "stages=[train,explain,localize]") == 0
    (card,) = tmp_path.glob("outputs/train/*/card.json")
    assert json.loads(card.read_text())["objective"]["_target_"].startswith(
        f"pipeline.objective.{name}."
    )
    assert list(tmp_path.glob("outputs/localize/*/*"))


class Killed(BaseException):
    """Ends a run as kill -9 does: no handler for exceptions catches it."""


@pytest.mark.parametrize("name", ["bas", "cutmix"])
def test_a_killed_training_goes_on_to_the_same_weights(
    name: str, cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = ("+experiment=cam", *TINY, "model.width=4", f"objective={name}", "stages=[train]")
    assert cli(*run, "outputs=whole") == 0
    monkeypatch.setattr(saved_state, "SAVE_SECONDS", 0.0)  # a state after every step
    monkeypatch.setattr(saved_state, "SAVE_SHARE", 1e9)
    steps = 0

    def rate(*arguments: Any) -> float:
        nonlocal steps
        steps += 1
        if steps == 2:
            raise Killed
        return lr_factor(*arguments)

    monkeypatch.setattr(loop, "lr_factor", rate)
    with pytest.raises(Killed):
        cli(*run, "outputs=cut")
    assert cli(*run, "outputs=cut") == 0
    whole, resumed = (
        load_file(next((tmp_path / place).glob("train/*/weights.safetensors")))
        for place in ("whole", "cut")
    )
    assert {*whole} == {*resumed}
    for key, tensor in whole.items():
        np.testing.assert_array_equal(resumed[key], tensor, err_msg=key)


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if name not in ON_FEATURES])
def test_a_frozen_backbone_is_refused_at_start(
    name: str, cli: Cli, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from torchvision.models import squeezenet1_0

    torch.save(squeezenet1_0().state_dict(), tmp_path / "w.pth")
    run = ("+experiment=cam", *TINY, "model=squeezenet1_0", "model.weights=w.pth")
    assert cli(*run, f"objective={name}") == 2
    error = capsys.readouterr().err
    assert f"objective={name}" in error
    assert "train.freeze=none" in error
    assert not list(tmp_path.glob("outputs/train/*/*.safetensors"))
