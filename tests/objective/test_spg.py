"""SPG: masks by two thresholds, which branch is trained on which map, and what is not trained."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.errors import UserError
from pipeline.objective import spg
from pipeline.objective.spg import SPG, compute_masked_loss, mask_by_thresholds


def codes(maps: Tensor) -> list[Any]:
    """Return the values of a mask, with -1 for nan."""
    return maps.nan_to_num(-1).flatten().tolist()


def test_the_mask_is_known_above_high_and_below_low() -> None:
    maps = torch.tensor([0.9, 0.7, 0.5, 0.05, 0.01, 0.0]).view(1, 1, 1, 6)
    assert codes(mask_by_thresholds(maps, 0.7, 0.05)) == [1, -1, -1, -1, 0, 0]


def test_where_too_few_are_above_high_those_near_the_maximum_are_the_object() -> None:
    maps = torch.tensor([0.5, 0.4, 0.3, 0.02]).view(1, 1, 2, 2)
    assert codes(mask_by_thresholds(maps, 0.7, 0.05)) == [1, 1, -1, 0]  # above 0.35
    # 30 of 224 x 224 are enough, 29 are not; each image by itself.
    two = torch.full((2, 1, 224, 224), 0.64)
    two[1, 0, 0, 29:60] = 0.69
    two[0, 0, 0, :30] = two[1, 0, 0, :29] = 0.95
    enough, few = mask_by_thresholds(two, 0.7, 0.05)
    assert (enough == 1).sum() == 30
    assert (few == 1).sum() == 60, "those above 0.665"


def test_the_background_overrides_the_object() -> None:
    assert codes(mask_by_thresholds(torch.full((1, 1, 2, 2), 0.01), 0.7, 0.05)) == [0, 0, 0, 0]


def test_the_loss_is_over_known_pixels_alone() -> None:
    probability = torch.tensor([0.5, 0.25, 0.9]).view(1, 1, 1, 3).requires_grad_()
    wanted = torch.tensor([1.0, 0.0, torch.nan]).view(1, 1, 1, 3)
    loss = compute_masked_loss(probability, wanted)
    torch.testing.assert_close(loss, -torch.tensor([0.5, 0.75]).log().mean())
    loss.backward()
    assert probability.grad is not None
    assert (probability.grad != 0).flatten().tolist() == [True, True, False]
    assert compute_masked_loss(probability, torch.full_like(wanted, torch.nan)) == 0


def test_each_branch_is_trained_on_the_map_before_it(
    network: Any, batch: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """B2 learns from the class map, B1 from B2, C from both, each with its own thresholds."""
    objective = SPG(width=4)
    objective.wrap(network).eval()
    calls: list[tuple[Tensor, float, float]] = []
    real = spg.mask_by_thresholds

    def watched(maps: Tensor, high: float, low: float) -> Tensor:
        calls.append((maps, high, low))
        return real(maps, high, low)

    monkeypatch.setattr(spg, "mask_by_thresholds", watched)
    objective(network, *batch)
    assert [(high, low) for _, high, low in calls] == [(0.7, 0.01), (0.5, 0.05), (0.7, 0.1)]
    (attention, *_), (b2, *_), (both, *_) = calls
    assert (attention.amin((2, 3)) == 0).all()
    assert (attention.amax((2, 3)) == 1).all()
    guidance = network(batch[0], at=("guidance",)).activations["guidance"]
    enlarged = torch.nn.functional.interpolate(guidance, (32, 32), mode="bilinear")
    torch.testing.assert_close(b2, enlarged[:, 1:])
    torch.testing.assert_close(both, enlarged.mean(1, keepdim=True))


def test_the_branches_and_the_features_learn_from_it_and_the_head_does_not(
    network: Any, batch: tuple[Tensor, Tensor]
) -> None:
    """The masks take no gradient: through them the head would learn from the branches' losses."""
    objective = SPG(width=4, label_smoothing=0.0)
    objective.wrap(network).train()
    torch.manual_seed(0)
    loss, logits = objective(network, *batch)
    guided = loss - torch.nn.functional.cross_entropy(logits, batch[1])
    guided.backward()
    assert network.head.class_weights.grad.abs().max() < 1e-7
    for part in (network.branches["guidance"], network.branches["foreground"], network.body):
        assert all(weight.grad is not None for weight in part.parameters())
    assert network.branches["guidance"].shared[1].weight.grad.abs().sum() > 0


def test_its_branches_answer_by_name(network: Any, batch: tuple[Tensor, Tensor]) -> None:
    SPG(layers=("block1", "last"), width=4).wrap(network).eval()
    activations = network(batch[0], at=("guidance", "foreground")).activations
    assert activations["guidance"].shape == (4, 2, 16, 16), "at the resolution of the finer"
    assert activations["foreground"].shape == (4, 1, 8, 8)
    assert all(((maps >= 0) & (maps <= 1)).all() for maps in activations.values())


def test_a_layer_that_is_not_there_is_refused(network: Any) -> None:
    with pytest.raises(UserError, match="no such layer"):
        SPG(layers=("nowhere", "last")).wrap(network)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"from_map": (0.1, 0.7)}, "from_map=.*expected high above low"),
        ({"from_both": (1.7, 0.1)}, "from_both"),
        ({"width": 0}, "width=0"),
    ],
)
def test_wrong_arguments_are_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        SPG(**wrong)
