"""The calls of the compiled component tree, with the arrays that it works in.

NumPy allocates them here: compiled code that allocates takes longer to compile than to run.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from pipeline.metric.component_tree import (
    _FIELDS,
    _MEMBERS,
    _SIDE_MEMBERS,
    _write_grown,
    _write_holes,
    _write_order,
)


def sort_pixels(levels: np.ndarray, width: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Sort pixels by level: order[start[k]:start[k+1]] are those of level k, in raster order.

    Args:
        levels: int16, in a frame of a pixel.
        width: of the map within.
        count: of levels, from 0.
    """
    order = np.empty((levels.shape[0] - 2) * width, np.uint32)
    start = np.zeros(count + 1, np.int64)
    _write_order(levels, width, np.zeros(count, np.uint32), order, start)
    return order, start


@cache
def _steps(stride: int, diagonal: bool) -> np.ndarray:
    """Return the steps from a pixel to the members of each set of neighbours; they may wrap."""
    members = _MEMBERS if diagonal else _SIDE_MEMBERS
    step = [-stride, 1 - stride, 1, stride + 1, stride, stride - 1, -1, -stride - 1]
    return np.asarray(np.array(step, np.int64).astype(np.uint64)[members])


class _Scratch(NamedTuple):
    """The arrays in which `_write_grown` and `_write_holes` work, in the order of their arguments.

    `steps`: from a pixel to the members of each set of neighbours; `joined`: the component that a
    pixel started or joined; of each component, `top`: what it is part of now, `root`: its fields,
    `iou`: of its box; `touched`: those that a level changed; `table`, `log`: the table for `_note`
    over all levels, and its binary logarithms.
    """

    steps: np.ndarray
    joined: np.ndarray
    top: np.ndarray
    root: np.ndarray
    iou: np.ndarray
    touched: np.ndarray
    table: np.ndarray
    log: np.ndarray


def _make_scratch(shape: tuple[int, ...], count: int, most: int, diagonal: bool) -> _Scratch:
    """Allocate for levels of a shape, `count` of them, and at most `most` components."""
    log = _logarithms(count)
    return _Scratch(
        steps=_steps(shape[1], diagonal),
        joined=(np.empty if diagonal else np.zeros)(shape[0] * shape[1], np.uint32),
        top=np.empty(most, np.uint32),
        root=np.empty((most, _FIELDS), np.uint32),
        iou=np.zeros(most),
        touched=np.empty(most, np.uint32),
        table=np.zeros((int(log[count]) + 1, count)),
        log=log,
    )


@cache
def _logarithms(count: int) -> np.ndarray:
    """Return the binary logarithms of 0 to `count`, rounded down; of 0 it is 0."""
    return np.array([max(i.bit_length() - 1, 0) for i in range(count + 1)])


def grow_components(
    levels: np.ndarray,
    order: np.ndarray,
    start: np.ndarray,
    shape: Any,
    true: np.ndarray,
    scale: np.ndarray,
    reach: int,
    worth: np.ndarray,
    want_largest: bool,
    want_any: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Grow 8-connected components from the highest level down.

    Args:
        levels: int16, in a frame of a pixel.
        order: of the pixels, by `sort_pixels`.
        start: of each level in `order`.
        shape: height and width of the map.
        true: boxes, half-open xyxy, float64.
        scale: a box is measured times this, in x and y.
        reach: a box is measured so many pixels further to the right and below.
        worth: of a pixel, by the neighbours that count before it: a component is as large as its
            pixels are worth. Of equals the first in the raster is taken, by contour area the last.
        want_largest: whether the largest component is asked for; else the first two are zeros.
        want_any: whether the best of any component is asked for; else the third is zeros.

    Returns:
        For each level the box of the largest component in pixels of the map, its IoU, and the best
        IoU of any component.
    """
    count = len(start) - 1
    most = ((shape[0] + 1) // 2) * ((shape[1] + 1) // 2)  # no two start side by side
    scratch = _make_scratch(levels.shape, count, most, diagonal=True)
    boxes, ious = np.zeros((count, 4), np.int32), np.zeros(count)
    how = (shape, true, scale, reach, worth, want_largest, want_any)
    _write_grown(levels, order, start, *how, *scratch, boxes, ious)
    return boxes, ious, scratch.table[0].copy()


def fill_holes(
    levels: np.ndarray,
    order: np.ndarray,
    start: np.ndarray,
    shape: Any,
    true: np.ndarray,
    want_filled: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Fill the holes of the map, and find the best IoU of any hole contour at each level.

    The map has the same frame; IoU is that of wsolevaluation. Holes are the 4-connected components
    of what lies below a level, from the lowest level up. A hole ends where it meets the outside, or
    a hole that has ended; its pixels are filled up to there.

    Args:
        levels: int16, in a frame of a pixel.
        order: of the pixels, by `sort_pixels`.
        start: of each level in `order`.
        shape: height and width of the map.
        true: boxes, half-open xyxy, float64.
        want_filled: whether the filled map is asked for; else it is empty.

    Returns:
        The filled map in its frame, and the IoU at each level.
    """
    count, most = len(start) - 1, shape[0] * shape[1] // 2 + 2
    scratch = _make_scratch(levels.shape, count, most, diagonal=False)
    filled = np.full(levels.shape if want_filled else (0, 0), -1, np.int16)
    drowned = np.empty(most, np.int16)
    _write_holes(levels, -levels, order, start, shape, true, *scratch, drowned, filled)
    return filled, scratch.table[0].copy()
