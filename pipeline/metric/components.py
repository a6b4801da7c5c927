"""Every box of a map at every threshold, from one component tree instead of 1000 sweeps.

The components of {map >= level} only grow and merge as the level falls, so one pass over the
pixels, sorted by level, meets them all; bounding box, area and IoU are kept for each component.
An IoU holds from the level at which its box came to be down to the one at which the box changes:
"the best of any component, per level" is a maximum over such intervals, noted in O(1) each. The
largest component needs no search either: sizes only grow, so a running maximum has it.

Two conventions:

`curves` (default): the map covers the image and lies in [0, 1]; a pixel counts where
    `value >= threshold`; the largest component has the most pixels (the first in raster order of
    equals); its box is half-open and measured in pixels of the original image; holes are no
    candidates; nothing above the threshold: no box, IoU 0.

`wsolevaluation_curves`: the habits of clovaai/wsolevaluation (Choe et al., "Evaluating Weakly
    Supervised Object Localization Methods Right", CVPR 2020; "Evaluation for WSOL: Protocol,
    Metrics, and Datasets", TPAMI 2022), for comparison with published numbers and nothing else.
    There the map becomes uint8 by truncation, a pixel counts where it is greater than
    `int(threshold * max)`, `largest` is the contour of largest `cv2.contourArea`, `any` ranges
    over all contours of `cv2.findContours(RETR_TREE)`, those of holes too, and a box reaches one
    pixel too far (see `_REACH`).

Why the latter needs no contour:
- `contourArea` is the area of the polygon through the pixel centres of the outer border, holes
  filled. Over the squares between four neighbouring centres it is 1 for each that has four pixels
  and 1/2 for each that has three, once holes are filled (`_BY_CONTOUR`).
- The holes of all thresholds are the 4-connected components of {map < level} that the outside has
  not reached, met by the same pass from the lowest level up (`fill_holes`). A pixel is filled up to
  the level at which its hole meets the outside.
- `findContours` gives siblings in reverse raster order of their first pixel, and a parent before
  its children. Of equal areas the first is hence the one found last in the raster; a hole or what
  lies in one never ties with what surrounds it, except after it.
- The contour of a hole runs over the pixels around it: its box is the hole's, one pixel wider on
  each side.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline.metric.component_arrays import fill_holes, grow_components, sort_pixels
from pipeline.metric.component_tree import _BY_CONTOUR, _BY_PIXELS, _REACH, _iou, _levels
from pipeline.types import Curves

if TYPE_CHECKING:
    from jaxtyping import Float, Float64, Int

    from pipeline.types import Size

THRESHOLDS: Float64[np.ndarray, 1000] = np.arange(0, 1, 0.001)
THRESHOLDS.flags.writeable = False


def threshold_index(threshold: float) -> int:
    """Return the index of the first of `THRESHOLDS` that is not below a threshold, or the last."""
    return min(int(np.searchsorted(THRESHOLDS, threshold - 1e-9)), len(THRESHOLDS) - 1)


def curves(
    values: Float[np.ndarray, "h w"], boxes: Float[np.ndarray, "M 4"], size: Size | None = None
) -> Curves:
    """Curves in the project's own convention.

    `values`: a map in [0, 1] that covers the whole image, at any resolution. `boxes`: true boxes,
    xyxy half-open, in pixels of the image. `size`: (height, width) of the image; None: the map's.
    """
    _check_map(values)
    _check_boxes(boxes)
    height, width = values.shape if size is None else size
    scale = np.array([width / values.shape[1], height / values.shape[0]])
    levels = _frame(values.shape)
    _levels(_float_values(values), THRESHOLDS, levels, 1)
    order, start = sort_pixels(levels, values.shape[1], len(THRESHOLDS))
    largest, largest_iou, any_iou = grow_components(
        levels, order, start, values.shape, _true(boxes), scale, 0, _BY_PIXELS, True, True
    )
    found = (largest * np.tile(scale, 2)).astype(np.float32)
    return Curves(largest_iou, any_iou, found)


def wsolevaluation_curves(
    values: Float[np.ndarray, "h w"], boxes: Int[np.ndarray, "M 4"], contours: str = "both"
) -> Curves:
    """Curves with the habits of wsolevaluation.

    `values`: a map in [0, 1]; there it is 224x224. `boxes`: as that evaluator takes them, inclusive
    integer xyxy in the frame of the map; `wsolevaluation_boxes` makes them. `contours`: "both", or
    only "largest" or "any" of the two curves; the other is then all zeros. `Curves.boxes` are
    half-open here as everywhere, in the map's frame, and as large as that evaluator measures them.
    """
    _check_map(values)
    _check_boxes(boxes)
    if contours not in ("both", "largest", "any"):
        raise ValueError(f"contours: expected both, largest or any, got {contours!r}")
    shape = values.shape
    levels = _framed(np.asarray(values, np.float64) * 255)
    true = _true(boxes)
    true[:, 2:] += 1
    top = int(levels.max())
    if top == 0:  # no contour: there the box is 0, 0, 0, 0, inclusive
        iou = np.full(len(THRESHOLDS), _iou(0.0, 0.0, 1.0, 1.0, true))
        return Curves(iou, iou, np.tile(np.array([0, 0, 1, 1], np.float32), (1000, 1)))
    # A pixel counts where it is greater than int(t * top), that is, at least one more.
    at = (THRESHOLDS * top).astype(np.intp) + 1
    order, start = sort_pixels(levels, shape[1], 256)
    want_largest, want_any = contours != "any", contours != "largest"
    candidates = true if want_any else true[:0]  # only to fill the holes: no IoUs
    filled, holes = fill_holes(levels, order, start, shape, candidates, want_largest)
    how = (shape, true, np.ones(2), _REACH, _BY_CONTOUR)
    largest = np.zeros((257, 4), np.int32)
    largest_iou = any_iou = np.zeros(257)
    if want_any:
        _, _, outer = grow_components(levels, order, start, *how, False, True)
        any_iou = np.maximum(outer, holes)
    if want_largest:
        order, start = sort_pixels(filled, shape[1], 256)
        largest, largest_iou, _ = grow_components(filled, order, start, *how, True, False)
    return Curves(largest_iou[at], any_iou[at], largest[at].astype(np.float32))


def wsolevaluation_boxes(
    boxes: Float[np.ndarray, "M 4"], size: Size, frame: Size = (224, 224)
) -> Int[np.ndarray, "M 4"]:
    """Bring half-open boxes in original pixels to the form that wsolevaluation has them in.

    They are inclusive, scaled to its frame and truncated to integers.
    """
    (height, width), (frame_height, frame_width) = size, frame
    inclusive = np.asarray(boxes, np.float64).reshape(-1, 4) - (0, 0, 1, 1)
    scaled = inclusive.copy()
    scaled[:, 0::2] = inclusive[:, 0::2] * frame_width / width
    scaled[:, 1::2] = inclusive[:, 1::2] * frame_height / height
    return scaled.astype(np.int64)


def levels_of(values: Float[np.ndarray, "h w"]) -> Int[np.ndarray, "h w"]:
    """Find the index of the last of `THRESHOLDS` that each value reaches."""
    _check_map(values)
    levels = np.empty(values.shape, np.int16)
    _levels(_float_values(values), THRESHOLDS, levels, 0)
    return levels


def _float_values(values: np.ndarray) -> Float[np.ndarray, "h w"]:
    """Values as the compiled part reads them: in float64, which float32 need not be copied for."""
    dtype = np.float32 if values.dtype == np.float32 else np.float64
    return np.ascontiguousarray(values, dtype)


def _framed(levels: np.ndarray) -> Int[np.ndarray, "h+2 stride"]:
    """Levels, truncated to integers, as the compiled part has them."""
    framed = _frame(levels.shape)
    framed[1:-1, 1 : levels.shape[1] + 1] = levels
    return framed


def _frame(shape: Size) -> Int[np.ndarray, "h+2 stride"]:
    """Levels of -1 throughout, with space for a map within a frame of a pixel."""
    height, width = shape
    return np.full((height + 2, 1 << (width + 1).bit_length()), -1, np.int16)


def _check_map(values: np.ndarray) -> None:
    if values.ndim != 2 or 0 in values.shape or max(values.shape) > 32767:
        raise ValueError(f"map: expected [h, w] of 1 to 32767 each, got {list(values.shape)}")
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= 1):  # also where one is NaN
        raise ValueError(f"map: expected values in [0, 1], got {low} to {high}")


def _check_boxes(boxes: np.ndarray) -> None:
    if np.ndim(boxes) != 2 or np.shape(boxes)[1] != 4:
        raise ValueError(f"true boxes: expected [M, 4] xyxy, got {list(np.shape(boxes))}")


def _true(boxes: np.ndarray) -> Float64[np.ndarray, "M 4"]:
    return np.array(boxes, np.float64, order="C")
