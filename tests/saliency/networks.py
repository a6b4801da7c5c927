"""A small network of each kind that a saliency method may meet, with random weights."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.model.classifier import Classifier, ConvMean, MeanLinear
from pipeline.model.foreground import build_foreground_head
from pipeline.protocols import Network, SaliencyMethod
from pipeline.types import ClassSelector

SIDE, CLASSES, CHANNELS = 32, "abc", 8


def check_threads(
    network: Network,
    images: Tensor,
    methods: Mapping[str, SaliencyMethod],
    choose: ClassSelector,
    rounds: int,
) -> None:
    """Check that methods give the same maps at once, each in a thread, as one after another."""
    wanted = {name: method(network, images, choose).maps for name, method in methods.items()}
    results: dict[str, list[Tensor]] = {name: [] for name in methods}
    start = threading.Barrier(len(methods))

    def work(name: str) -> None:
        start.wait()
        for _ in range(rounds):
            results[name].append(methods[name](network, images, choose).maps)

    threads = [threading.Thread(target=work, args=(name,)) for name in methods]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name, maps in results.items():
        assert len(maps) == rounds
        assert all(torch.equal(result, wanted[name]) for result in maps)


def convolution(channels: int, out: int, *, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A 3x3 convolution with batch norm."""
    conv = nn.Conv2d(channels, out, 3, stride, 1, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out))


class Residual(nn.Module):
    """x + f(x), one ReLU used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = convolution(CHANNELS, CHANNELS), convolution(CHANNELS, CHANNELS)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, maps: Tensor) -> Tensor:
        out: Tensor = self.relu(self.second(self.relu(self.first(maps))) + maps)
        return out


class Concatenation(nn.Module):
    """Two branches side by side, ReLU as a function."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = convolution(CHANNELS, 4), nn.Conv2d(CHANNELS, 4, 1)
        self.pool = nn.MaxPool2d(3, 1, 1)

    def forward(self, maps: Tensor) -> Tensor:
        return functional.relu(torch.cat([self.first(maps), self.second(self.pool(maps))], 1))


class SqueezeExcitation(nn.Module):
    """Channels scaled by a gate that the whole map opens (Hu et al. 2018), with SiLU."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = convolution(CHANNELS, CHANNELS)
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(CHANNELS, 4, 1), nn.SiLU(),
                                  nn.Conv2d(4, CHANNELS, 1), nn.Sigmoid())  # fmt: skip

    def forward(self, maps: Tensor) -> Tensor:
        maps = functional.silu(self.conv(maps))
        return maps * self.gate(maps)


class Transformer(nn.Module):
    """Patches of 8 pixels and a class token, which the head reads."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, CHANNELS, 8, 8)
        self.token = nn.Parameter(torch.randn(1, 1, CHANNELS))
        self.position = nn.Parameter(torch.randn(1, 1 + (SIDE // 8) ** 2, CHANNELS))
        self.block1, self.block2 = (
            nn.TransformerEncoderLayer(
                CHANNELS, 2, 16, 0.0, "gelu", batch_first=True, norm_first=True
            )
            for _ in range(2)
        )

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patches(images).flatten(2).mT
        tokens = torch.cat([self.token.expand(len(patches), -1, -1), patches], 1)
        out: Tensor = self.block2(self.block1(tokens + self.position))
        return out[:, 0]


def stem() -> nn.Sequential:
    return nn.Sequential(*convolution(3, CHANNELS, stride=2), nn.ReLU(inplace=True))


def gap(body: nn.Module) -> Classifier:
    return Classifier(body, MeanLinear(CHANNELS, len(CLASSES)), CLASSES, below="0")


def plain() -> Classifier:
    block = nn.Sequential(*convolution(CHANNELS, CHANNELS, stride=2), nn.ReLU())
    return gap(nn.Sequential(stem(), block))


def residual() -> Classifier:
    return gap(nn.Sequential(stem(), Residual()))


def concatenation() -> Classifier:
    return gap(nn.Sequential(stem(), Concatenation()))


def depthwise() -> Classifier:
    first = nn.Sequential(*convolution(3, CHANNELS, stride=2), nn.ReLU6(inplace=True))
    block = nn.Sequential(*convolution(CHANNELS, CHANNELS, stride=2, groups=CHANNELS),
                          nn.ReLU6(inplace=True), nn.Conv2d(CHANNELS, CHANNELS, 1),
                          nn.ReLU6(inplace=True))  # fmt: skip
    return gap(nn.Sequential(first, block))


def squeeze_excitation() -> Classifier:
    first = nn.Sequential(*convolution(3, CHANNELS, stride=2), nn.SiLU(inplace=True))
    return gap(nn.Sequential(first, SqueezeExcitation()))


def convolution_head() -> Classifier:
    """SqueezeNet's head: a convolution to a map a class, ReLU, mean."""
    return Classifier(plain().body, ConvMean(CHANNELS, len(CLASSES)), CLASSES, below="0")


def connected_head() -> Classifier:
    """VGG's kind of head: fully connected, for one size of input."""
    head = nn.Sequential(nn.Flatten(), nn.Linear(CHANNELS * (SIDE // 4) ** 2, 16), nn.ReLU(),
                         nn.Linear(16, len(CLASSES)))  # fmt: skip
    return Classifier(plain().body, head, CLASSES, below="0")


def transformer() -> Classifier:
    return Classifier(
        Transformer(), nn.Linear(CHANNELS, len(CLASSES)), CLASSES, last="block1", below="patches"
    )


def localizing() -> Classifier:
    """With a branch that was trained to localize."""
    network = plain()
    network.branches["foreground"] = build_foreground_head(network, (SIDE, SIDE))
    return network


KINDS: dict[str, Callable[[], Classifier]] = {
    build.__name__: build
    for build in (plain, residual, concatenation, depthwise, squeeze_excitation, convolution_head,
                  connected_head, transformer, localizing)
}  # fmt: skip


def build_network(kind: str) -> Classifier:
    """A network of a kind in eval mode, frozen; batch norm has seen images, so that no map of
    features is all zeros."""
    torch.manual_seed(3)
    network = KINDS[kind]()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        network.train()(torch.randn(8, 3, SIDE, SIDE))
    return network.eval().requires_grad_(False)
