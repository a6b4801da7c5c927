"""Images as a network reads them, from tensors, arrays, Pillow images and paths."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from PIL import Image as Pillow
from torch import Tensor

from pipeline.engine.checkpoint import to_tensor
from pipeline.errors import UserError
from pipeline.formats import in_memory, photo
from pipeline.model.preprocessing import Preprocessing
from pipeline.types import Size

if TYPE_CHECKING:
    from jaxtyping import Float, Shaped, UInt8

    Image: TypeAlias = (
        str
        | os.PathLike[str]
        | Pillow.Image
        | UInt8[np.ndarray, "H W *channels"]
        | Shaped[np.ndarray, "H W *channels"]
        | Tensor
    )
    Images: TypeAlias = Image | Iterable[Image]


@dataclass(frozen=True)
class ImageInfo:
    """What is known of an image that was explained.

    Attributes:
        name: its path, or its place.
        size: height and width, of an upright photograph or of the tensor.
    """

    name: str
    size: Size


def is_image(value: Any) -> bool:
    """Return whether a value is a single image.

    Args:
        value: anything.
    """
    if isinstance(value, str | os.PathLike | Pillow.Image):
        return True
    return isinstance(value, np.ndarray | Tensor) and value.ndim < 4


def is_network_input(value: Any) -> bool:
    """Return whether a value is what a network reads already: a tensor of floats.

    Args:
        value: anything.
    """
    return isinstance(value, Tensor) and value.is_floating_point() and value.ndim in (3, 4)


def list_images(images: Any) -> list[Any]:
    """Return a single image, a batch or an iterable of images as a list of images.

    Args:
        images: one or several.

    Raises:
        TypeError: it is none of these.
    """
    if is_image(images):
        return [images]
    if not isinstance(images, Iterable) or isinstance(images, Mapping | bytes | bytearray):
        raise TypeError(f"images: {in_memory.EXPECTED}; got {type(images).__name__}")
    return list(images)


def read_batch(
    images: Tensor | list[Any],
    first: int,
    preprocessing: Preprocessing | None,
    device: torch.device,
) -> tuple[Float[Tensor, "b c H W"], list[ImageInfo]]:
    """Return a batch as the network reads it, and what is known of its images.

    A tensor of floats is taken as it is: normalized. All else are photographs: each is scaled to
    the network's size as a whole and normalized.

    Args:
        images: a batch, or a list of photographs.
        first: the place of the first among all images, for names.
        preprocessing: how photographs are prepared.
        device: of the network.

    Raises:
        UserError: nobody says how photographs are normalized, or one cannot be read.
    """
    if isinstance(images, Tensor):
        size = (images.shape[2], images.shape[3])
        names = (f"image {n}" for n in range(first + 1, first + len(images) + 1))
        return images.detach().to(device), [ImageInfo(name, size) for name in names]
    if any(is_network_input(image) for image in images):
        raise UserError("images: tensors of floats and photographs cannot be in one call")
    if preprocessing is None:
        raise UserError(
            "preprocessing: this network does not say how its images are normalized; give "
            "preprocessing={'size': 224, 'mean': (0.485, 0.456, 0.406), 'std': (0.229, 0.224, "
            "0.225)} with its own numbers, or a tensor [b, 3, H, W] that is normalized already"
        )
    read = [_read(image, f"image {n}", preprocessing) for n, image in enumerate(images, first + 1)]
    pixels = np.stack([pixels for pixels, _ in read])
    tensor = to_tensor(pixels, preprocessing.mean, preprocessing.std, device)
    return tensor, [info for _, info in read]


def _read(
    image: Any, name: str, preprocessing: Preprocessing
) -> tuple[UInt8[np.ndarray, "h w 3"], ImageInfo]:
    """Return a photograph at the network's size, and its own name and size."""
    if isinstance(image, str | os.PathLike):
        scaled = photo.read(Path(image), at=preprocessing.size)
        return scaled.pixels, ImageInfo(str(image), scaled.size)
    pixels = in_memory.read(image, name)
    height, width = preprocessing.size
    resized = Pillow.fromarray(pixels).resize((width, height), Pillow.Resampling.BILINEAR)
    return np.array(resized), ImageInfo(name, (pixels.shape[0], pixels.shape[1]))
