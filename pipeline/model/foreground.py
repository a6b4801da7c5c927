"""A small head that answers where the object is, on a classifier's features of several strides.

    x = relu(sum_l up(conv1x1_l((f_l - mean_l) / std_l)))        map = sigmoid(conv1x1(x + ...))

The last layer of each stride, 8, 16 and 32, is read: what is deep knows the object, what is shallow
knows its edge (Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017). The map has
the finest of these resolutions, and one forward pass of the classifier gives both answers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.types import Size

if TYPE_CHECKING:
    from jaxtyping import Float

    from pipeline.model.classifier import Classifier

FINEST = 3  # 2^3: what is finer knows colours, not objects


class ForegroundHead(nn.Module):
    """`reads` are the layers, finest first, with so many `channels`; see Classifier.branches.
    `alone`: whether its map is better alone than in the mean with its teacher's."""

    def __init__(
        self,
        reads: tuple[str, ...],
        channels: tuple[int, ...],
        width: int = 64,
        depth: int = 2,
        alone: bool = True,
    ) -> None:
        super().__init__()
        self.reads = tuple(reads)
        self.node: dict[str, Any] = {
            "_target_": f"{__name__}.ForegroundHead",
            "reads": list(reads),
            "channels": list(channels),
            "width": width,
            "depth": depth,
            "alone": alone,
        }
        self.sides = nn.ModuleList(nn.Conv2d(count, width, 1) for count in channels)
        self.steps = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(depth))
        self.out = nn.Conv2d(width, 1, 1)
        for n, count in enumerate(channels):
            self.register_buffer(f"mean{n}", torch.zeros(count))
            self.register_buffer(f"std{n}", torch.ones(count))

    @property
    def alone(self) -> bool:
        return bool(self.node["alone"])

    def stand(self, alone: bool) -> None:
        """Write down whether the map is better alone."""
        self.node["alone"] = alone

    @torch.no_grad()
    def standardize(self, features: Sequence[Float[Tensor, "n K h w"]]) -> None:
        """Take mean and deviation of each channel from features of some images."""
        for n, one in enumerate(features):
            self.get_buffer(f"mean{n}").copy_(one.float().mean((0, 2, 3)))
            self.get_buffer(f"std{n}").copy_(one.float().std((0, 2, 3)) + 1e-3)

    def logits(self, *features: Float[Tensor, "b K h w"]) -> Float[Tensor, "b 1 h w"]:
        size = features[0].shape[2:]
        total: Tensor | None = None
        for n, (one, side) in enumerate(zip(features, self.sides, strict=True)):
            # Standardizing and a 1x1 convolution are one 1x1 convolution.
            assert isinstance(side, nn.Conv2d)
            assert side.bias is not None
            weight = side.weight / self.get_buffer(f"std{n}")[:, None, None]
            bias = side.bias - weight[:, :, 0, 0] @ self.get_buffer(f"mean{n}")
            own = F.conv2d(one, weight, bias)
            if own.shape[2:] != size:
                own = F.interpolate(own, size, mode="bilinear")
            total = own if total is None else total + own
        if total is None:
            raise ValueError("a foreground head reads at least one layer")
        x = total.relu()
        for step in self.steps:
            x = x + step(x).relu()
        answer: Tensor = self.out(x)
        return answer

    def forward(self, *features: Float[Tensor, "b K h w"]) -> Float[Tensor, "b 1 h w"]:
        return self.logits(*features).sigmoid()


def localizer(network: Classifier, size: Size, width: int = 64) -> ForegroundHead:
    """A new head on the last layer of each stride of a network, for images of a size."""
    layers = pyramid(network, size)
    return ForegroundHead(tuple(layers), tuple(layers.values()), width)


def pyramid(network: Classifier, size: Size) -> dict[str, int]:
    """The last layer of each stride that a network has of 8, 16 and 32, finest first, with its
    channels. The coarsest is `last`, what the classifier reads.

    A layer is a part of the body, or of an nn.Sequential in it, that answers with feature maps.
    """
    found: dict[int, tuple[str, int]] = {}

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.ndim == 4:
                found[_octave(size, output)] = (name, int(output.shape[1]))

        return hook

    copy = deepcopy(network).to("meta").eval()
    handles = [layer.register_forward_hook(watch(name)) for name, layer in _trunk(copy.body)]
    with torch.no_grad():
        last = copy(torch.zeros(1, 3, *size, device="meta"), at=("last",)).activations["last"]
    for handle in handles:
        handle.remove()
    deepest = _octave(size, last)
    below = {octave: layer for octave, layer in found.items() if FINEST <= octave < deepest}
    named = [below[octave] for octave in sorted(below)]
    return dict([*named, ("last", int(last.shape[1]))])


def _octave(size: Size, maps: Tensor) -> int:
    """The stride of maps of an image of that size, as a power of 2."""
    return round(math.log2(max(size[0] / maps.shape[2], 1)))


def _trunk(body: nn.Module) -> list[tuple[str, nn.Module]]:
    """The parts of a body, and of each nn.Sequential among them, by name."""
    parts = []
    for name, part in body.named_children():
        inside = _trunk(part) if isinstance(part, nn.Sequential) else []
        parts += [(name, part), *((f"{name}.{below}", one) for below, one in inside)]
    return parts
