"""What a feature map looks for: the images that excite it most, where, and what of them did.

Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014, figure 2: of a
feature map its nine strongest activations in a data set, one an image; the patch of the image that
the place sees (pipeline/visualize/receptive_field.py); and that one activation, all others set to
0, sent back to the image through the deconvnet, or by guided backpropagation (Springenberg et al.
2014, figure 3), whose ways through a ReLU are pipeline/ops/relu_rules.py's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pipeline.ops.relu_rules import InSight, Rule, bend, deconvnet, guided
from pipeline.protocols import Network
from pipeline.visualize.receptive_field import receptive_field

if TYPE_CHECKING:
    from jaxtyping import Float, Float32, Int, UInt8

NINE = 9
RULES: dict[str, Rule] = {"deconvnet": deconvnet, "guided backprop": guided}
OUTSIDE = 236  # grey of what of a patch lies beside the image


@dataclass(frozen=True)
class Strongest:
    """Of each of K feature maps its strongest activations, strongest first, one an image."""

    value: Float32[np.ndarray, "K n"]
    image: Int[np.ndarray, "K n"]  # the image's position in its split
    place: Int[np.ndarray, "K n"]  # row * width + column of the map

    def joined(self, other: Strongest) -> Strongest:
        """The nine strongest of both. Of equals those of the lower position come first."""
        value, image, place = (
            np.concatenate([getattr(self, name), getattr(other, name)], 1)
            for name in ("value", "image", "place")
        )
        best = np.lexsort((image, -value), axis=1)[:, :NINE]
        return Strongest(*(np.take_along_axis(one, best, 1) for one in (value, image, place)))

    def maps(self, count: int) -> list[int]:
        """The feature maps whose strongest activations have the highest mean."""
        mean = self.value.mean(1)
        return [int(n) for n in np.argsort(-mean, kind="stable")[:count] if mean[n] > 0]


def peaks(
    network: Network, images: Float[Tensor, "b 3 H W"], positions: Sequence[int], layer: str
) -> Strongest:
    """The strongest activation of each map in each image, [K, b]."""
    with torch.no_grad():
        features = network(images, at=(layer,)).activations[layer]
    value, place = features.flatten(2).float().max(2)
    image = np.tile(np.asarray(positions, np.int64), (value.shape[1], 1))
    return Strongest(value.T.cpu().numpy(), image, place.T.cpu().numpy())


def projected(
    network: Network,
    images: Float[Tensor, "b 3 H W"],
    layer: str,
    channel: int,
    places: Int[Tensor, "b"],
    rule: Rule,
) -> Float[Tensor, "b 3 H W"]:
    """One activation of each image, sent back to it by `rule`.

    Raises UserError where the network has another activation than ReLU, or none, before the layer.
    """
    with InSight(), torch.enable_grad():
        answer = network(images, at=("input", layer))
    picked = answer.activations[layer][:, channel].flatten(1).gather(1, places[:, None])[:, 0]
    bend(picked, rule)
    (back,) = torch.autograd.grad(picked, answer.activations["input"], picked.detach())
    return back


@dataclass(frozen=True)
class Fields:
    """The receptive fields of a layer's places, each found once."""

    features: Tensor  # of one image, with the graph behind them
    image: Tensor

    @classmethod
    def of(cls, network: Network, image: Float[Tensor, "1 3 H W"], layer: str) -> Fields:
        with torch.enable_grad():
            found = network(image, at=("input", layer)).activations
        return cls(found[layer], found["input"])

    def at(self, place: int) -> tuple[slice, slice]:
        """Rows and columns, perhaps beyond the image; all of it where a field is larger."""
        row, column = divmod(place, self.features.shape[3])
        spans = receptive_field(self.features, self.image, row, column)
        sizes = self.image.shape[2:]
        whole = [
            slice(0, size) if b - a + 1 >= size else slice(a, b + 1)
            for (a, b), size in zip(spans, sizes, strict=True)
        ]
        return whole[0], whole[1]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the field of a place in the middle, before the image ends it."""
        height, width = self.features.shape[2:]
        spans = receptive_field(self.features, self.image, height // 2, width // 2)
        return spans[0][1] - spans[0][0] + 1, spans[1][1] - spans[1][0] + 1


def cut(picture: UInt8[np.ndarray, "H W 3"], field: tuple[slice, slice]) -> np.ndarray:
    """The patch of a field, what of it lies beside the image in grey."""
    rows, columns = field
    height, width = picture.shape[:2]
    patch = np.full((rows.stop - rows.start, columns.stop - columns.start, 3), OUTSIDE, np.uint8)
    top, left = max(rows.start, 0), max(columns.start, 0)
    seen = picture[top : min(rows.stop, height), left : min(columns.stop, width)]
    y, x = top - rows.start, left - columns.start
    patch[y : y + seen.shape[0], x : x + seen.shape[1]] = seen
    return patch
