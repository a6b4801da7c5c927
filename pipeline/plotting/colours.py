"""A map as a picture: alone, over its image, grey, with its sign, in colour.

Pure functions from raw values to uint8 RGB; the values themselves are never changed. A picture is
scaled by the map's own values: what few pixels have would leave all others dark, so the scale ends
at a percentile (`clip`), beyond which everything is as bright as can be.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import cv2
import numpy as np

from pipeline.types import Size

if TYPE_CHECKING:
    from jaxtyping import Float32, UInt8

BLUE, RED = (22, 64, 160), (176, 14, 38)  # RGB: the ends of the diverging scale, white between
FAINT, THICK = 0.12, 0.72  # of the colours over an image, where the map is lowest and highest


# -- numbers -------------------------------------------------------------------------------------


def at_frame(values: Float32[np.ndarray, "h w ..."], frame: Size) -> Float32[np.ndarray, "H W ..."]:
    """Scaled to the picture: bilinear, or by areas where it shrinks, so that no line is lost.

    Values that are not finite count as 0: nothing to see.
    """
    height, width = frame
    finite = np.nan_to_num(np.ascontiguousarray(values, np.float32), posinf=0, neginf=0)
    shrinks = height < values.shape[0] and width < values.shape[1]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    scaled: Float32[np.ndarray, "H W ..."] = cv2.resize(finite, (width, height), interpolation=how)
    return scaled


def for_class(values: Float32[np.ndarray, "h w"], clip: float) -> Float32[np.ndarray, "h w"]:
    """What speaks for the class, in [0, 1]: from 0, or the lowest value where all are above it, to
    the percentile `clip`. What speaks against it counts as 0."""
    low, high = max(0.0, float(values.min())), float(np.percentile(values, clip))
    if not high > low:  # fewer pixels than the percentile leaves out have any value
        high = float(values.max())
    if not high > low:
        return np.zeros_like(values)
    return ((values - low) / (high - low)).clip(0, 1)


def balanced(values: Float32[np.ndarray, "..."], clip: float) -> Float32[np.ndarray, "..."]:
    """For and against, in [-1, 1]: 0 stays 0, both ends are the percentile `clip` of magnitudes."""
    magnitudes = np.abs(values)
    most = float(np.percentile(magnitudes, clip)) or float(magnitudes.max())
    return (values / most).clip(-1, 1) if most > 0 else np.zeros_like(values)


# -- colours -------------------------------------------------------------------------------------


def sequential(unit: Float32[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """[0, 1] in inferno: black, purple, orange, light yellow, in even steps of brightness."""
    return np.take(_table(cv2.COLORMAP_INFERNO), _levels(unit), axis=0)


def rainbow(unit: Float32[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """[0, 1] in turbo: blue, green, yellow, red, which few photographs are made of."""
    return np.take(_table(cv2.COLORMAP_TURBO), _levels(unit), axis=0)


def diverging(signed: Float32[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """[-1, 1] from blue (against) over white (0) to red (for)."""
    levels = np.rint(signed * 127 + 127).astype(np.uint8)
    return np.asarray(np.take(_red_white_blue(), levels, axis=0))


def grey(unit: Float32[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """[0, 1] from black to white."""
    return _levels(unit[..., None].repeat(3, -1))


def in_colour(channels: Float32[np.ndarray, "h w 3"], clip: float) -> UInt8[np.ndarray, "h w 3"]:
    """Red, green and blue as they are, mid-grey where they are 0; black there if none is below."""
    scaled = balanced(channels, clip)
    return _levels(scaled if channels.min() >= 0 else 0.5 + 0.5 * scaled)


def blended(
    image: UInt8[np.ndarray, "H W 3"], unit: Float32[np.ndarray, "H W"], share: float = 0.55
) -> UInt8[np.ndarray, "H W 3"]:
    """A map in [0, 1] in colours over the image, which keeps its brightness where nothing is."""
    return _mixed(image, rainbow(unit), np.full_like(unit, share))


def laid_over(
    image: UInt8[np.ndarray, "H W 3"], unit: Float32[np.ndarray, "H W"]
) -> UInt8[np.ndarray, "H W 3"]:
    """A map in [0, 1] in `sequential`'s colours over the image: the higher, the less of the image
    is seen through them."""
    return _mixed(image, sequential(unit), FAINT + (THICK - FAINT) * unit**0.7)


def signed_over(
    image: UInt8[np.ndarray, "H W 3"], signed: Float32[np.ndarray, "H W"]
) -> UInt8[np.ndarray, "H W 3"]:
    """A map in [-1, 1] in `diverging`'s colours over the image in grey, where no colour misleads:
    the larger a magnitude, the less of the image is seen; where the map is 0, all of it."""
    bare = image.mean(2, keepdims=True).astype(np.uint8).repeat(3, 2)
    return _mixed(bare, diverging(signed), THICK * np.abs(signed))


def _mixed(
    image: UInt8[np.ndarray, "H W 3"],
    colour: UInt8[np.ndarray, "H W 3"],
    share: Float32[np.ndarray, "H W"],
) -> UInt8[np.ndarray, "H W 3"]:
    """A share of the colour, the rest of the image, paler so that its own colours mislead less."""
    pale = 0.6 * image + 0.4 * image.mean(2, keepdims=True)
    mixed = pale + share[..., None] * (colour - pale)
    return np.asarray(mixed.clip(0, 255).astype(np.uint8))


@cache
def _red_white_blue() -> UInt8[np.ndarray, "255 3"]:
    """Straight lines in Lab from white to either end: even steps, alike on both sides."""
    ends = np.array([[BLUE, (255, 255, 255), RED]], np.float32) / 255
    blue, white, red = cv2.cvtColor(ends, cv2.COLOR_RGB2Lab)[0]
    steps = np.linspace(0, 1, 128, dtype=np.float32)[:, None]
    halves = np.concatenate([blue + (white - blue) * steps, white + (red - white) * steps[1:]])
    return _levels(cv2.cvtColor(halves[None], cv2.COLOR_Lab2RGB)[0])


@cache
def _table(which: int) -> UInt8[np.ndarray, "256 3"]:
    levels = np.arange(256, dtype=np.uint8)[:, None]
    return np.ascontiguousarray(cv2.applyColorMap(levels, which)[:, 0, ::-1])


def _levels(unit: Float32[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
    return np.asarray(np.rint(unit * 255).astype(np.uint8))
