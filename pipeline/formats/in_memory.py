"""Images in memory, of Pillow, numpy and torch, as upright RGB arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from pipeline.errors import UserError
from pipeline.formats import photo

if TYPE_CHECKING:
    from jaxtyping import UInt8
    from torch import Tensor

EXPECTED = (
    "expected a path, a PIL image, an array [H, W, 3], [H, W, 4] or [H, W], or a tensor [3, H, W], "
    "of uint8 or of floats from 0 to 1, or a list of these"
)
TOLERANCE = 1e-3  # of floats outside 0 to 1, which interpolation makes
CHANNELS = (1, 3, 4)


def read(image: Any, name: str) -> UInt8[np.ndarray, "H W 3"]:
    """Return an image in memory as RGB, turned upright, transparent parts over white.

    Args:
        image: a Pillow image of any mode, whose EXIF orientation is applied; an array [H, W, 3],
            [H, W, 4], [H, W, 1] or [H, W]; or a torch tensor [3, H, W], [4, H, W], [1, H, W] or
            [H, W]. Arrays and tensors are uint8, or floats from 0 to 1.
        name: what messages call it.

    Raises:
        TypeError: it is none of these.
        UserError: its shape, type or values are others.
        SkippedImage: Pillow cannot decode it.
    """
    if isinstance(image, Image.Image):
        return photo.convert(image, name)
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
    eight_bits = np.ascontiguousarray(_to_eight_bits(pixels, name))
    return photo.convert(Image.fromarray(eight_bits), name)


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
    if len(shape) == 3 and (first or last):
        hint = ("; .permute(2, 0, 1) puts the channels first" if is_tensor
                else "; .transpose(1, 2, 0) puts the channels last")  # fmt: skip
    elif len(shape) == 4:
        hint = "; of a batch give list(batch)"
    kind = "a tensor" if is_tensor else "an array"
    raise UserError(f"{name}: {EXPECTED}; got {kind} {list(shape)}{hint}")


def _to_eight_bits(pixels: np.ndarray, name: str) -> np.ndarray:
    """Return uint8 as it is, and floats from 0 to 1 scaled to 0 to 255.

    Raises:
        UserError: the values are others.
    """
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype.kind != "f":
        raise UserError(
            f"{name}: {EXPECTED}; got {pixels.dtype}: .astype('uint8') keeps values from 0 to 255"
        )
    low, high = float(pixels.min()), float(pixels.max())  # NaN where a value is NaN
    if not (low >= -TOLERANCE and high <= 1 + TOLERANCE):
        raise UserError(
            f"{name}: floats from 0 to 1 are expected, got {low:g} to {high:g}: divide values up "
            "to 255 by 255, and undo the mean and deviation of a normalized tensor"
        )
    return np.asarray(np.rint(np.clip(pixels, 0, 1) * 255), np.uint8)
