"""ACoL: what is erased, what the second classifier reads, and the maps of both."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from pipeline.errors import UserError
from pipeline.model.classifier import MeanLinear
from pipeline.objective.acol import ACoL, Complementary


def test_the_second_reads_the_features_without_what_the_first_uses(
    network: Any, batch: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = batch
    objective = ACoL(delta=0.6, label_smoothing=0.0)
    objective.wrap(network).eval()
    second = network.branches["foreground"].second
    given: list[Tensor] = []
    second.register_forward_hook(lambda module, inputs, output: given.append(inputs[0]))
    loss, logits = objective(network, images, labels)
    (erased,) = given

    features = network.features(images)
    for n, label in enumerate(labels.tolist()):
        first = sum(w * f for w, f in zip(network.class_weights[label], features[n], strict=True))
        unit = (first - first.min()) / (first.max() - first.min())
        torch.testing.assert_close(erased[n], features[n] * (unit < 0.6))
        assert (unit >= 0.6).any()
    wanted = functional.cross_entropy(logits, labels) + functional.cross_entropy(
        second(erased), labels
    )
    torch.testing.assert_close(loss, wanted)


def test_the_map_is_the_greater_of_both() -> None:
    first = MeanLinear(2, 1)
    branch = Complementary(first, delta=0.6)
    with torch.no_grad():
        first.class_weights.copy_(torch.tensor([[1.0, 0.0]]))
        branch.second.class_weights.copy_(torch.tensor([[0.0, 1.0]]))
    features = torch.tensor([[[[10.0, 5.0, 0.0]], [[8.0, 2.0, 4.0]]]])
    # A: 1, .5, 0. B without the first place: 0, 2, 4, so 0, .5, 1.
    assert branch(features).tolist() == [[[[1.0, 0.5, 1.0]]]]


def test_both_classifiers_and_the_features_learn_but_not_through_the_erasing(
    network: Any, batch: tuple[Tensor, Tensor]
) -> None:
    objective = ACoL()
    loss, _ = objective(objective.wrap(network).train(), *batch)
    loss.backward()
    assert all(weight.grad is not None for weight in network.parameters())
    assert network.branches["foreground"].second.class_weights.grad.abs().sum() > 0
    assert len({id(weight) for weight in network.parameters()}) == len(
        [*network.state_dict(keep_vars=True)]
    ) - sum("running" in n or "tracked" in n for n in network.state_dict()), "no weight is shared"


def test_a_network_without_a_gap_head_is_refused(network: Any) -> None:
    network.head = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(3))
    with pytest.raises(UserError, match="class weights"):
        ACoL().wrap(network)


def test_a_second_wrapping_is_refused(network: Any) -> None:
    with pytest.raises(UserError, match=r"objective=acol: .*already"):
        ACoL().wrap(ACoL().wrap(network))


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"delta=1\.2: expected a share"):
        ACoL(delta=1.2)
