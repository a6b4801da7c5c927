"""Windows in a training image in which the object is larger than in the image.

A localization head learns the sizes that objects have in the training images, and finds too little
of an object that is nearer: the edge of what it found is then inside the object. Crops around the
pseudo-mask show it objects of all sizes. No box is read.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import numpy as np
import torch

from pipeline.saliency.zoom import crop_to_boxes

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Float32

MAX_SHARE = 0.95  # of the window's area that the box of the object has
CUT_OFF = 1 / 3  # of the windows cut off a part of the object,
CUT_SHARE = (0.05, 0.2)  # of its width or height
TRIES = 30


def draw_window(mask: Bool[np.ndarray, "h w"], name: str) -> Float32[np.ndarray, 4]:
    """Draw a window in which the box of a mask has a random share of the area.

    The share is uniform between that in the image and MAX_SHARE; a third of the windows end inside
    the object at one side.

    Args:
        mask: where the object is.
        name: of the image; it always has the same window.

    Returns:
        `xyxy` relative to the image; the whole image where there is no object, or no window fits.
    """
    whole = np.array([0, 0, 1, 1], np.float32)
    if not mask.any():
        return whole
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    box = _find_box(mask)
    own = float((box[2] - box[0]) * (box[3] - box[1]))
    share = rng.uniform(min(own, MAX_SHARE), MAX_SHARE)
    for _ in range(TRIES):
        seen, side = _cut_off(rng, box)
        # A window around the box has the aspect of the box times share to 1 / share.
        stretch = float(np.exp(rng.uniform(-1, 1) * np.log(1 / share)))
        lengths = (seen[2:] - seen[:2]) * np.sqrt([stretch / share, 1 / (stretch * share)])
        starts = [_place(rng, seen[n], seen[n + 2], lengths[n], side - n) for n in (0, 1)]
        if starts[0] is not None and starts[1] is not None:
            first = np.array(starts)
            return np.concatenate((first, first + lengths)).astype(np.float32)
    return whole


def crop_masks(
    masks: Float32[np.ndarray, "b h w"], windows: Float32[np.ndarray, "b 4"]
) -> Float32[np.ndarray, "b h w"]:
    """Crop masks to windows, and scale the crops to the size of the masks.

    Args:
        masks: from 0 to 1.
        windows: `xyxy` relative to the image.
    """
    stacked = torch.from_numpy(masks)[:, None]
    return np.asarray(crop_to_boxes(stacked, torch.from_numpy(windows))[:, 0].numpy())


def _find_box(mask: Bool[np.ndarray, "h w"]) -> Float[np.ndarray, 4]:
    """Find the tightest box around a mask, relative to the image."""
    height, width = mask.shape
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    ends = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    return np.array(ends, np.float64) / [width, height, width, height]


def _cut_off(
    rng: np.random.Generator, box: Float[np.ndarray, 4]
) -> tuple[Float[np.ndarray, 4], int]:
    """Cut off a part of the box in some cases.

    Returns:
        The rest, and the side that was cut (0 to 3 for x0, y0, x1, y1; else -2).
    """
    seen, side = box.copy(), -2
    if rng.random() < CUT_OFF:
        side = int(rng.integers(4))
        length = seen[side % 2 + 2] - seen[side % 2]
        seen[side] += (1 if side < 2 else -1) * rng.uniform(*CUT_SHARE) * length
    return seen, side


def _place(
    rng: np.random.Generator, low: float, high: float, length: float, cut: int
) -> float | None:
    """Draw where a window begins on an axis; None where it does not fit.

    Args:
        rng: the generator.
        low: where the object begins.
        high: where it ends.
        length: of the window.
        cut: 0 if the window begins where the object does, 2 if it ends there.
    """
    first, last = max(0.0, high - length), min(low, 1 - length)
    if cut == 0:
        first = last = low
    if cut == 2:
        first = last = high - length
    if first > last or first < 0 or last + length > 1:
        return None
    return float(rng.uniform(first, last))
