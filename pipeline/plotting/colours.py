"""Colour a map: alone, over its image, in grey, with its sign, or in red, green and blue.

Pure functions from raw values to uint8 RGB; the values themselves are never changed. A picture is
scaled by the map's values up to a percentile (`clip`): values above it have the brightest colour.
With the maximum instead, a few outliers would leave all other pixels dark.
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


def resize_to_frame(
    values: Float32[np.ndarray, "h w ..."], frame: Size
) -> Float32[np.ndarray, "H W ..."]:
    """Resize a map to a picture: bilinear, or by area averages where it shrinks.

    Args:
        values: the map, with or without channels; values that are not finite count as 0.
        frame: height and width of the picture in pixels. Averages keep thin lines visible.
    """
    height, width = frame
    finite = np.nan_to_num(np.ascontiguousarray(values, np.float32), posinf=0, neginf=0)
    shrinks = height < values.shape[0] and width < values.shape[1]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    scaled: Float32[np.ndarray, "H W ..."] = cv2.resize(finite, (width, height), interpolation=how)
    return scaled


def scale_positive(values: Float32[np.ndarray, "h w"], clip: float) -> Float32[np.ndarray, "h w"]:
    """Scale the evidence for a class to [0, 1]; evidence against it (below 0) becomes 0.

    Args:
        values: the map, at any scale. Its 0, or its lowest value where all are above 0, becomes 0.
        clip: the percentile that becomes 1; 100 is the maximum.
    """
    low, high = max(0.0, float(values.min())), float(np.percentile(values, clip))
    if not high > low:  # fewer pixels than the percentile leaves out have any value
        high = float(values.max())
    if not high > low:
        return np.zeros_like(values)
    return ((values - low) / (high - low)).clip(0, 1)


def scale_signed(values: Float32[np.ndarray, "..."], clip: float) -> Float32[np.ndarray, "..."]:
    """Scale evidence for and against a class to [-1, 1]; 0 stays 0.

    Args:
        values: the map, at any scale.
        clip: the percentile of the magnitudes that becomes 1 and -1; 100 is the maximum.
    """
    magnitudes = np.abs(values)
    most = float(np.percentile(magnitudes, clip)) or float(magnitudes.max())
    return (values / most).clip(-1, 1) if most > 0 else np.zeros_like(values)


# -- colours -------------------------------------------------------------------------------------


def apply_inferno(unit: Float32[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Map [0, 1] to inferno: black, purple, orange, light yellow, in even steps of brightness."""
    return np.take(_table(cv2.COLORMAP_INFERNO), _levels(unit), axis=0)


def apply_turbo(unit: Float32[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Map [0, 1] to turbo: blue, green, yellow, red, saturated colours rare in photographs."""
    return np.take(_table(cv2.COLORMAP_TURBO), _levels(unit), axis=0)


def apply_diverging(signed: Float32[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Map [-1, 1] to blue (against the class), white (0) and red (for the class)."""
    levels = np.rint(signed * 127 + 127).astype(np.uint8)
    return np.asarray(np.take(_red_white_blue(), levels, axis=0))


def apply_grey(unit: Float32[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Map [0, 1] to grey levels from black to white."""
    return _levels(unit[..., None].repeat(3, -1))


def colour_channels(
    channels: Float32[np.ndarray, "h w 3"], clip: float
) -> UInt8[np.ndarray, "h w 3"]:
    """Show three channels as red, green and blue.

    Args:
        channels: at any scale. Their 0 is mid-grey where some value is negative, else black.
        clip: the percentile of the magnitudes that has full colour.
    """
    scaled = scale_signed(channels, clip)
    return _levels(scaled if channels.min() >= 0 else 0.5 + 0.5 * scaled)


def blend_map(
    image: UInt8[np.ndarray, "H W 3"], unit: Float32[np.ndarray, "H W"], share: float = 0.55
) -> UInt8[np.ndarray, "H W 3"]:
    """Blend a map in [0, 1], in turbo's colours, with its image at a constant share."""
    return _mix(image, apply_turbo(unit), np.full_like(unit, share))


def overlay_map(
    image: UInt8[np.ndarray, "H W 3"], unit: Float32[np.ndarray, "H W"]
) -> UInt8[np.ndarray, "H W 3"]:
    """Overlay an image with a map in [0, 1], in inferno's colours: higher is more opaque."""
    return _mix(image, apply_inferno(unit), FAINT + (THICK - FAINT) * unit**0.7)


def overlay_signed_map(
    image: UInt8[np.ndarray, "H W 3"], signed: Float32[np.ndarray, "H W"]
) -> UInt8[np.ndarray, "H W 3"]:
    """Overlay an image with a map in [-1, 1], in blue and red: larger magnitudes are more opaque.

    The image is grey, so that its colours are not taken for the map's; where the map is 0, nothing
    covers it.
    """
    bare = image.mean(2, keepdims=True).astype(np.uint8).repeat(3, 2)
    return _mix(bare, apply_diverging(signed), THICK * np.abs(signed))


def _mix(
    image: UInt8[np.ndarray, "H W 3"],
    colour: UInt8[np.ndarray, "H W 3"],
    share: Float32[np.ndarray, "H W"],
) -> UInt8[np.ndarray, "H W 3"]:
    """Mix a share of the colours with the image, which is made paler so that it stands out less."""
    pale = 0.6 * image + 0.4 * image.mean(2, keepdims=True)
    mixed = pale + share[..., None] * (colour - pale)
    return np.asarray(mixed.clip(0, 255).astype(np.uint8))


@cache
def _red_white_blue() -> UInt8[np.ndarray, "255 3"]:
    """Return the diverging scale: straight lines in Lab from white, even on both sides."""
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
