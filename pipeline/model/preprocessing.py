"""How a network's images are scaled and normalized: told by its makers, or given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from pipeline.errors import UserError
from pipeline.ops.intensity import IntensityRanges
from pipeline.types import Size

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
EXPECTED = (
    "expected a mapping with size, mean and std; the weights or transforms of torchvision; the "
    "configuration of timm; or the image processor of Hugging Face"
)


@dataclass(frozen=True)
class Preprocessing:
    """The whole image is scaled to `size`, bilinearly, and normalized: (x / 255 - mean) / std.

    Nothing is cut off, so that a map covers the image.

    Attributes:
        size: height and width of the network's input.
        mean: of red, green and blue, for pixels from 0 to 1.
        std: of red, green and blue, for pixels from 0 to 1.
        ranges: that images of more than 8 bits are scaled from.
    """

    size: Size
    mean: tuple[float, ...]
    std: tuple[float, ...]
    ranges: IntensityRanges = field(default_factory=IntensityRanges)


def read_preprocessing(model: nn.Module, given: Any = None) -> Preprocessing | None:
    """Return how a network's images are prepared; None where nobody says.

    timm's networks carry it. torchvision's are ImageNet's, at 224, unless `given` says more.

    Args:
        model: the network.
        given: a Preprocessing; a mapping with `size`, `mean` and `std`; torchvision's weights
            (ResNet50_Weights.DEFAULT) or their transforms(); timm's configuration; or Hugging
            Face's image processor.

    Raises:
        UserError: `given` is none of these.
    """
    if given is not None:
        return _read_given(given, model)
    configuration = _attribute(model, "pretrained_cfg") or _attribute(model, "default_cfg")
    if isinstance(configuration, Mapping) and {"mean", "std", "input_size"} <= set(configuration):
        return _from_mapping(configuration, model)
    if type(model).__module__.startswith("torchvision.models."):
        side = int(_attribute(model, "image_size") or 224)
        return Preprocessing((side, side), IMAGENET_MEAN, IMAGENET_STD)
    return None


def _read_given(given: Any, model: nn.Module) -> Preprocessing:
    if isinstance(given, Preprocessing):
        return given
    if isinstance(given, Mapping):
        return _from_mapping(given, model)
    transforms = _attribute(given, "transforms")
    if callable(transforms):  # an entry of torchvision's enumeration of weights
        given = transforms()
    if _attribute(given, "crop_size") is not None and _attribute(given, "mean") is not None:
        return _checked(_size(given.crop_size), given.mean, given.std)
    if _attribute(given, "image_mean") is not None:
        size = given.size
        height = size.get("height", size.get("shortest_edge"))
        return _checked((height, size.get("width", height)), given.image_mean, given.image_std)
    raise UserError(f"preprocessing={type(given).__name__}: {EXPECTED}")


def _from_mapping(given: Mapping[str, Any], model: nn.Module) -> Preprocessing:
    size = given.get("size")
    if size is None:
        # timm's configuration is that of the weights; the network may have been built for another.
        size = find_fixed_size(model) or given.get("input_size")
    missing = [key for key in ("mean", "std") if key not in given]
    if size is None or missing:
        absent = ", ".join([*(["size"] if size is None else []), *missing])
        raise UserError(f"preprocessing: no {absent}; {EXPECTED}")
    return _checked(_size(size), given["mean"], given["std"])


def find_fixed_size(model: nn.Module) -> Size | None:
    """Return the only size that a transformer of timm's reads; None of any other network.

    Args:
        model: the network.
    """
    patches = _attribute(model, "patch_embed")
    size = _attribute(patches, "img_size")
    return None if size is None or not _attribute(patches, "strict_img_size") else _size(size)


def _size(given: Any) -> Size:
    """Return height and width of 224, [224], [224, 224] or timm's [3, 224, 224]."""
    sides = [int(side) for side in (given if isinstance(given, Sequence) else [given])][-2:]
    return sides[0], sides[-1]


def _checked(size: Size, mean: Sequence[float], std: Sequence[float]) -> Preprocessing:
    if min(size) < 1 or len(mean) != len(std) or min(std) <= 0:
        raise UserError(
            f"preprocessing: size {size}, mean {list(mean)}, std {list(std)}: expected sides of at "
            "least 1, and a mean and a std above 0 of each channel"
        )
    return Preprocessing(size, tuple(map(float, mean)), tuple(map(float, std)))


def _attribute(thing: Any, name: str) -> Any:
    """Return an attribute of somebody else's object; None where it has none."""
    return getattr(thing, name, None)


def count_channels(model: nn.Module) -> int:
    """Return how many channels the first convolution of a network reads; 3 without one.

    Args:
        model: the network.
    """
    convolutions = (m for m in model.modules() if isinstance(m, nn.Conv2d))
    return next((m.in_channels for m in convolutions), 3)


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a network's first parameter or buffer; the CPU without any.

    Args:
        model: the network.
    """
    tensors = [*model.parameters(), *model.buffers()][:1]
    return tensors[0].device if tensors else torch.device("cpu")


def dtype_of(model: nn.Module) -> torch.dtype:
    """Return the dtype of a network's first parameter of floats; float32 without any.

    Args:
        model: the network.
    """
    floats = (tensor.dtype for tensor in model.parameters() if tensor.is_floating_point())
    return next(floats, torch.float32)
