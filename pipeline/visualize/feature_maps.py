"""What a feature map looks for: the images that excite it most, where, and what of them did.

Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014, figure 2: of a
feature map its nine strongest activations in a data set, one an image; the patch of the image that
the place sees (pipeline/visualize/receptive_field.py); and that one activation, all others set to
0, sent back to the image through the deconvnet, or by guided backpropagation (Springenberg et al.
2014, figure 3), whose ways through a ReLU are pipeline/ops/relu_rules.py's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import UserError
from pipeline.ops.precision import disable_autocast
from pipeline.ops.relu_rules import OutOfPlaceActivations, Rule, apply_relu_rule, deconvnet, guided
from pipeline.ops.sampling import spread_evenly
from pipeline.protocols import Network
from pipeline.types import ViewSubject
from pipeline.visualize.photos import no_image
from pipeline.visualize.receptive_field import receptive_field

if TYPE_CHECKING:
    from jaxtyping import Float, Float32, Int, UInt8

NINE = 9
GUIDED = "guided backprop"
RULES: dict[str, Rule] = {"deconvnet": deconvnet, GUIDED: guided}
OUTSIDE = 236  # grey of what of a patch lies beside the image


@dataclass(frozen=True)
class Strongest:
    """Of each of K feature maps its strongest activations, strongest first, one an image."""

    value: Float32[np.ndarray, "K n"]
    image: Int[np.ndarray, "K n"]  # the image's position in its split
    place: Int[np.ndarray, "K n"]  # row * width + column of the map

    @classmethod
    def join(cls, parts: Sequence[Strongest]) -> Strongest:
        """Return the nine strongest of all. Of equals those of the lower position come first."""
        value = np.concatenate([part.value for part in parts], 1)
        image = np.concatenate([part.image for part in parts], 1)
        place = np.concatenate([part.place for part in parts], 1)
        best = np.lexsort((image, -value), axis=1)[:, :NINE]
        return cls(*(np.take_along_axis(rows, best, 1) for rows in (value, image, place)))

    def maps(self, count: int) -> list[int]:
        """Return the feature maps whose strongest activations have the highest mean."""
        mean = self.value.mean(1)
        return [int(n) for n in np.argsort(-mean, kind="stable")[:count] if mean[n] > 0]


def find_peaks(
    network: Network, images: Float[Tensor, "b 3 H W"], positions: Sequence[int], layer: str
) -> Strongest:
    """Return the strongest activation of each map in each image, [K, b]."""
    with torch.no_grad():
        features = network(images, at=(layer,)).activations[layer]
    value, place = features.flatten(2).float().max(2)
    image = np.tile(np.asarray(positions, np.int64), (value.shape[1], 1))
    return Strongest(value.T.cpu().numpy(), image, place.T.cpu().numpy())


def project_back(
    network: Network,
    images: Float[Tensor, "b 3 H W"],
    layer: str,
    channel: int,
    places: Int[Tensor, "b"],
    rule: Rule,
) -> Float[Tensor, "b 3 H W"]:
    """Send one activation of each image back to the image by a rule for ReLUs.

    Args:
        network: The network.
        images: As the network reads them.
        layer: Whose activations.
        channel: The feature map of the layer.
        places: row * width + column of the activation, for each image.
        rule: What goes on through a ReLU.

    Raises:
        UserError: Before the layer the network has another activation than ReLU, or none.
    """
    with OutOfPlaceActivations(), torch.enable_grad():
        answer = network(images, at=("input", layer))
    picked = answer.activations[layer][:, channel].flatten(1).gather(1, places[:, None])[:, 0]
    apply_relu_rule(picked, rule)
    (back,) = torch.autograd.grad(picked, answer.activations["input"], picked.detach())
    return back


@dataclass(frozen=True)
class Fields:
    """The receptive fields of the places of a layer's maps."""

    features: Tensor  # of one image, with the graph behind them
    image: Tensor

    @classmethod
    def of(cls, network: Network, image: Float[Tensor, "1 3 H W"], layer: str) -> Fields:
        """Return the fields of a layer for images of this size."""
        with torch.enable_grad():
            activations = network(image, at=("input", layer)).activations
        return cls(activations[layer], activations["input"])

    def at(self, place: int) -> tuple[slice, slice]:
        """Return rows and columns, perhaps beyond the image; all of it where a field is larger."""
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
    """Return the patch of a field, what of it lies beside the image in grey."""
    rows, columns = field
    height, width = picture.shape[:2]
    patch = np.full((rows.stop - rows.start, columns.stop - columns.start, 3), OUTSIDE, np.uint8)
    top, left = max(rows.start, 0), max(columns.start, 0)
    seen = picture[top : min(rows.stop, height), left : min(columns.stop, width)]
    y, x = top - rows.start, left - columns.start
    patch[y : y + seen.shape[0], x : x + seen.shape[1]] = seen
    return patch


# -- which feature maps are shown ----------------------------------------------------------------


def find_strongest(subject: ViewSubject, layer: str, images: int) -> Strongest:
    """Find the strongest activations of a layer's feature maps; once for all views.

    Args:
        subject: The network and its images.
        layer: Of the network.
        images: That are looked at, at most, evenly over the split.

    Raises:
        UserError: No image can be read.
    """
    key = ("strongest", layer, images)
    return cast(Strongest, subject.compute_once(key, lambda: _search(subject, layer, images)))


def _search(subject: ViewSubject, layer: str, images: int) -> Strongest:
    def work(positions: Sequence[int], pixels: Tensor) -> dict[str, np.ndarray]:
        with disable_autocast(pixels):
            strongest = find_peaks(subject.trained.network, pixels, positions, layer)
        return {"value": strongest.value, "image": strongest.image, "place": strongest.place}

    positions = spread_evenly(len(subject.data.ids(subject.split)), images)
    best: Strongest | None = None
    for arrays in subject.map_batches("strongest", positions, work):
        part = _from_arrays(arrays)
        best = Strongest.join([part] if best is None else [best, part])
    if best is None:
        raise no_image(subject)
    return best


def _from_arrays(arrays: Mapping[str, np.ndarray]) -> Strongest:
    return Strongest(arrays["value"], arrays["image"], arrays["place"])


def select_channels(
    subject: ViewSubject, layer: str, channels: Sequence[int], count: int, images: int
) -> list[int]:
    """Return the feature maps that were asked for, or the strongest of the layer.

    Args:
        subject: The network and its images.
        layer: Of the network.
        channels: The feature maps that were asked for.
        count: How many of the strongest, where none was.
        images: That the strongest are looked for in.

    Raises:
        UserError: One is not there, or none is above 0 anywhere.
    """
    if channels:
        return check_channels(subject, layer, channels)
    strongest = find_strongest(subject, layer, images).maps(count)
    if not strongest:
        raise UserError(
            f"inspect.layer={layer}: no feature map is above 0 anywhere; "
            "inspect.channels=[...] names some"
        )
    return strongest


def check_channels(subject: ViewSubject, layer: str, channels: Sequence[int]) -> list[int]:
    """Return the feature maps that were asked for, each once.

    Raises:
        UserError: One is not there.
    """
    count = _count_channels(subject, layer) if channels else 0
    for channel in channels:
        if channel >= count:
            raise UserError(
                f"inspect.channels: {channel} is not there; layer {layer!r} "
                f"has {count} feature maps, 0 to {count - 1}"
            )
    return list(dict.fromkeys(channels))


def _count_channels(subject: ViewSubject, layer: str) -> int:
    image = torch.zeros(1, 3, *subject.size, device=subject.device)
    with disable_autocast(image), torch.no_grad():
        maps = subject.trained.network(image, at=(layer,)).activations[layer]
    return int(maps.shape[1])
