"""A small head that predicts where the object is from a classifier's features of several strides.

    x = relu(sum_l up(conv1x1_l((f_l - mean_l) / std_l)))        map = sigmoid(conv1x1(x + ...))

The last layer of each stride, 8, 16 and 32, is read: deep layers recognise the object, shallow ones
locate its edge (Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017). The map
has the finest of these resolutions, and one forward pass gives both logits and map.

With an extent head (extent.py), which predicts the box of the object, the map is

    map = ((sigmoid(logits) + P(in the box)) / 2) ^ 1.25

Where an image may have several labels, the head has a map for each class: the last convolution has
a row for each. The extent head reads the map of each class, and x weighted by the largest value of
sigmoid(logits) of that class within NEAR cells: elsewhere may be objects of other classes.

The power lowers values between 0 and 1, so that the rule `size` (segmenter/auto.py), whose
constants were chosen for heads without one, suits these maps, which are flatter inside the box.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.model.extent import ExtentHead
from pipeline.types import Size

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from pipeline.model.classifier import Classifier

EXTENT_POWER = 1.25  # a measured choice: docs/metrics.md
NEAR = 2  # cells: what is around an object tells where it ends
MIN_OCTAVE = 3  # a stride of 2^3: finer layers respond to colours and edges, not to objects


class ForegroundHead(nn.Module):
    """A branch that predicts the foreground; see `Classifier.branches`.

    Args:
        reads: the layers that it reads, finest first.
        channels: the channels of each of them.
        width: channels of the head.
        depth: number of its 3x3 convolutions.
        alone: whether its map is better alone than in the mean with the map it was trained on.
        extent: whether it has an extent head.
        classes: for how many classes it has a map of its own; 1: one map for all.

    Attributes:
        node: the arguments, as a checkpoint stores them to build the head again.
    """

    def __init__(
        self,
        reads: tuple[str, ...],
        channels: tuple[int, ...],
        width: int = 64,
        depth: int = 2,
        alone: bool = True,
        extent: bool = False,
        classes: int = 1,
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
            "extent": extent,
            **({"classes": classes} if classes > 1 else {}),
        }
        self.sides = nn.ModuleList(nn.Conv2d(count, width, 1) for count in channels)
        self.steps = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(depth))
        self.out = nn.Conv2d(width, classes, 1)
        self.extent = ExtentHead(width) if extent else None
        for n, count in enumerate(channels):
            self.register_buffer(f"mean{n}", torch.zeros(count))
            self.register_buffer(f"std{n}", torch.ones(count))

    @property
    def alone(self) -> bool:
        """Whether its map is better alone than in the mean with the map it was trained on."""
        return bool(self.node["alone"])

    def set_alone(self, alone: bool) -> None:
        """Record whether the map is better alone, for `alone` and for the checkpoint."""
        self.node["alone"] = alone

    def set_extent(self, extent: ExtentHead) -> None:
        """Add an extent head, here and in `node`."""
        self.extent = extent
        self.node["extent"] = True

    @torch.no_grad()
    def standardize(self, features: Sequence[Float[Tensor, "n K h w"]]) -> None:
        """Set the mean and deviation of each channel to those of features of some images.

        Args:
            features: of each layer of `reads`.
        """
        for n, maps in enumerate(features):
            self.get_buffer(f"mean{n}").copy_(maps.float().mean((0, 2, 3)))
            self.get_buffer(f"std{n}").copy_(maps.float().std((0, 2, 3)) + 1e-3)

    def logits(self, *features: Float[Tensor, "b K h w"]) -> Float[Tensor, "b C h w"]:
        """Compute the map before the sigmoid, at the resolution of the first features.

        Args:
            features: of each layer of `reads`.
        """
        logits: Tensor = self.out(self.hidden(*features))
        return logits

    def hidden(self, *features: Float[Tensor, "b K h w"]) -> Float[Tensor, "b width h w"]:
        """Compute the last features of the head, at the resolution of the first ones it reads.

        Args:
            features: of each layer of `reads`.

        Raises:
            ValueError: there are none.
        """
        size = features[0].shape[2:]
        total: Tensor | None = None
        for n, (maps, side) in enumerate(zip(features, self.sides, strict=True)):
            # Standardizing and a 1x1 convolution are one 1x1 convolution.
            assert isinstance(side, nn.Conv2d)
            assert side.bias is not None
            weight = side.weight / self.get_buffer(f"std{n}")[:, None, None]
            bias = side.bias - weight[:, :, 0, 0] @ self.get_buffer(f"mean{n}")
            projected = F.conv2d(maps, weight, bias)
            if projected.shape[2:] != size:
                projected = F.interpolate(projected, size, mode="bilinear")
            total = projected if total is None else total + projected
        if total is None:
            raise ValueError("a foreground head reads at least one layer")
        x = total.relu()
        for step in self.steps:
            x = x + step(x).relu()
        return x

    def near(
        self, hidden: Float[Tensor, "b K h w"], logits: Float[Tensor, "b 1 h w"]
    ) -> Float[Tensor, "b K h w"]:
        """Return features near the object of a class; all of them where it has one map for all.

        Args:
            hidden: its last features.
            logits: its map of the class before the sigmoid.
        """
        if self.out.out_channels == 1:
            return hidden
        return hidden * F.max_pool2d(logits.sigmoid(), 2 * NEAR + 1, 1, NEAR)

    def forward(self, *features: Float[Tensor, "b K h w"]) -> Float[Tensor, "b C h w"]:
        """Compute the foreground map, from 0 to 1, at the resolution of the first features."""
        hidden = self.hidden(*features)
        logits: Tensor = self.out(hidden)
        if self.extent is None:
            return _sigmoid(logits)
        of_class = [logits[:, n : n + 1] for n in range(logits.shape[1])]
        inside = torch.cat([self.extent(self.near(hidden, each), each) for each in of_class], 1)
        return ((_sigmoid(logits) + inside) / 2) ** EXTENT_POWER


def select_class(
    maps: Float[Tensor, "b C h w"], classes: Int[Tensor, b]
) -> Float[Tensor, "b 1 h w"]:
    """Return the map of a class of each image; the only one where there is one for all classes.

    Args:
        maps: of each class.
        classes: the class of each image.
    """
    if maps.shape[1] == 1:
        return maps
    index = classes.to(maps.device)[:, None, None, None].expand(-1, 1, *maps.shape[2:])
    return maps.gather(1, index)


def build_foreground_head(network: Classifier, size: Size, width: int = 64) -> ForegroundHead:
    """Build a head on the last layer of each stride of a network, with random weights.

    Args:
        network: the classifier, which is not changed.
        size: of its images.
        width: channels of the head.
    """
    layers = list_pyramid_layers(network, size)
    return ForegroundHead(tuple(layers), tuple(layers.values()), width)


def list_pyramid_layers(network: Classifier, size: Size) -> dict[str, int]:
    """List the last layer of each stride from 8 on that a network has.

    A layer is a part of the body, or of an nn.Sequential in it, that gives feature maps. Shapes
    alone are computed, on a copy of the network.

    Args:
        network: the classifier, which is not changed.
        size: of its images.

    Returns:
        Channels by layer, finest first. The coarsest is `last`, which the classifier's head reads.
    """
    layers: dict[int, tuple[str, int]] = {}

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.ndim == 4:
                layers[_compute_octave(size, output)] = (name, int(output.shape[1]))

        return hook

    copy = deepcopy(network).to("meta").eval()
    handles = [layer.register_forward_hook(watch(name)) for name, layer in _list_trunk(copy.body)]
    with torch.no_grad():
        last = copy(torch.zeros(1, 3, *size, device="meta"), at=("last",)).activations["last"]
    for handle in handles:
        handle.remove()
    deepest = _compute_octave(size, last)
    below = [layers[octave] for octave in sorted(layers) if MIN_OCTAVE <= octave < deepest]
    return dict([*below, ("last", int(last.shape[1]))])


def _compute_octave(size: Size, maps: Tensor) -> int:
    """Compute the binary logarithm of the stride of maps of an image of a size, rounded."""
    return round(math.log2(max(size[0] / maps.shape[2], 1)))


def _list_trunk(body: nn.Module) -> list[tuple[str, nn.Module]]:
    """List the parts of a body, and of each nn.Sequential among them, with their names."""
    parts = []
    for name, part in body.named_children():
        inside = _list_trunk(part) if isinstance(part, nn.Sequential) else []
        parts += [(name, part), *((f"{name}.{below}", child) for below, child in inside)]
    return parts


def _sigmoid(logits: Float[Tensor, "b N h w"]) -> Float[Tensor, "b N h w"]:
    """Return the sigmoid; in a file of ONNX such that small values are exact, too.

    ONNX Runtime's own is exact to 1e-7, of which the object classes of an image without foreground
    would be computed.
    """
    if torch.onnx.is_in_onnx_export():
        return torch.exp(-logits).add(1).reciprocal()
    return logits.sigmoid()
