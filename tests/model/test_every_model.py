"""What holds of every network: a builder whose parts fit together, tried on shapes alone."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import nn

from pipeline.engine.choices import instantiate, list_choices, locate, read_choice
from pipeline.errors import UserError
from pipeline.model.classifier import Classifier, MeanLinear
from pipeline.model.importing import allow
from pipeline.protocols import NetworkBuilder

MODELS = list_choices("model")
SIDE, CLASSES = 224, "abcde"
OF = "torchvision.models:resnet18"  # what model=module makes
MEMBERS = [name for name in vars(NetworkBuilder) if not name.startswith("_")]


def build(name: str, **options: Any) -> Any:
    """The builder, without weights where it could have some."""
    node = read_choice("model", name)
    takes = inspect.signature(locate("model", str(node["_target_"]))).parameters
    weights: dict[str, Any] = {"weights": None} if "weights" in takes else {}
    if "of" in takes:
        weights["of"] = OF
        allow(OF)
    return instantiate("model", {**node, **weights, **options})


def classifier(builder: NetworkBuilder) -> Classifier:
    """As it would be trained, without values; a transformer with the head of its own."""
    with torch.device("meta"):
        try:
            body, channels = builder.body()
            head: nn.Module = MeanLinear(channels, len(CLASSES))
        except UserError:
            body, head = builder.own(len(CLASSES))
        return Classifier(body, head, CLASSES, builder.last, builder.below).eval()


@pytest.mark.parametrize("name", MODELS)
def test_builder_has_all_that_is_asked_for(name: str) -> None:
    builder = build(name)
    assert all(hasattr(builder, member) for member in MEMBERS)
    assert builder.weights is None
    assert builder.weight_file is None
    assert builder.pretrained is False
    assert builder.known == ()
    assert len(builder.mean) == len(builder.std) == 3
    assert all(0 <= value <= 1 for value in builder.mean)
    assert all(0 < value <= 1 for value in builder.std)
    assert isinstance(builder.at_trained_stride(), type(builder))


@pytest.mark.parametrize("name", MODELS)
def test_feature_maps_fit_the_head(name: str) -> None:
    network = classifier(build(name))
    images = torch.zeros(2, 3, SIDE, SIDE, device="meta")
    answer = network(images, at=("last",))
    assert answer.logits.shape == (2, len(CLASSES))
    features = answer.activations["last"]
    assert features.ndim == 4
    if network.channels is not None:
        assert features.shape[1] == network.channels
        assert network.class_weights.shape == (len(CLASSES), network.channels)
    assert min(features.shape[2:]) > 1


@pytest.mark.parametrize("name", MODELS)
def test_below_names_a_layer(name: str) -> None:
    builder = build(name)
    if not builder.below:
        return
    images = torch.zeros(1, 3, SIDE, SIDE, device="meta")
    features = classifier(builder)(images, at=("below",)).activations["below"]
    assert features.ndim == 4


@pytest.mark.parametrize("name", MODELS)
def test_head_of_its_own_is_there_or_refused(name: str) -> None:
    builder = build(name)
    if not builder.has_own_head:
        assert builder.own_head_from_scratch is False
    if not (builder.has_own_head or builder.own_head_from_scratch):
        with pytest.raises(UserError, match=r"train\.head"):
            builder.own(len(CLASSES))
        return
    with torch.device("meta"):
        body, head = builder.own(len(CLASSES))
        network = Classifier(body, head, CLASSES, builder.last, builder.below).eval()
    size = 28 if name == "lenet" else SIDE
    images = torch.zeros(2, 3, size, size, device="meta")
    assert network(images).logits.shape == (2, len(CLASSES))


@pytest.mark.parametrize("name", MODELS)
def test_weights_that_are_not_there_are_refused(name: str) -> None:
    takes = inspect.signature(locate("model", str(read_choice("model", name)["_target_"])))
    if "weights" in takes.parameters:
        with pytest.raises(UserError, match="no such file"):
            build(name, weights="/nowhere/weights.pth")
    else:
        with pytest.raises(UserError, match="no weights to load"):
            build(name).load()


@pytest.mark.parametrize("name", MODELS)
def test_networks_built_twice_have_the_same_parts(name: str) -> None:
    """A checkpoint is loaded into a network that was built anew."""
    shapes = [
        {key: tensor.shape for key, tensor in classifier(build(name)).state_dict().items()}
        for _ in range(2)
    ]
    assert shapes[0] == shapes[1]
