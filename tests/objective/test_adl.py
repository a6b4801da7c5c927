"""ADL: importance map, drop mask, and no change unless the network is in training mode."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.objective.adl import ADL, Attention, compute_drop_mask

# Two channels whose mean, the attention, is 1 2 / 3 4.
MAPS = torch.tensor([[[[0.0, 4.0], [6.0, 1.0]], [[2.0, 0.0], [0.0, 7.0]]]])


def test_the_most_attended_is_dropped() -> None:
    assert compute_drop_mask(MAPS.mean(1, keepdim=True), 0.75).tolist() == [[[[1, 1], [0, 0]]]]
    assert compute_drop_mask(MAPS.mean(1, keepdim=True), 0.8).tolist() == [[[[1, 1], [1, 0]]]]


def test_the_maximum_is_of_each_image() -> None:
    maps = torch.cat([MAPS, MAPS * 10])
    mask, scaled_mask = compute_drop_mask(maps.mean(1, keepdim=True), 0.75)
    assert torch.equal(mask, scaled_mask)


def test_in_training_it_drops_or_weights() -> None:
    layer = nn.Identity().train()
    dropped = Attention(1.0, 0.8)(layer, (MAPS,), MAPS)
    assert dropped.tolist() == [[[[0, 4], [6, 0]], [[2, 0], [0, 0]]]]
    weighed = Attention(0.0, 0.8)(layer, (MAPS,), MAPS)
    importance = 1 / (1 + torch.exp(-torch.tensor([[1.0, 2.0], [3.0, 4.0]])))
    torch.testing.assert_close(weighed, MAPS * importance)


def test_it_drops_with_its_probability() -> None:
    torch.manual_seed(0)
    layer, drops = nn.Identity().train(), 0
    for _ in range(500):
        drops += int(Attention(0.75, 0.8)(layer, (MAPS,), MAPS)[0, 0, 1, 1] == 0)
    assert drops / 500 == pytest.approx(0.75, abs=0.05)


def test_it_follows_the_named_layers_and_only_in_training(
    network: Any, batch: tuple[Tensor, Tensor]
) -> None:
    images, _ = batch
    plain = copy.deepcopy(network)
    wrapped = ADL(layers=("below",), drop=1.0, gamma=0.5).wrap(network)
    assert torch.equal(wrapped.eval()(images).logits, plain.eval()(images).logits)
    before, after = (net.train()(images, at=("block5", "below")) for net in (plain, wrapped))
    assert torch.equal(after.activations["block5"], before.activations["block5"])
    maps = before.activations["below"]
    mask = compute_drop_mask(maps.mean(1, keepdim=True), 0.5)
    assert 0 < mask.mean() < 1
    assert torch.equal(after.activations["below"], maps * mask)
    assert not torch.equal(after.logits, before.logits)


def test_the_gradient_passes_where_it_was_kept(network: Any, batch: tuple[Tensor, Tensor]) -> None:
    objective = ADL(layers=("last",), drop=1.0)
    loss, _ = objective(objective.wrap(network).train(), *batch)
    loss.backward()
    assert all(weight.grad is not None for weight in network.parameters())


def test_a_layer_that_is_not_there_is_refused(network: Any) -> None:
    with pytest.raises(UserError, match=r"blok6.*block6"):
        ADL(layers=("blok6",)).wrap(network)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"layers": ()}, "expected one layer or more"),
        ({"layers": "last"}, "expected one layer or more"),
        ({"drop": 2.0}, "drop=2.0"),
        ({"gamma": -1.0}, "gamma=-1.0"),
    ],
)
def test_wrong_arguments_are_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        ADL(**wrong)
