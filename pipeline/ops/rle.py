"""Masks as COCO has them: run-length, over the original image, whatever its size.

    pixel (y, x) of the image is pixel (y * h // H, x * w // W) of the frame

The runs are scaled, the image's pixels never made: a mask of a 12-megapixel photograph costs what
its outline does.
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
    counts = np.diff(np.concatenate([[0], _turns(mask, size), [height * width]]))
    whole = counts if len(counts) < 2 or counts[-1] else counts[:-1]
    found = coco_mask.frPyObjects({"size": [height, width], "counts": whole.tolist()}, *size)
    return {"size": [height, width], "counts": found["counts"].decode("ascii")}


def _turns(mask: Bool[np.ndarray, "h w"], size: Size) -> np.ndarray:
    """Where the pixels, column by column, go from outside to inside and back, in turn."""
    (height, width), (h, w) = size, mask.shape
    edges = _edges(h, height)
    padded = np.zeros((w, h + 2), np.int8)
    padded[:, 1:-1] = mask.T
    columns, rows = np.nonzero(np.diff(padded, axis=1))
    count = np.bincount(columns, minlength=w)
    own = np.arange(width) * w // width  # the frame's column of each of the image's
    start = np.repeat((np.cumsum(count) - count)[own], count[own])
    ends = np.cumsum(count[own])
    within = np.arange(ends[-1] if width else 0) - np.repeat(ends - count[own], count[own])
    places = np.repeat(np.arange(width) * height, count[own]) + edges[rows[start + within]]
    # A run that reaches the foot of a column may go on at the head of the next one.
    pairs = places.reshape(-1, 2)
    pairs = pairs[pairs[:, 0] < pairs[:, 1]]  # rows of the frame that the image has no pixel of
    goes_on = pairs[1:, 0] == pairs[:-1, 1]
    starts = pairs[np.concatenate([[True], ~goes_on])[: len(pairs)], 0]
    stops = pairs[np.concatenate([~goes_on, [True]])[: len(pairs)], 1]
    return np.stack([starts, stops], 1).ravel()


def _edges(inner: int, outer: int) -> np.ndarray:
    """The first pixel of the image that lies in each pixel of the frame, and the end."""
    return -(-np.arange(inner + 1) * outer // inner)
