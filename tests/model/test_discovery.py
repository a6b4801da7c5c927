"""The last feature maps, the layer below and the GAP head of networks of others."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.model.discovery import find_layers
from pipeline.model.wrapped import Wrapped


def read(output: Tensor) -> Tensor:
    return output


def torchvision_network(name: str) -> nn.Module:
    import torchvision

    network: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=7)
    return network


def timm_network(name: str) -> nn.Module:
    timm = pytest.importorskip("timm")
    network: nn.Module = timm.create_model(name, pretrained=False, num_classes=7)
    return network


@pytest.mark.parametrize(
    ("build", "name", "size", "last", "below", "has_gap_head"),
    [
        (torchvision_network, "resnet18", (64, 96), "layer4", "layer4.0", True),
        (torchvision_network, "mobilenet_v2", (64, 96), "features", "features.16", True),
        (torchvision_network, "efficientnet_b0", (64, 96), "features", "features.6", True),
        (torchvision_network, "mobilenet_v3_small", (64, 96), "features", "features.10", False),
        (torchvision_network, "squeezenet1_1", (64, 96), "features", "features.11", True),
        (torchvision_network, "densenet121", (64, 64), "features", "features.transition3", True),
        (torchvision_network, "swin_t", (64, 64), "permute", "features.7.0", True),
        (timm_network, "tf_efficientnet_lite0", (64, 64), "bn2", "blocks.5", True),
        (timm_network, "convnext_atto", (64, 64), "stages", "stages.3.blocks.0", True),
        (timm_network, "vit_tiny_patch16_224", (224, 224), "blocks.11.norm1",
         "blocks.10.norm1", False),
    ],
)  # fmt: skip
def test_layers_are_found_without_being_named(
    build: Callable[[str], nn.Module],
    name: str,
    size: tuple[int, int],
    last: str,
    below: str,
    has_gap_head: bool,
) -> None:
    torch.manual_seed(0)
    network, images = build(name), torch.randn(2, 3, *size)
    modes = {key: module.training for key, module in network.named_modules()}
    layers = find_layers(network, images, read)
    assert (layers.last, layers.below) == (last, below)
    assert (layers.head is not None) == has_gap_head
    assert modes == {key: module.training for key, module in network.named_modules()}
    assert not any(module._forward_hooks for module in network.modules())
    if has_gap_head and name != "squeezenet1_1":  # whose ReLU comes between CAM and the logit
        check_cam_adds_up_to_the_logits(Wrapped(network, (), layers, read), images)


def check_cam_adds_up_to_the_logits(network: Wrapped, images: Tensor) -> None:
    """The mean of CAM, as class weights and features give it, is linear in the logit less bias."""
    with torch.no_grad():
        answer = network(images, at=("last",))
        mean = answer.activations["last"].mean((2, 3)) @ network.class_weights.T
        assert network.layers.head is not None
        bias = network.body.get_submodule(network.layers.head.linear).bias
        for logits, cam in zip(answer.logits - bias, mean, strict=True):
            pair = torch.stack((logits, cam)).double()
            assert torch.corrcoef(pair)[0, 1] > 0.9999


class ChannelsLast(nn.Module):
    """Gives [b, h, w, K], then its mean."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, stride=4)
        self.norm = nn.LayerNorm(6)
        self.head = nn.Linear(6, 4)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.norm(self.conv(images).permute(0, 2, 3, 1)).mean((1, 2)))
        return logits


def test_channels_last_is_read_as_such() -> None:
    network, images = ChannelsLast(), torch.randn(2, 3, 25, 25)
    layers = find_layers(network, images, read)
    assert layers.last == "norm"
    wrapped = Wrapped(network, (), layers, read)
    assert wrapped(images, at=("last",)).activations["last"].shape == (2, 6, 6, 6)
    check_cam_adds_up_to_the_logits(wrapped, images)


class Block(nn.Module):
    """x + f(x), with the sum in the block's own code."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(width, width, 3, 1, 1) for _ in range(2))
        self.activation = nn.ReLU()

    def forward(self, maps: Tensor) -> Tensor:
        out: Tensor = self.activation(self.second(self.activation(self.first(maps))) + maps)
        return out


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList([Block(6), Block(6)])

    def forward(self, maps: Tensor) -> dict[str, Tensor]:
        for stage in self.stages:
            maps = stage(maps)
        return {"last_hidden_state": maps}


class Backbone(nn.Module):
    """Maps beside what it pooled of them, in one output, as Hugging Face's models return them."""

    def __init__(self) -> None:
        super().__init__()
        self.embedder = nn.Conv2d(3, 6, 3, 2, 1)
        self.encoder, self.pooler = Encoder(), nn.AdaptiveAvgPool2d(1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps = self.encoder(self.embedder(images))["last_hidden_state"]
        return {"last_hidden_state": maps, "pooler_output": self.pooler(maps)}


class Pooled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(6, 4))

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.classifier(self.backbone(images)["pooler_output"])
        return out


def test_a_model_that_returns_its_maps_beside_their_mean_has_them_within() -> None:
    torch.manual_seed(0)
    network, images = Pooled().eval(), torch.randn(2, 3, 32, 32)
    layers = find_layers(network, images, read)
    assert layers.last == "backbone.encoder"
    assert layers.below == "backbone.encoder.stages.0"
    assert layers.head is not None
    wrapped = Wrapped(network, "abcd", layers, read)
    maps = wrapped(images, at=("last",)).activations["last"]
    weights, bias = wrapped.class_weights, network.classifier[1].bias
    torch.testing.assert_close(maps.mean((2, 3)) @ weights.T + bias, network(images))


def test_a_wrong_name_lists_layers_that_give_maps() -> None:
    network, images = ChannelsLast(), torch.randn(2, 3, 25, 25)
    with pytest.raises(
        UserError, match="no such layer runs; layers that give feature maps: conv, n"
    ):
        find_layers(network, images, read, last="layer4")
    with pytest.raises(UserError, match=r"last='head': gives \[2, 4\]"):
        find_layers(network, images, read, last="head")


def test_a_network_without_feature_maps_can_be_explained_at_its_input_alone() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 4))
    layers = find_layers(network, torch.randn(2, 3, 8, 8), read)
    assert layers.problem is not None
    wrapped = Wrapped(network, (), layers, read)
    assert wrapped(torch.randn(1, 3, 8, 8), at=("input",)).logits.shape == (1, 4)
    with pytest.raises(UserError, match=r"of several cells, which this method reads; .*'gradient'"):
        wrapped(torch.randn(1, 3, 8, 8), at=("last",))
