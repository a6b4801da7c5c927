"""What holds of every method on every kind of network: maps, or a reason why there are none."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.engine.choices import fill_defaults, instantiate, list_choices, read_choice
from pipeline.errors import UserError
from pipeline.saliency.fitting import list_fittable, replace_fittable
from tests.saliency.networks import KINDS, SIDE, build_network

METHODS = list_choices("saliency")
# Arguments that make a method quick, of those that it takes.
QUICK: dict[str, Any] = {"masks": 6, "cells": 3, "samples": 2, "steps": 4, "window": 16,
                         "stride": 16, "scales": [1.0, 1.5], "segments": 6,
                         "iterations": 20}  # fmt: skip
QUICK_OF: dict[str, dict[str, Any]] = {"lime": {"samples": 20}, "kernel_shap": {"samples": 20}}

NO_CLASS_WEIGHTS = {"connected_head", "transformer"}
NO_RELU = {"squeeze_excitation", "transformer"}
NO_BRANCH = {*KINDS} - {"localizing"}
NO_ATTENTION = {*KINDS} - {"transformer"}
ONE_SIZE = {"connected_head", "transformer"}
REFUSED = {
    "cam": (NO_CLASS_WEIGHTS, "no class weights"),
    "cam_positive": (NO_CLASS_WEIGHTS, "no class weights"),
    "deconvnet": (NO_RELU, "another activation"),
    "guided_backprop": (NO_RELU, "another activation"),
    "guided_gradcam": (NO_RELU, "another activation"),
    "fullgrad": ({"transformer"}, "bias is not known"),
    "average": ({"transformer"}, "bias is not known"),
    "deeplift": ({"transformer"}, "attention or another softmax.*gradcam"),
    "excitation_backprop": (NO_RELU, "another activation than ReLU|no rule for.*gradcam"),
    "foreground": (NO_BRANCH, "no branch 'foreground'"),
    "refined": (NO_BRANCH, "no branch 'foreground'"),
    "attention_rollout": (NO_ATTENTION, "no self-attention.*gradcam"),
    "gradient_rollout": (NO_ATTENTION, "no self-attention.*gradcam"),
    "legrad": (NO_ATTENTION, "no self-attention.*gradcam"),
    "layercam_multiscale": (ONE_SIZE, r"scales=.*cannot read images of"),
    "layercam_scales": (ONE_SIZE, r"scales=.*cannot read images of"),
}
"""Which networks a method cannot have, and why it says so. All others must work."""

NETWORKS: dict[str, Any] = {}


def network_of(kind: str) -> Any:
    if kind not in NETWORKS:
        NETWORKS[kind] = build_network(kind)
    return NETWORKS[kind]


def network_for(name: str) -> Any:
    """The network with a localization branch, or another that the method can explain."""
    refused, _ = REFUSED.get(name, (set(), ""))
    return network_of("transformer" if "localizing" in refused else "localizing")


def build(name: str) -> Any:
    node = fill_defaults(name, read_choice("saliency", name))
    quick = {key: value for key, value in QUICK.items() if key in node}
    return instantiate(name, {**node, **quick, **QUICK_OF.get(name, {})})


def images() -> Tensor:
    return torch.randn(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def fitted(method: Any, network: Any) -> Any:
    """The method, fitted to a few images where it, or a part of it, wants to be."""
    labels = torch.arange(3) % len(network.classes)
    ready = [
        part.fitted(part.statistics(network, images(), labels)) for part in list_fittable(method)
    ]
    return replace_fittable(method, ready)


def choose(logits: Tensor) -> Tensor:
    return logits.topk(2).indices


def state(network: Any) -> list[Any]:
    return [
        (m.training, len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks),
         getattr(m, "inplace", None)) for m in network.modules()
    ] + [(p._version, p.requires_grad, p.grad) for p in network.parameters()]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", METHODS)
def test_maps_or_a_reason(name: str, kind: str) -> None:
    network, before = network_of(kind), state(network_of(kind))
    refused, reason = REFUSED.get(name, (set(), ""))
    if kind in refused:
        with pytest.raises(UserError, match=reason):
            fitted(build(name), network)(network, images(), choose)
    else:
        explained = fitted(build(name), network)(network, images(), choose)
        assert explained.maps.shape[:2] == (3, 2)
        assert explained.maps.ndim == 4
        assert torch.isfinite(explained.maps).all()
        assert explained.maps.flatten(2).std(2).max() > 0
        assert not explained.maps.requires_grad
        assert not explained.logits.requires_grad
        torch.testing.assert_close(explained.logits, network(images()).logits)
        assert torch.equal(explained.classes, choose(explained.logits))
    assert state(network) == before
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("name", METHODS)
def test_maps_are_the_same_again_and_of_an_image_alone(name: str) -> None:
    network = network_for(name)
    method = fitted(build(name), network)
    together = method(network, images(), choose)
    assert torch.equal(method(network, images(), choose).maps, together.maps)
    alone = method(network, images()[:1], choose)
    torch.testing.assert_close(alone.maps, together.maps[:1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", METHODS)
def test_a_class_that_was_chosen_twice_has_the_same_map_twice(name: str) -> None:
    network = network_for(name)
    method = fitted(build(name), network)
    explained = method(network, images(), lambda logits: torch.tensor([[1, 0, 1]] * len(logits)))
    torch.testing.assert_close(explained.maps[:, 0], explained.maps[:, 2], rtol=1e-4, atol=1e-5)


def test_refusals_are_of_choices_that_there_are() -> None:
    assert {*REFUSED} <= {*METHODS}
