"""The outlines of annotated masks, small enough for the report to draw them.

    true_masks.json   of each image, or class in it, that was scored and has a mask:
                      {"id", "class", "width", "height", "object", "ignored"}

`object` and `ignored` are outlines as SVG writes paths, in pixels of a frame of `width` x `height`
that covers the whole image; holes are outlines of their own. What is ignored counts neither as
object nor as background. The numbers are measured on the masks themselves (metric/measurement.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from pipeline.metric.measurement import IGNORE, merge_masks
from pipeline.ops.maps import scale_size
from pipeline.stages.evaluate.regions import ignored_regions, own_masks
from pipeline.types import GroundTruth

if TYPE_CHECKING:
    from jaxtyping import Bool, Int

FILE = "true_masks.json"
SIDE = 320  # of the frame, its longer side: that of the pictures of the report
DETAILS = ((0.5, 0), (1.0, 3), (2.0, 5), (4.0, 9))
"""From fine to coarse: pixels of the frame by which an outline may miss a corner, and the side of
the median filter before it, which takes specks away; 0: none."""
MAX_TEXT = 2000  # characters of an outline that is not drawn coarser, if it can be


def trace_masks(known: GroundTruth) -> dict[str, Any] | None:
    """Return the outlines of the annotated masks of an image's own class; None: it has none.

    Args:
        known: the annotations of the image.
    """
    masks = own_masks(known)
    if not masks:
        return None
    height, width = scale_size(known.size, SIDE) if max(known.size) > SIDE else known.size
    merged = merge_masks(masks, ignored_regions(known), (height, width))
    return {
        "class": known.label,
        "width": width,
        "height": height,
        "object": trace_outline(merged == 1),
        "ignored": trace_outline(merged == IGNORE),
    }


def trace_outline(mask: Bool[np.ndarray, "h w"]) -> str:
    """Return the outline of a mask as the text of an SVG path; empty where the mask is.

    It runs along the middle of the outermost pixels, whose position is that of their corner. It is
    coarser where it would be longer than MAX_TEXT: ragged masks would fill the page.

    Args:
        mask: True where the object is.

    Examples:
        >>> square = np.zeros((6, 6), bool)
        >>> square[1:4, 2:5] = True
        >>> trace_outline(square)
        'M2 1l0 2 2 0 0-2z'
    """
    text, drawn = "", mask.astype(np.uint8)
    for tolerance, side in DETAILS:
        smooth = cv2.medianBlur(drawn, side) if side else drawn
        found, _ = cv2.findContours(smooth, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
        text = "".join(_write_path(cv2.approxPolyDP(points, tolerance, True)) for points in found)
        if len(text) <= MAX_TEXT:
            break
    return text


def _write_path(corners: Int[np.ndarray, "n 1 2"]) -> str:
    """Return an outline as an SVG path: its first corner, and the way to each of the others."""
    x, y = corners[0, 0].tolist()
    steps = np.diff(corners[:, 0], axis=0).ravel().tolist()
    numbers = "".join(f"{step}" if step < 0 else f" {step}" for step in steps).lstrip()
    return f"M{x} {y}{'l' if steps else ''}{numbers}z"
