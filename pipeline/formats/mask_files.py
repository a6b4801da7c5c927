"""Masks of objects in image files: what is not black belongs to the object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image

from pipeline.errors import SkippedImage
from pipeline.types import Size

if TYPE_CHECKING:
    from jaxtyping import Bool, UInt8

IGNORE = 255  # in a mask: pixels that count neither as object nor as background


@dataclass(frozen=True)
class Masks:
    """The mask files of an image.

    Attributes:
        objects: A mask for each object.
        ignore: A mask of what is not counted; None: all is counted.
    """

    objects: Sequence[Path]
    ignore: Path | None


def read_masks(masks: Masks, size: Size | None = None) -> UInt8[np.ndarray, "h w"]:
    """Read the masks of an image into one.

    Args:
        masks: Its files.
        size: (height, width) to scale to, by the nearest pixel; None: not scaled.

    Returns:
        1 for objects, 0 for background, 255 (IGNORE) for what is ignored and is no object.

    Raises:
        SkippedImage: A file cannot be read, or the sizes differ.
    """
    objects = [read_mask(path, size) for path in masks.objects]
    if any(mask.shape != objects[0].shape for mask in objects):
        raise SkippedImage("have masks of several sizes")
    covered = np.asarray(np.any(objects, 0), bool)
    combined: UInt8[np.ndarray, "h w"] = covered.astype(np.uint8)
    if masks.ignore is not None:
        ignored = read_mask(masks.ignore, size)
        if ignored.shape != covered.shape:
            raise SkippedImage("have masks of several sizes")
        combined[ignored & ~covered] = IGNORE
    return combined


def read_mask(path: Path, size: Size | None = None) -> Bool[np.ndarray, "h w"]:
    """Read a mask: True where the image file is not black.

    Args:
        path: An image file.
        size: (height, width) to scale to, by the nearest pixel; None: not scaled.

    Raises:
        SkippedImage: The file cannot be read.
    """
    try:
        data = np.fromfile(path, np.uint8)
        mask = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE) if len(data) else None
    except (OSError, cv2.error):
        mask = None
    if mask is None:
        raise SkippedImage("have a mask that cannot be read")
    if size is not None:
        mask = cv2.resize(mask, size[::-1], interpolation=cv2.INTER_NEAREST)
    return np.asarray(mask > 0)


def read_values(path: Path) -> UInt8[np.ndarray, "h w"]:
    """Read the values of an image file of one channel, as a trimap is: palettes are not applied.

    Args:
        path: The file.

    Raises:
        SkippedImage: It cannot be read, or has several channels.
    """
    try:
        with Image.open(path) as image:
            if image.mode not in ("L", "P", "1"):
                raise SkippedImage(f"{path.name}: of mode {image.mode}, not of one channel")
            return np.asarray(image, np.uint8)
    except SkippedImage:
        raise
    except Exception as error:  # decoders raise anything
        raise SkippedImage(f"{path.name}: cannot be read ({type(error).__name__})") from None
