"""Masks as COCO stores them: run lengths over the original image, column by column.

    pixel (y, x) of the image is pixel (y * h // H, x * w // W) of the frame

The runs are scaled instead of the pixels, so the cost grows with the outline of the mask, not with
the size of the image.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline.types import Rle, Size

if TYPE_CHECKING:
    from jaxtyping import Bool


def encode_rle(mask: Bool[np.ndarray, "h w"], size: Size) -> Rle:
    """Encode a mask as COCO's compressed run lengths over the original image.

    Args:
        mask: True inside. It covers the whole image, at any resolution.
        size: (height, width) of the original image in pixels.

    Returns:
        `size` and `counts`, as in a COCO file.

    Examples:
        >>> encode_rle(np.array([[False, True]]), (2, 4))
        {'size': [2, 4], 'counts': '44'}
    """
    from pycocotools import mask as coco_mask

    height, width = size
    counts = np.diff(np.concatenate([[0], _find_transitions(mask, size), [height * width]]))
    runs = counts if len(counts) < 2 or counts[-1] else counts[:-1]
    encoded = coco_mask.frPyObjects({"size": [height, width], "counts": runs.tolist()}, *size)
    return {"size": [height, width], "counts": encoded["counts"].decode("ascii")}


def _find_transitions(mask: Bool[np.ndarray, "h w"], size: Size) -> np.ndarray:
    """Find where the image's pixels, column by column, change between outside and inside.

    Returns:
        Flat indices of the first pixel of each run inside, and of the pixel after it, in turn.
    """
    (height, width), (h, w) = size, mask.shape
    edges = _find_edges(h, height)
    padded = np.zeros((w, h + 2), np.int8)
    padded[:, 1:-1] = mask.T
    columns, rows = np.nonzero(np.diff(padded, axis=1))
    count = np.bincount(columns, minlength=w)
    column = np.arange(width) * w // width  # of the frame, for each column of the image
    start = np.repeat((np.cumsum(count) - count)[column], count[column])
    ends = np.cumsum(count[column])
    within = np.arange(ends[-1] if width else 0) - np.repeat(ends - count[column], count[column])
    positions = np.repeat(np.arange(width) * height, count[column]) + edges[rows[start + within]]
    # A run that reaches the bottom of a column may continue at the top of the next column.
    pairs = positions.reshape(-1, 2)
    pairs = pairs[pairs[:, 0] < pairs[:, 1]]  # drop rows of the frame without a pixel of the image
    continues = pairs[1:, 0] == pairs[:-1, 1]
    starts = pairs[np.concatenate([[True], ~continues])[: len(pairs)], 0]
    stops = pairs[np.concatenate([~continues, [True]])[: len(pairs)], 1]
    return np.stack([starts, stops], 1).ravel()


def _find_edges(inner: int, outer: int) -> np.ndarray:
    """Find the first pixel of the image that lies in each pixel of the frame, and the end."""
    return -(-np.arange(inner + 1) * outer // inner)
