"""Sanity against Quantus' model parameter randomisation, and Adebayo's known results."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import quantus
import torch
from torch import Tensor, nn

from pipeline.audit.sanity import measure_sanity, randomize, split_into_parts
from pipeline.model.classifier import Classifier
from pipeline.model.torchvision import Torchvision
from pipeline.protocols import SaliencyMethod
from pipeline.saliency.gradcam import GradCAM
from pipeline.saliency.gradient import Gradient
from pipeline.saliency.guided_backprop import GuidedBackprop
from tests.audit.networks import real, small


def maps_of(method: SaliencyMethod, classes: Tensor) -> Any:
    return lambda net, images: method(net, images, lambda logits: classes[:, None]).maps[:, 0]


@pytest.mark.parametrize("measure", ["rank", "rank_abs"])
@pytest.mark.parametrize(("mode", "order"), [(0, "top_down"), (1, "independent")])
def test_rank_correlation_is_quantus(mode: int, order: str, measure: str) -> None:
    """Layer by layer, the same weights drawn. Its SSIM in this metric is of maps laid out as one
    line of pixels, so there is none to compare; ours is scikit-image's (test_likeness)."""
    network = small()
    torch.manual_seed(1)
    images, classes = torch.randn(4, 3, 24, 32), torch.tensor([0, 1, 2, 3])
    explain = maps_of(Gradient(channels="sum"), classes)

    def theirs(model: nn.Module, inputs: np.ndarray, targets: np.ndarray, **_: Any) -> np.ndarray:
        return explain(model, torch.as_tensor(inputs)).numpy()[:, None]

    metric = quantus.MPRT(layer_order=order, seed=6, normalise=False, abs=measure == "rank_abs",
                          disable_warnings=True)  # fmt: skip
    wanted = metric(model=copy.deepcopy(network), x_batch=images.numpy(), y_batch=classes.numpy(),
                    a_batch=None, explain_func=theirs, device="cpu",
                    channel_first=True)  # fmt: skip
    found = measure_sanity(network, explain, images, 99, 7)[measure][:, mode]
    names = [layer for part in split_into_parts(network, 99) for layer in part.layers]
    assert sorted([*names, "original"]) == sorted(wanted)
    for n, name in enumerate(names):
        np.testing.assert_allclose(found[:, n], wanted[name], atol=1e-5)


def test_the_network_itself_stays_as_it_is() -> None:
    network = small()
    before = {name: one.clone() for name, one in network.state_dict().items()}
    measure_sanity(
        network, maps_of(GradCAM(), torch.tensor([0, 1])), torch.randn(2, 3, 32, 24), 3, 0
    )
    assert all(torch.equal(one, before[name]) for name, one in network.state_dict().items())


def test_what_comes_out() -> None:
    network, images = small(), torch.randn(2, 3, 32, 24)
    found = measure_sanity(network, maps_of(Gradient(), torch.tensor([0, 1])), images, 3, 0)
    count = len(split_into_parts(network, 3))
    for name in ("ssim", "rank", "rank_abs"):
        assert found[name].shape == (2, 2, count)
        assert (found[name].abs() <= 1 + 1e-9).all()
        # The head alone is the head and all above it.
        torch.testing.assert_close(found[name][:, 0, 0], found[name][:, 1, 0])
    assert found["maps"].shape[:3] == (2, 2, count + 1)


@pytest.mark.parametrize(
    "name", ["mobilenet_v2", "resnet18", "vgg16", "googlenet", "densenet121", "vit_b_16"]
)
def test_parts_hold_every_layer_once(name: str) -> None:
    with torch.device("meta"):
        body, head = Torchvision(name, weights=None).own(10)
        network = Classifier(body, head, list("abcdefghij"))
    modules = network.named_modules()
    wanted = [n for n, one in modules if any(True for _ in one.parameters(recurse=False))]
    for most in (2, 8, 1000):
        found = split_into_parts(network, most)
        assert sorted(layer for part in found for layer in part.layers) == sorted(wanted)
        assert found[0].name == "head"
        assert 2 <= len(found) <= max(most, 2)


def test_random_layers_are_those_of_torch() -> None:
    network = small()
    (head, *_) = split_into_parts(network, 9)
    randomize(network, head, 5)
    torch.manual_seed(5)
    wanted = nn.Linear(12, 5)
    torch.testing.assert_close(network.head.linear.weight.data, wanted.weight.data)
    torch.testing.assert_close(network.head.linear.bias.data, wanted.bias.data)


def test_known_results(shared: Path) -> None:
    """Adebayo et al. 2018, figures 2 and 4: guided backprop hardly changes when the head, and the
    layers below it, are made random; the gradient and Grad-CAM do."""
    network, images, classes = real(shared, 4, 128)
    found = {
        name: measure_sanity(network, maps_of(method, classes), images, 3, 0)
        for name, method in (
            ("gradient", Gradient()), ("guided", GuidedBackprop()), ("gradcam", GradCAM()))
    }  # fmt: skip
    head = {name: (float(one["ssim"][:, 0, 0].mean()), float(one["rank"][:, 0, 0].mean()))
            for name, one in found.items()}  # fmt: skip
    assert min(head["guided"]) > 0.95
    assert max(head["gradient"]) < 0.6
    assert max(head["gradcam"]) < 0.7
    half = {name: float(one["rank"][:, 0, 1].mean()) for name, one in found.items()}
    assert half["guided"] > 0.6 > 0.4 > max(half["gradient"], half["gradcam"])
