"""Images as a network reads them, from tensors, arrays, Pillow images and paths."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
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
from pipeline.ops.intensity import IntensityRanges
from pipeline.ops.maps import frame_size
from pipeline.protocols import Segmenter
from pipeline.types import ClassSelector, Example, Size

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
    Images: TypeAlias = Image | Iterable[Image] | Iterable["Photograph"]


@dataclass(frozen=True)
class ImageInfo:
    """What is known of an image that was explained.

    Attributes:
        name: its path, or its place.
        size: height and width, of an upright photograph or of the tensor.
    """

    name: str
    size: Size


class Photograph:
    """A photograph of a file or in memory, read at the sizes that are asked for.

    Everything in this package that reads a photograph reads it here.

    Args:
        image: a path, a Pillow image, an array or a tensor.
        name: what messages call an image in memory; a file is called by its path.
        ranges: that images of more than 8 bits are scaled from; None: each by its own values.

    Raises:
        UserError: the shape, type or values of an array or tensor are others.
        TypeError: it is none of these.
        SkippedImage: Pillow cannot decode it.
    """

    def __init__(self, image: Any, name: str, ranges: IntensityRanges | None = None) -> None:
        self._ranges = ranges
        self._path = Path(image) if isinstance(image, str | os.PathLike) else None
        self._pixels = in_memory.read(image, name, ranges) if self._path is None else None
        self.name = name if self._path is None else str(image)
        self._size = None if self._pixels is None else self._pixels.shape[:2]

    @property
    def size(self) -> Size:
        """Height and width of the upright image."""
        if self._size is None:
            assert self._path is not None
            self._size = photo.read_size(self._path)
        return self._size

    def at(self, size: Size) -> UInt8[np.ndarray, "h w 3"]:
        """Read the whole image, scaled to a size.

        Args:
            size: height and width.

        Raises:
            SkippedImage: the file cannot be read.
        """
        if self._path is not None:
            scaled = photo.read(self._path, at=size, ranges=self._ranges)
            self._size = scaled.size
            return scaled.pixels
        resized = Pillow.fromarray(self.read()).resize(size[::-1], Pillow.Resampling.BILINEAR)
        return np.array(resized)

    def read(self) -> UInt8[np.ndarray, "H W 3"]:
        """Read the image at its own size.

        Raises:
            SkippedImage: the file cannot be read.
        """
        if self._pixels is not None:
            return self._pixels
        assert self._path is not None
        return photo.read(self._path, ranges=self._ranges).pixels

    def example(self, segmenter: Segmenter) -> Example | None:
        """Read the image as a segmenter reads it; None where it reads none.

        Args:
            segmenter: what the pixels are for.

        Raises:
            SkippedImage: the file cannot be read.
        """
        side = segmenter.needs_image
        if not side:
            return None
        of_file = self._path is not None
        pixels = self.at(frame_size(self.size, side)) if of_file else self.read()
        return Example(self.name, pixels, -1, self.size)


def open_photograph(image: Any, name: str, ranges: IntensityRanges | None = None) -> Photograph:
    """Return an image as a photograph, one that is open already as it is.

    Args:
        image: see `Photograph`.
        name: see `Photograph`.
        ranges: see `Photograph`.

    Raises:
        UserError: as `Photograph` does.
    """
    return image if isinstance(image, Photograph) else Photograph(image, name, ranges)


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
        UserError: a value is NaN or infinite, nobody says how photographs are normalized, or one
            cannot be read.
    """
    if isinstance(images, Tensor):
        size = (images.shape[2], images.shape[3])
        names = (f"image {n}" for n in range(first + 1, first + len(images) + 1))
        infos = [ImageInfo(name, size) for name in names]
        _check_finite(images, infos)
        return images.detach().to(device), infos
    if any(is_network_input(image) for image in images):
        raise UserError("images: tensors of floats and photographs cannot be in one call")
    if preprocessing is None:
        raise UserError(
            "preprocessing: this network does not say how its images are normalized; give "
            "preprocessing={'size': 224, 'mean': (0.485, 0.456, 0.406), 'std': (0.229, 0.224, "
            "0.225)} with its own numbers, torchvision's weights, timm's configuration or Hugging "
            "Face's image processor; or a tensor [b, 3, H, W] that is normalized already"
        )
    photographs = [
        open_photograph(image, f"image {n}", preprocessing.ranges)
        for n, image in enumerate(images, first + 1)
    ]
    pixels = np.stack([photograph.at(preprocessing.size) for photograph in photographs])
    if len(preprocessing.mean) == 1:
        pixels = _to_grey(pixels)
    elif len(preprocessing.mean) != 3:
        raise UserError(
            f"preprocessing: a mean of {len(preprocessing.mean)} channels; photographs are for "
            "networks of 1 or 3 channels; give others a tensor [b, c, H, W]"
        )
    tensor = to_tensor(pixels, preprocessing.mean, preprocessing.std, device)
    return tensor, [ImageInfo(photograph.name, photograph.size) for photograph in photographs]


def _to_grey(pixels: UInt8[np.ndarray, "b H W 3"]) -> UInt8[np.ndarray, "b H W 1"]:
    """Return the luma of pixels by ITU-R 601, as Pillow's mode L has it."""
    weights = np.array([19595, 38470, 7471], np.uint32)  # 0.299, 0.587, 0.114 times 2 ** 16
    luma = (pixels.astype(np.uint32) @ weights + 0x8000) >> 16
    return luma.astype(np.uint8)[..., None]


def _check_finite(images: Tensor, infos: Sequence[ImageInfo]) -> None:
    """Raise UserError where a value of an image is NaN or infinite."""
    counts = (~images.isfinite()).flatten(1).sum(1).tolist()
    bad = [(info.name, count) for info, count in zip(infos, counts, strict=True) if count]
    if bad:
        name, count = bad[0]
        more = f", and so have {len(bad) - 1} more" if len(bad) > 1 else ""
        raise UserError(
            f"images: {name} has {count} value{'' if count == 1 else 's'} NaN or infinite{more}; "
            "look at how it was normalized"
        )


def check_logits(select: ClassSelector, infos: Sequence[ImageInfo]) -> ClassSelector:
    """Return the function that selects classes, and refuses logits that are no numbers.

    Minus infinity is allowed: networks use it for classes that are switched off.

    Args:
        select: from logits [b, C] to classes [b, t].
        infos: of the images of the batch.

    Raises:
        UserError: when it is called, a logit is NaN or infinite.
    """

    def select_checked(logits: Tensor) -> Tensor:
        bad = (logits.isnan() | (logits == float("inf"))).any(1).nonzero()[:, 0].tolist()
        if bad:
            name = infos[bad[0]].name if len(logits) == len(infos) else "an image"
            more = f", and {len(bad) - 1} more" if len(bad) > 1 else ""
            raise UserError(
                f"model: its output for {name}{more} is NaN or infinite; look at its weights, at "
                "how the images are normalized, and at its precision (float16 ends at 65504)"
            )
        return select(logits)

    return select_checked
