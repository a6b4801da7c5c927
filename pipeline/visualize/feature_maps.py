"""The strongest activations of a feature map, their images, patches and projections.

Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014, figure 2: of a
feature map the nine strongest activations in a data set, each of another image; the patch of the
image within the receptive field (pipeline/visualize/receptive_field.py); and that activation, all
others set to 0, projected back to the image by the deconvnet, or by guided backpropagation
(Springenberg et al. 2014, figure 3). The rules for ReLUs are in pipeline/ops/relu_rules.py.
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
from pipeline.visualize.photos import no_image_error
from pipeline.visualize.receptive_field import compute_receptive_field

if TYPE_CHECKING:
    from jaxtyping import Float, Float32, Int, UInt8

NINE = 9
GUIDED = "guided backprop"
RULES: dict[str, Rule] = {"deconvnet": deconvnet, GUIDED: guided}
OUTSIDE = 236  # grey of the part of a patch that lies beside the image


@dataclass(frozen=True)
class Strongest:
    """The strongest activations of K feature maps, strongest first, each of another image."""

    value: Float32[np.ndarray, "K n"]
    image: Int[np.ndarray, "K n"]  # the image's position in its split
    place: Int[np.ndarray, "K n"]  # row * width + column of the map

    @classmethod
    def join(cls, parts: Sequence[Strongest]) -> Strongest:
        """Return the nine strongest activations of all parts; ties are ordered by position."""
        value = np.concatenate([part.value for part in parts], 1)
        image = np.concatenate([part.image for part in parts], 1)
        place = np.concatenate([part.place for part in parts], 1)
        best = np.lexsort((image, -value), axis=1)[:, :NINE]
        return cls(*(np.take_along_axis(rows, best, 1) for rows in (value, image, place)))

    def select_maps(self, count: int) -> list[int]:
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
    """Project a single activation of each image back to the image by a rule for ReLUs.

    Args:
        network: The network.
        images: As the network reads them.
        layer: Whose activations.
        channel: The feature map of the layer.
        places: row * width + column of the activation, for each image.
        rule: How gradients pass a ReLU backwards.

    Raises:
        UserError: Before the layer the network has an activation other than ReLU, or none.
    """
    with OutOfPlaceActivations(), torch.enable_grad():
        answer = network(images, at=("input", layer))
    picked = answer.activations[layer][:, channel].flatten(1).gather(1, places[:, None])[:, 0]
    apply_relu_rule(picked, rule)
    (back,) = torch.autograd.grad(picked, answer.activations["input"], picked.detach())
    return back


@dataclass(frozen=True)
class Fields:
    """The receptive fields of the positions of a layer's maps."""

    features: Tensor  # of one image, with the graph behind them
    image: Tensor

    @classmethod
    def of(cls, network: Network, image: Float[Tensor, "1 3 H W"], layer: str) -> Fields:
        """Return the fields of a layer for images of this size."""
        with torch.enable_grad():
            activations = network(image, at=("input", layer)).activations
        return cls(activations[layer], activations["input"])

    def at(self, place: int) -> tuple[slice, slice]:
        """Return rows and columns of a field; all of the image where the field is larger.

        Args:
            place: row * width + column of the feature map.
        """
        row, column = divmod(place, self.features.shape[3])
        spans = compute_receptive_field(self.features, self.image, row, column)
        sizes = self.image.shape[2:]
        clipped = [
            slice(0, size) if b - a + 1 >= size else slice(a, b + 1)
            for (a, b), size in zip(spans, sizes, strict=True)
        ]
        return clipped[0], clipped[1]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the field of a position in the middle, not clipped to the image."""
        height, width = self.features.shape[2:]
        spans = compute_receptive_field(self.features, self.image, height // 2, width // 2)
        return spans[0][1] - spans[0][0] + 1, spans[1][1] - spans[1][0] + 1


def crop_patch(picture: UInt8[np.ndarray, "H W 3"], field: tuple[slice, slice]) -> np.ndarray:
    """Return the patch of an image within a field, in grey where it lies beside the image."""
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
    """Find the strongest activations of a layer's feature maps, computed once for all views.

    Args:
        subject: The network and its images.
        layer: Of the network.
        images: How many images of the split are read at most, evenly chosen.

    Raises:
        UserError: No image can be read.
    """
    key = ("strongest", layer, images)
    return cast(Strongest, subject.compute_once(key, lambda: _search(subject, layer, images)))


def _search(subject: ViewSubject, layer: str, images: int) -> Strongest:
    """Find the strongest activations over the images of a split."""

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
        raise no_image_error(subject)
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
        images: How many images are searched for the strongest.

    Raises:
        UserError: A feature map does not exist, or no feature map is above 0 anywhere.
    """
    if channels:
        return check_channels(subject, layer, channels)
    strongest = find_strongest(subject, layer, images).select_maps(count)
    if not strongest:
        raise UserError(
            f"inspect.layer={layer}: no feature map is above 0 anywhere; "
            "inspect.channels=[...] names some"
        )
    return strongest


def check_channels(subject: ViewSubject, layer: str, channels: Sequence[int]) -> list[int]:
    """Return the feature maps that were asked for, each once.

    Raises:
        UserError: A feature map does not exist.
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
