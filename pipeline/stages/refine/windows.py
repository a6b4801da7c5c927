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

from pipeline.ops.windows import try_window
from pipeline.saliency.zoom import crop_to_boxes

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Float32

MAX_SHARE = 0.95  # of the window's area that the box of the object has
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
        window = try_window(rng, box, share, (1, 1))
        if window is not None:
            return window.astype(np.float32)
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
