"""From a map back to pixels: upsample to the image, min-max to [0, 1], then whoever cuts, cuts.

The one place that owns this order. A map covers the whole image, so going back is one scaling:
pixel x of the frame covers the original pixels x * W / w <= . < (x + 1) * W / w.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from pipeline.types import Size

if TYPE_CHECKING:
    from jaxtyping import Float32
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxtyping import Float32

# The longer side at which maps are cut. A map has some ten cells a side: finer than this a cut
# only costs time, and memory is bounded whatever the size of the photograph.
LONGER_SIDE = 512


def frame_size(size: Size, longer_side: int = LONGER_SIDE) -> Size:
    """The (height, width) at which an image's map is cut: its own, or shrunk to `longer_side`."""
    height, width = size
    shrink = min(1.0, longer_side / max(height, width))
    return max(1, round(height * shrink)), max(1, round(width * shrink))


def upsample(values: Float32[np.ndarray, "h w"], frame: Size) -> Float32[np.ndarray, "H W"]:
    """Bilinear, half-pixel centres, then min-max to [0, 1]."""
    large = upsample_raw(values, frame)
    return min_max(large, out=large)


def upsample_raw(values: Float32[np.ndarray, "h w"], frame: Size) -> Float32[np.ndarray, "H W"]:
    """Bilinear, half-pixel centres, values kept.

    Values that are not finite count as the lowest, before they could spread to their neighbours.
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
    """(v - min) / (max - min) of finite values, into `out` if given; a constant map gives zeros."""
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
    """Half-open boxes in the frame as half-open boxes in the original image."""
    y, x = size[0] / frame[0], size[1] / frame[1]
    # In float64, so that the frame's edge lands on the image's edge and not a rounding beyond it.
    scaled: Float32[np.ndarray, "N 4"] = (boxes * np.array([x, y, x, y])).astype(np.float32)
    return scaled


def scale_size(size: Sequence[int], longer_side: int) -> Size:
    scale = longer_side / max(size[:2])
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
