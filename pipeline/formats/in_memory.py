"""Images in memory, of Pillow, numpy and torch, as upright RGB arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from pipeline.errors import UserError
from pipeline.formats import photo
from pipeline.formats.deep import DeepImage
from pipeline.ops.intensity import IntensityRanges, number_kind

if TYPE_CHECKING:
    from jaxtyping import UInt8
    from torch import Tensor

EXPECTED = (
    "expected a path, a PIL image, an array [H, W, 3], [H, W, 4] or [H, W], or a tensor [3, H, W], "
    "of uint8 or of floats from 0 to 1, or a list of these"
)
TOLERANCE = 1e-3  # of floats outside 0 to 1, which interpolation makes
CHANNELS = (1, 3, 4)


def read(
    image: Any, name: str, ranges: IntensityRanges | None = None
) -> UInt8[np.ndarray, "H W 3"]:
    """Return an image in memory as RGB, turned upright, transparent parts over white.

    Args:
        image: a Pillow image of any mode, whose EXIF orientation is applied; an array [H, W, 3],
            [H, W, 4], [H, W, 1] or [H, W]; or a torch tensor [3, H, W], [4, H, W], [1, H, W] or
            [H, W]. Arrays and tensors are uint8, or floats from 0 to 1; or other integers or floats
            where `ranges` has a range for them.
        name: what messages call it.
        ranges: the ranges that images of more than 8 bits are scaled from, as files are.

    Raises:
        TypeError: it is none of these.
        UserError: its shape, type or values are others.
        SkippedImage: Pillow cannot decode it.
    """
    if isinstance(image, Image.Image):
        return photo.convert(image, name, ranges)
    import torch

    is_tensor = isinstance(image, torch.Tensor)
    if not is_tensor and not isinstance(image, np.ndarray):
        raise TypeError(f"{name}: {EXPECTED}; got {type(image).__name__}")
    pixels = _to_array(image) if is_tensor else image
    _check_shape(pixels, is_tensor, name)
    if pixels.ndim == 3 and is_tensor:
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    is_deep = pixels.dtype.kind in "iuf" and pixels.dtype != np.uint8
    if is_deep and ranges is not None and number_kind(pixels) in ranges.ranges:
        return photo.convert(DeepImage(pixels).to_bytes(ranges), name)
    cast = ".to(torch.{})" if is_tensor else ".astype('{}')"
    ranges = IntensityRanges() if ranges is None else ranges
    eight_bits = _to_eight_bits(pixels, name, cast, ranges)
    return photo.convert(Image.fromarray(np.ascontiguousarray(eight_bits)), name)


def _to_array(tensor: Tensor) -> np.ndarray:
    """Return a tensor of any device as an array, floats as float32."""
    values = tensor.detach().cpu()
    return (values.float() if values.is_floating_point() else values).numpy()


def _check_shape(pixels: np.ndarray, is_tensor: bool, name: str) -> None:
    """Raise UserError unless an array or tensor has the shape of an image."""
    shape = pixels.shape
    first, last = (shape[0] in CHANNELS, shape[-1] in CHANNELS) if shape else (False, False)
    has_channels = first if is_tensor else last
    if (len(shape) == 2 or (len(shape) == 3 and has_channels)) and 0 not in shape:
        return
    hint = ""
    if 0 in shape:
        hint = ", which is empty"
    elif len(shape) == 3 and (first or last):
        hint = ("; .permute(2, 0, 1) puts the channels first" if is_tensor
                else "; .transpose(1, 2, 0) puts the channels last")  # fmt: skip
    elif len(shape) == 4:
        hint = "; of a batch give list(batch)"
    kind = "a tensor" if is_tensor else "an array"
    raise UserError(f"{name}: {EXPECTED}; got {kind} {list(shape)}{hint}")


def _to_eight_bits(pixels: np.ndarray, name: str, cast: str, ranges: IntensityRanges) -> np.ndarray:
    """Return uint8 as it is, and floats from 0 to 1 scaled to 0 to 255.

    Args:
        pixels: of any type and values.
        name: what messages call it.
        cast: how its type is changed, with a place for the type.
        ranges: without one for this kind of number.

    Raises:
        UserError: the values are others.
    """
    kind = pixels.dtype.kind
    if pixels.dtype == np.uint8:
        return pixels
    if kind == "b":
        remedy = f"{cast.format('uint8')} * 255 is black and white"
        raise UserError(f"{name}: {EXPECTED}; got bool: {remedy}")
    if kind not in "iuf":
        raise UserError(f"{name}: {EXPECTED}; got {pixels.dtype}")
    low, high = float(pixels.min()), float(pixels.max())  # NaN where a value is NaN
    if kind == "f" and low >= -TOLERANCE and high <= 1 + TOLERANCE:
        return np.asarray(np.rint(np.clip(pixels, 0, 1) * 255), np.uint8)
    if kind == "f":
        what = f"floats from 0 to 1 are expected, got {low:g} to {high:g}"
    else:
        what = f"{EXPECTED}; got {pixels.dtype} from {low:.0f} to {high:.0f}"
    raise UserError(f"{name}: {what}: {_scaling_remedy(kind, (low, high), cast, ranges)}")


def _scaling_remedy(
    kind: str, between: tuple[float, float], cast: str, ranges: IntensityRanges
) -> str:
    """Say how values that are refused become values that are read."""
    low, high = between
    if kind != "f" and low >= 0 and high <= 255:
        return f"{cast.format('uint8')} keeps values from 0 to 255"
    scaled = (
        f"(image{cast.format('float32')} - low) / (high - low) with low and high of all images "
        f"(here {low:g} and {high:g}) makes floats from 0 to 1"
    )
    for other, (least, greatest) in ranges.ranges.items():  # of the other kind of number
        same = cast.format("int32" if other == "integer" else "float32")
        return (
            f"the network was trained on {other}s scaled from [{least:g}, {greatest:g}]: if these "
            f"are such values, give image{same}; else {scaled}"
        )
    if kind == "f":
        return (
            "divide values up to 255 by 255, and undo the mean and deviation of a normalized "
            f"tensor; of values of more than 8 bits without NaN {scaled}"
        )
    return scaled
