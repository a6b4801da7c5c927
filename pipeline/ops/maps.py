"""From a map back to pixels: upsample to the frame, then min-max to [0, 1], then threshold.

The frame is the size at which a map is thresholded: that of the image, or smaller. Only this module
defines that order. A map covers the whole image, so pixel x of a frame of width w covers the pixels
x * W / w <= . < (x + 1) * W / w of an image of width W.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np

from pipeline.types import Size

if TYPE_CHECKING:
    from jaxtyping import Float32
# The longer side of a frame. A map has some ten cells a side: a larger frame would only cost time,
# and this bounds the memory whatever the size of the photograph.
LONGER_SIDE = 512


def frame_size(size: Size, longer_side: int = LONGER_SIDE) -> Size:
    """Return the (height, width) at which the map of an image is thresholded.

    Args:
        size: (height, width) of the image in pixels.
        longer_side: The most pixels that the longer side may have.

    Returns:
        The size itself, or the size shrunk to `longer_side` with its aspect kept; at least (1, 1).

    Examples:
        >>> frame_size((3000, 4000))
        (384, 512)
        >>> frame_size((37, 101))
        (37, 101)
    """
    height, width = size
    shrink = min(1.0, longer_side / max(height, width))
    return max(1, round(height * shrink)), max(1, round(width * shrink))


def upsample(values: Float32[np.ndarray, "h w"], frame: Size) -> Float32[np.ndarray, "H W"]:
    """Upsample a map bilinearly, with half-pixel centres, and scale the result to [0, 1].

    Args:
        values: A raw map; values that are not finite count as the lowest finite value.
        frame: (height, width) of the result in pixels.

    Returns:
        The scaled map; zeros where all values are equal.
    """
    large = upsample_raw(values, frame)
    return min_max(large, out=large)


def upsample_raw(values: Float32[np.ndarray, "h w"], frame: Size) -> Float32[np.ndarray, "H W"]:
    """Upsample a map bilinearly, with half-pixel centres, without scaling its values.

    Args:
        values: A raw map; values that are not finite count as the lowest finite value, so that they
            do not spread to their neighbours, and as 0 where none is finite.
        frame: (height, width) of the result in pixels.

    Returns:
        The upsampled map.
    """
    height, width = frame
    finite = np.ascontiguousarray(values, np.float32)
    known = np.isfinite(finite)
    if not known.all():
        finite = np.where(known, finite, finite[known].min() if known.any() else np.float32(0))
    return np.asarray(cv2.resize(finite, (width, height), interpolation=cv2.INTER_LINEAR))


def min_max(
    values: Float32[np.ndarray, "h w"], out: Float32[np.ndarray, "h w"] | None = None
) -> Float32[np.ndarray, "h w"]:
    """Scale values linearly so that the lowest becomes 0 and the highest 1.

    Args:
        values: Finite values.
        out: Where to write the result; may be `values` itself.

    Returns:
        (v - min) / (max - min), in [0, 1]; zeros where all values are equal.

    Examples:
        >>> min_max(np.array([[-1, 0], [1, 3]], np.float32))
        array([[0.  , 0.25],
               [0.5 , 1.  ]], dtype=float32)
    """
    low, high = np.float64(values.min()), np.float64(values.max())
    if not high > low:
        return np.zeros_like(values)
    if high - low > np.finfo(np.float32).max:  # the difference would be infinite
        values, low, high = values / 4, low / 4, high / 4
    scaled: Float32[np.ndarray, "h w"] = np.subtract(values, np.float32(low), out=out)
    scaled /= np.float32(high - low)
    return scaled


def boxes_to_image(
    boxes: Float32[np.ndarray, "N 4"], frame: Size, size: Size
) -> Float32[np.ndarray, "N 4"]:
    """Scale boxes in the frame of a map to boxes in the original image.

    Args:
        boxes: Half-open `xyxy` in pixels of the frame.
        frame: (height, width) of the frame.
        size: (height, width) of the original image.

    Returns:
        Half-open `xyxy` in pixels of the original image.

    Examples:
        >>> boxes_to_image(np.array([[0, 0, 7, 14]], np.float32), (14, 7), (280, 70))
        array([[  0.,   0.,  70., 280.]], dtype=float32)
    """
    y, x = size[0] / frame[0], size[1] / frame[1]
    # In float64: in float32 the frame's edge could be rounded to beyond the image's edge.
    scaled: Float32[np.ndarray, "N 4"] = (boxes * np.array([x, y, x, y])).astype(np.float32)
    return scaled


def scale_size(size: Sequence[int], longer_side: int) -> Size:
    """Return (height, width) scaled so that the longer side has `longer_side` pixels.

    Args:
        size: (height, width) in pixels; further axes are ignored.
        longer_side: The longer side of the result in pixels.

    Returns:
        The scaled size, each side at least 1.

    Examples:
        >>> scale_size((30, 60), 512)
        (256, 512)
    """
    scale = longer_side / max(size[:2])
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
