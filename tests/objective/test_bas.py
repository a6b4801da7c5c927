"""BAS: the activation outside the map, and which weights it trains."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.errors import UserError
from pipeline.model.classifier import Classifier, MeanLinear
from pipeline.objective.bas import BAS, compute_activation, compute_suppression


def test_the_activation_is_the_mean_of_the_positive_part() -> None:
    weights = torch.tensor([[1.0, -1.0], [0.0, 2.0]])
    features = torch.tensor([[[[3.0, 1.0]], [[1.0, 4.0]]]]).repeat(2, 1, 1, 1)
    # class 0: 2 and -3, so 2 and 0; class 1: 2 and 8
    assert compute_activation(weights, features, torch.tensor([0, 1])).tolist() == [1.0, 5.0]


def test_the_activation_outside_counts_unless_it_is_no_less() -> None:
    left, whole = torch.tensor([1.0, 3.0, 5.0]), torch.tensor([4.0, 4.0, 4.0])
    assert compute_suppression(left, whole).item() == pytest.approx((0.25 + 0.75 + 0) / 3)
    left.requires_grad_()
    compute_suppression(left, whole).backward()
    assert left.grad is not None
    assert left.grad.tolist() == pytest.approx([1 / 12, 1 / 12, 0])
    assert compute_suppression(torch.zeros(2), torch.zeros(2)) == 0


def test_the_loss_is_the_formula_of_its_docstring(
    network: Any, batch: tuple[Tensor, Tensor]
) -> None:
    images, labels = batch
    objective = BAS(foreground=0.3, area=1.7, label_smoothing=0.0)
    objective.wrap(network).eval()  # batch norm by its running statistics, in every pass alike
    loss, logits = objective(network, images, labels)

    below = network(images, at=("below",)).activations["below"]
    maps = network.branches["foreground"](below)[torch.arange(4), labels][:, None]
    features = network.body.block7(below)
    outside = network.body.block7(below * (1 - maps))
    weights = network.class_weights[labels]
    whole = torch.einsum("bk,bkhw->bhw", weights, features).relu().mean((1, 2))
    left = torch.einsum("bk,bkhw->bhw", weights, outside).relu().mean((1, 2))
    ratio = torch.stack([a / b if a < b else 0 * a for a, b in zip(left, whole, strict=True)])
    assert ratio.any()
    wanted = (
        functional.cross_entropy(logits, labels)
        + 0.3 * functional.cross_entropy(network.head(features * maps), labels)
        + ratio.mean()
        + 1.7 * maps.mean()
    )
    torch.testing.assert_close(loss, wanted)


def test_suppression_and_area_train_the_map_alone(
    network: Any, batch: tuple[Tensor, Tensor]
) -> None:
    objective = BAS(foreground=0.0, label_smoothing=0.0)
    objective.wrap(network).train()
    loss, logits = objective(network, *batch)
    (loss - functional.cross_entropy(logits, batch[1])).backward()
    assert network.branches["foreground"].conv.weight.grad.abs().sum() > 0
    assert network.head.class_weights.grad.abs().max() < 1e-6
    assert network.body.block7.conv.weight.grad.abs().max() < 1e-6
    # The map is made of `below`, so what makes that learns from it, as in the paper.
    assert network.body.block6.conv.weight.grad.abs().sum() > 0


def test_the_pass_over_what_is_outside_leaves_no_trace(
    network: Any, batch: tuple[Tensor, Tensor]
) -> None:
    """Batch norm's running statistics are those of the plain pass."""
    import copy

    objective = BAS()
    objective.wrap(network).train()
    plain = copy.deepcopy(network)
    plain(batch[0])
    objective(network, *batch)
    for name, buffer in network.named_buffers():
        torch.testing.assert_close(buffer, plain.get_buffer(name))
    assert all(weight.requires_grad for weight in network.parameters())


def test_it_learns_to_cover_the_evidence_of_the_class(network: Any) -> None:
    """A bright square, left or right, is the class: the map covers it and not the rest."""
    torch.manual_seed(0)
    images = 0.1 * torch.randn(32, 3, 32, 32)
    labels = torch.arange(32) % 2
    images[labels == 0, 0, 4:20, 4:20] += 2
    images[labels == 1, 1, 4:20, 4:20] += 2
    objective = BAS(label_smoothing=0.0)
    objective.wrap(network).train()
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    for _ in range(60):
        loss, _ = objective(network, images, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    network.eval()
    with torch.no_grad():
        maps = network(images, at=("foreground",)).activations["foreground"]
    label_maps = maps[torch.arange(32), labels]
    assert label_maps[:, 1:5, 1:5].mean() > 2 * label_maps[:, :, 6:].mean()


@pytest.mark.parametrize("layer", ["last", ""])
def test_a_layer_with_nothing_behind_it_is_refused(layer: str, network: Any) -> None:
    with pytest.raises(UserError, match="nothing runs behind it"):
        BAS(layer=layer).wrap(network)


def test_a_network_that_is_no_chain_is_refused() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)

        def forward(self, images: Tensor) -> Tensor:
            left: Tensor = self.left(images)
            return left + self.right(images)

    network = Classifier(Branching(), MeanLinear(4, 2), ("a", "b"), below="left")
    with pytest.raises(UserError, match="no chain of modules"):
        BAS().wrap(network)


@pytest.mark.parametrize("name", ["foreground", "area"])
def test_wrong_arguments_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}=-1.0: expected a weight"):
        BAS(**{name: -1.0})  # type: ignore[arg-type]
