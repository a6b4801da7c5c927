"""Fragility: what an attack may do, and that it does it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.audit.fragility import Bounds, measure_fragility
from pipeline.model.classifier import Classifier
from pipeline.protocols import SaliencyMethod
from pipeline.saliency.gradcam import GradCAM
from pipeline.saliency.gradient import Gradient
from tests.audit.networks import batch_of, small

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def begun(epsilon: float, method: SaliencyMethod) -> tuple[Classifier, Tensor, Bounds, Any]:
    network = small()
    torch.manual_seed(4)
    bounds = Bounds.of(MEAN, STD, epsilon, torch.device("cpu"))
    pixels = torch.rand(4, 3, 32, 40)
    images = bounds.low + pixels * (bounds.high - bounds.low)
    with torch.no_grad():
        classes = network(images).logits.argmax(1)

    def logits(some: Tensor) -> Tensor:
        with torch.no_grad():
            return network(some).logits

    def explain(net: Any, some: Tensor) -> Tensor:
        return method(net, some, lambda _: classes[:, None]).maps[:, 0].detach()

    batch = batch_of(images, classes, explain)
    before, found = measure_fragility(network, batch, bounds, steps=10)
    torch.testing.assert_close(before, explain(network, images))
    return network, images, bounds, (found, explain, logits, classes)


@pytest.mark.parametrize("method", [Gradient(), GradCAM()])
def test_within_the_bounds_and_of_the_same_class(method: SaliencyMethod) -> None:
    network, images, bounds, (found, explain, logits, classes) = begun(0.05, method)
    for moved in found.values():
        far = ((moved.images - images).abs() / bounds.epsilon).max()
        assert far <= 1 + 1e-4
        pixels = (moved.images - bounds.low) / (bounds.high - bounds.low)
        assert pixels.min() >= -1e-5
        assert pixels.max() <= 1 + 1e-5
        assert torch.equal(logits(moved.images).argmax(1), classes)
        torch.testing.assert_close(explain(network, moved.images), moved.maps, atol=1e-5, rtol=1e-4)
    assert all(one.grad is None and not one.requires_grad for one in network.parameters())


@pytest.mark.parametrize("method", [Gradient(), GradCAM()])
def test_the_attack_does_more_than_random_signs(method: SaliencyMethod) -> None:
    *_, (found, _, _, _) = begun(0.05, method)
    assert found["attack"].kept.any()
    assert found["attack"].top_k.mean() < found["random"].top_k.mean()


def test_without_room_nothing_moves() -> None:
    *_, (found, _, _, _) = begun(0.0, Gradient())
    for moved in found.values():
        assert (moved.top_k == 1).all()
        assert (moved.rank > 1 - 1e-9).all()
