"""One component tree for all thresholds of a map, compiled: component_arrays.py calls it."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.ops.compiled import njit, njit_inner

# ---- compiled ----------------------------------------------------------------------------------
# Levels lie in a frame of one pixel at -1, in rows of a power of two, so that a pixel is one
# number p, in raster order, with neighbours at fixed steps, and x = p & mask, y = p >> shift.
# Components are numbered as they come to be, far fewer than pixels: what is kept of them stays in
# the cache. All indices are unsigned: numba then leaves out the check for negative ones.
#
# Pixels of equal level count one after the other, in raster order. Which neighbours of a pixel
# count before it is hence known beforehand, and with them whether it starts a component, joins
# one (nearly always) or may connect several.
#
# The first run of an installation compiles all this. So that it takes half of the time, NumPy
# allocates the arrays before, and `min` and `max` are spelled out: each would be compiled for each
# type.

_ZERO, _ONE = np.uint64(0), np.uint64(1)
_REACH = 1  # a box there runs to x + w, clipped to the last column, and is measured inclusive
# Fields of a component: its box, as columns, the first pixel and the end of the last row; its
# size; the level since which this is its box; how many have become this one, and the next of them,
# in a ring.
_X0, _X1, _FIRST, _LAST, _SIZE, _SINCE, _COUNT, _NEXT = range(8)
_FIELDS = 8


def _neighbourhoods(diagonal: bool) -> tuple[np.ndarray, np.ndarray]:
    """Count the groups that each set of the 8 neighbours forms, and name one neighbour of each.

    Bit i of a set stands for N, NE, E, SE, S, SW, W, NW. Groups are connected through sides only,
    or `diagonal`ly too. Without diagonals a group has a neighbour at a side.
    """
    groups = np.zeros(256, np.uint8)
    members = np.zeros((256, 4), np.uint8)
    for bits in range(256):
        present = [i for i in (0, 2, 4, 6, 1, 3, 5, 7) if bits >> i & 1]
        while present and (diagonal or present[0] % 2 == 0):
            # Sides first: one side touches up to four of the others, and is then all we need.
            group = [present[0]]
            members[bits, groups[bits]] = group[0]
            groups[bits] += 1
            for i in group:  # grows while we walk it
                near = {(i + 1) % 8, (i - 1) % 8}
                near |= {(i + 2) % 8, (i - 2) % 8} if diagonal and i % 2 == 0 else set()
                group += [j for j in sorted(near) if j in present and j not in group]
            present = [i for i in present if i not in group]
    return groups, members


_GROUPS, _MEMBERS = _neighbourhoods(diagonal=True)
_SIDE_GROUPS, _SIDE_MEMBERS = _neighbourhoods(diagonal=False)


def _contour_gains() -> np.ndarray:
    """Compute twice the contour area that a pixel adds amid each set of neighbours.

    Each of its four squares gains 1/2 as it goes from two to three or three to four pixels.
    """
    gain = np.zeros(256, np.uint8)
    for bits in range(256):
        for corner in (0, 2, 4, 6):
            gain[bits] += sum(bits >> (corner + i) % 8 & 1 for i in range(3)) >= 2
    return gain


_BY_CONTOUR = _contour_gains()
_BY_PIXELS = np.ones(256, np.uint8)


@njit
def _levels(values: np.ndarray, thresholds: np.ndarray, levels: np.ndarray, frame: int) -> None:
    """Write the last threshold that each value reaches within a frame of so many pixels."""
    last = len(thresholds) - 1
    for y in range(values.shape[0]):
        for x in range(values.shape[1]):
            value = np.float64(values[y, x])
            k = int(value * (last + 1))
            k = last if k > last else k
            # The product may be off by one rounding; the comparison is what counts.
            if thresholds[k] > value:
                k -= 1
            elif k < last and thresholds[k + 1] <= value:
                k += 1
            levels[y + frame, x + frame] = k


@njit
def _write_order(
    levels: np.ndarray, width: int, at: np.ndarray, order: np.ndarray, start: np.ndarray
) -> None:
    """Write `order` and `start` of `sort_pixels`; `at` and `start` are zeros before."""
    height = levels.shape[0] - 2
    stride = levels.shape[1]
    for y in range(1, height + 1):
        row = levels[y]
        for x in range(1, width + 1):
            at[np.uint16(row[x])] += 1
    for k in range(len(at)):
        start[k + 1] = start[k] + at[k]
        at[k] = start[k]
    for y in range(1, height + 1):
        row = levels[y]
        for x in range(1, width + 1):
            level = np.uint16(row[x])
            order[at[level]] = y * stride + x
            at[level] += 1


@njit_inner
def _before(levels: np.ndarray, width: int) -> Any:
    """Find the neighbours that count before each pixel, as a set of `_neighbourhoods`.

    These are the higher ones, and of equal ones those that precede it.
    """
    bits = np.empty(levels.shape, np.uint8)  # here: vector instructions need to know that it is new
    for y in range(1, levels.shape[0] - 1):
        north, own, south, found = levels[y - 1], levels[y], levels[y + 1], bits[y]
        for x in range(width):  # of the pixel to the left, so that no index looks negative
            level = own[x + 1]
            found[x + 1] = (
                np.uint8(north[x + 1] >= level)
                | np.uint8(north[x + 2] >= level) << 1
                | np.uint8(own[x + 2] > level) << 2
                | np.uint8(south[x + 2] > level) << 3
                | np.uint8(south[x + 1] > level) << 4
                | np.uint8(south[x] > level) << 5
                | np.uint8(own[x] >= level) << 6
                | np.uint8(north[x] >= level) << 7
            )
    return bits.ravel()


@njit_inner
def _start(
    root: np.ndarray, top: np.ndarray, a: np.uint64, p: np.uint64, mask: np.uint64, level: int
) -> None:
    """Component a begins as pixel p."""
    top[a] = a
    root[a, _X0] = root[a, _X1] = p & mask
    root[a, _FIRST] = p
    root[a, _LAST] = p | mask
    root[a, _SINCE] = level
    root[a, _SIZE] = 0
    root[a, _COUNT] = 1
    root[a, _NEXT] = a


@njit_inner
def _join(root: np.ndarray, top: np.ndarray, a: np.uint64, b: np.uint64) -> Any:
    """Join two components under the number of the one that had more joined before.

    The numbers of the other, a ring, are written again, so that `top` needs no search.
    """
    if root[b, _COUNT] > root[a, _COUNT]:
        a, b = b, a
    each = b
    while True:
        top[each] = a
        following = np.uint64(root[each, _NEXT])
        if following == b:
            break
        each = following
    root[each, _NEXT] = root[a, _NEXT]
    root[a, _NEXT] = b
    root[a, _COUNT] += root[b, _COUNT]
    root[a, _SIZE] += root[b, _SIZE]
    if root[b, _X0] < root[a, _X0]:
        root[a, _X0] = root[b, _X0]
    if root[b, _X1] > root[a, _X1]:
        root[a, _X1] = root[b, _X1]
    if root[b, _FIRST] < root[a, _FIRST]:
        root[a, _FIRST] = root[b, _FIRST]
    if root[b, _LAST] > root[a, _LAST]:
        root[a, _LAST] = root[b, _LAST]
    return a


@njit_inner
def _beyond(root: np.ndarray, a: np.uint64, p: np.uint64, mask: np.uint64) -> Any:
    """Whether a pixel lies outside the box of component a, or before its first pixel."""
    x = p & mask
    return (x < root[a, _X0]) | (x > root[a, _X1]) | (p < root[a, _FIRST]) | (p > root[a, _LAST])


@njit_inner
def _extend(root: np.ndarray, a: np.uint64, p: np.uint64, mask: np.uint64) -> None:
    """Such a pixel joins component a."""
    x = p & mask
    if x < root[a, _X0]:
        root[a, _X0] = x
    if x > root[a, _X1]:
        root[a, _X1] = x
    if p < root[a, _FIRST]:
        root[a, _FIRST] = p
    if p > root[a, _LAST]:
        root[a, _LAST] = p | mask


@njit
def _iou(x0: float, y0: float, x1: float, y1: float, true: np.ndarray) -> Any:
    """Compute the best IoU of a box with any of the true boxes, all half-open."""
    best = 0.0
    area = (x1 - x0) * (y1 - y0)
    for i in range(len(true)):
        u0, v0, u1, v1 = true[i, 0], true[i, 1], true[i, 2], true[i, 3]
        w = (x1 if x1 < u1 else u1) - (x0 if x0 > u0 else u0)
        h = (y1 if y1 < v1 else v1) - (y0 if y0 > v0 else v0)
        if w > 0 and h > 0:
            iou = w * h / (area + (u1 - u0) * (v1 - v0) - w * h)
            best = iou if iou > best else best
    return best


@njit_inner
def _note(table: np.ndarray, log: np.ndarray, low: int, high: int, value: float) -> None:
    """`value` holds at the levels low..high, both included: two powers of two cover them."""
    k = log[high - low + 1]
    second = high - (1 << k) + 1
    if value > table[k, low]:
        table[k, low] = value
    if value > table[k, second]:
        table[k, second] = value


@njit_inner
def _change(
    table: np.ndarray, log: np.ndarray, root: np.ndarray, iou: np.ndarray, a: np.uint64, level: int
) -> None:
    """Component a changes at `level`; its IoU has held since the last change."""
    since: Any = np.int64(root[a, _SINCE])
    if iou[a] > 0:
        low = level if level < since else since
        high = since if level < since else level
        _note(table, log, low + 1, high, iou[a])
    root[a, _SINCE] = level


@njit_inner
def _settle(table: np.ndarray) -> None:
    """Write the largest value noted for each level into row 0."""
    for k in range(table.shape[0] - 1, 0, -1):
        half = 1 << (k - 1)
        for low in range(table.shape[1] - 2 * half + 1):
            value = table[k, low]
            if value > table[k - 1, low]:
                table[k - 1, low] = value
            if value > table[k - 1, low + half]:
                table[k - 1, low + half] = value


@njit_inner
def _engulf(root: np.ndarray, a: np.uint64) -> None:
    """No pixel is beyond component a any more."""
    root[a, _X0] = root[a, _FIRST] = 0
    root[a, _X1] = root[a, _LAST] = 0xFFFFFFFF


@njit_inner
def _box(root: np.ndarray, a: np.uint64, stride: Any, shape: Any, more: int, reach: int) -> Any:
    """Compute the half-open box of a component.

    It is `more` pixels wider on each side and `reach` to the right and below, there no further than
    the map.
    """
    x1 = int(root[a, _X1]) + more + reach
    y1 = int(root[a, _LAST]) // stride + more + reach
    return (
        int(root[a, _X0]) - 1 - more,
        int(root[a, _FIRST]) // stride - 1 - more,
        x1 if x1 < shape[1] else shape[1],
        y1 if y1 < shape[0] else shape[0],
    )


@njit
def _write_grown(
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
    steps: np.ndarray,
    joined: np.ndarray,
    top: np.ndarray,
    root: np.ndarray,
    iou: np.ndarray,
    touched: np.ndarray,
    table: np.ndarray,
    log: np.ndarray,
    boxes: np.ndarray,
    ious: np.ndarray,
) -> None:
    """Write boxes and IoUs of `grow_components`, and the table of the best IoU of any component."""
    stride = np.uint64(levels.shape[1])
    mask = stride - _ONE
    last_of_equals = worth[0] == 0  # by contour area, of which a lone pixel has none
    before = _before(levels, shape[1])
    made = _ZERO
    best = _ZERO
    best_size = np.int64(-1)
    for level in range(len(start) - 2, -1, -1):
        touched_count = _ZERO
        tied = False
        for i in range(start[level], start[level + 1]):
            p = np.uint64(order[i])
            near = before[p]
            groups = _GROUPS[near]
            if groups == 0:
                a = made
                made += _ONE
                joined[p] = a
                _start(root, top, a, p, mask, level)
                touched[touched_count] = a
                touched_count += _ONE
            else:
                part = np.uint64(joined[p + steps[near, 0]])
                joined[p] = part
                a = np.uint64(top[part])
                if groups > 1:
                    for g in range(1, groups):
                        b = np.uint64(top[np.uint64(joined[p + steps[near, g]])])
                        if b != a:
                            for c in (a, b):
                                if root[c, _SINCE] != level:
                                    _change(table, log, root, iou, c, level)
                                    touched[touched_count] = c
                                    touched_count += _ONE
                            a = _join(root, top, a, b)
                if _beyond(root, a, p, mask):
                    if root[a, _SINCE] != level:
                        _change(table, log, root, iou, a, level)
                        touched[touched_count] = a
                        touched_count += _ONE
                    _extend(root, a, p, mask)
            if want_largest:
                size = np.int64(root[a, _SIZE]) + worth[near]
                root[a, _SIZE] = size
                tied |= size == best_size
                if size > best_size:
                    best = a
                    best_size = size

        if want_any:
            for i in range(touched_count):
                a = np.uint64(touched[i])
                if top[a] == a:
                    x0, y0, x1, y1 = _box(root, a, stride, shape, 0, reach)
                    iou[a] = _iou(x0 * scale[0], y0 * scale[1], x1 * scale[0], y1 * scale[1], true)
        if want_largest and made > 0:
            best = np.uint64(top[best])
            if tied:
                for i in range(made):
                    a = np.uint64(i)
                    if top[a] == a and root[a, _SIZE] == best_size:
                        later = root[a, _FIRST] > root[best, _FIRST]
                        if later == last_of_equals:
                            best = a
            x0, y0, x1, y1 = _box(root, best, stride, shape, 0, reach)
            boxes[level, 0], boxes[level, 1], boxes[level, 2], boxes[level, 3] = x0, y0, x1, y1
            ious[level] = _iou(x0 * scale[0], y0 * scale[1], x1 * scale[0], y1 * scale[1], true)
    if want_any:
        # All has merged into one at the lowest level, where every pixel counts.
        r = np.uint64(top[0])
        lowest: Any = np.int64(0)  # of the types of the other calls: it is compiled once
        since: Any = np.int64(root[r, _SINCE])
        _note(table, log, lowest, since, iou[r])
    _settle(table)


@njit
def _write_holes(
    levels: np.ndarray,
    negative: np.ndarray,
    order: np.ndarray,
    start: np.ndarray,
    shape: Any,
    true: np.ndarray,
    steps: np.ndarray,
    joined: np.ndarray,
    top: np.ndarray,
    root: np.ndarray,
    iou: np.ndarray,
    touched: np.ndarray,
    table: np.ndarray,
    log: np.ndarray,
    drowned: np.ndarray,
    filled: np.ndarray,
) -> None:
    """Write the filled map of `fill_holes`, unless it is empty, and the table of the best IoU.

    `negative`: the levels with the other sign. `drowned`: of each hole, the level at which it ends;
    -1: not yet. Component 0 is the outside, which `joined` has everywhere before.
    """
    height, width = shape
    stride = np.uint64(levels.shape[1])
    mask = stride - _ONE
    before = _before(negative, width)
    made = _ONE
    top[0] = drowned[0] = 0
    _engulf(root, _ZERO)
    for level in range(len(start) - 1):
        touched_count = _ZERO
        for i in range(start[level], start[level + 1]):
            p = np.uint64(order[i])
            near = before[p]
            groups = _SIDE_GROUPS[near]
            if groups == 0:
                a = made
                made += _ONE
                joined[p] = a
                drowned[a] = -1
                _start(root, top, a, p, mask, level)
                touched[touched_count] = a
                touched_count += _ONE
                continue
            part = np.uint64(joined[p + steps[near, 0]])
            joined[p] = part
            a = np.uint64(top[part])
            if groups > 1:
                wet = False
                for g in range(groups):
                    b = np.uint64(top[np.uint64(joined[p + steps[near, g]])])
                    wet |= drowned[b] >= 0
                for g in range(groups):
                    b = np.uint64(top[np.uint64(joined[p + steps[near, g]])])
                    if wet and drowned[b] < 0:
                        if root[b, _SINCE] != level:
                            _change(table, log, root, iou, b, level)
                        drowned[b] = level
                        _engulf(root, b)
                    if not wet and b != a:
                        for c in (a, b):
                            if root[c, _SINCE] != level:
                                _change(table, log, root, iou, c, level)
                                touched[touched_count] = c
                                touched_count += _ONE
                        a = _join(root, top, a, b)
            if _beyond(root, a, p, mask):
                if root[a, _SINCE] != level:
                    _change(table, log, root, iou, a, level)
                    touched[touched_count] = a
                    touched_count += _ONE
                _extend(root, a, p, mask)
        for i in range(touched_count):
            r = np.uint64(touched[i])
            if top[r] == r and drowned[r] < 0:
                x0, y0, x1, y1 = _box(root, r, stride, shape, 1, _REACH)
                iou[r] = _iou(x0, y0, x1, y1, true)
    for i in range(made):
        drowned[i] = drowned[top[i]]
    flat, own = filled.reshape(-1), levels.reshape(-1)
    for y in range(1, height + 1 if filled.size else 0):
        for x in range(1, width + 1):
            p = np.uint64(y) * stride + np.uint64(x)
            end = drowned[np.uint64(joined[p])]
            flat[p] = end if end > own[p] else own[p]
    _settle(table)
