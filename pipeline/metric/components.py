"""Every box of a map at every threshold, from one component tree instead of 1000 sweeps.

The components of {map >= level} only grow and merge as the level falls, so one pass of union-find
over the pixels, sorted by level, meets them all; bounding box, area and IoU are kept at the roots.
An IoU holds from the level at which its box came to be down to the one at which the box changes:
"the best of any component, per level" is a maximum over such intervals, noted in O(1) each.

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
  and 1/2 for each that has three, once holes are filled (`_GAIN`).
- Filling the holes of all thresholds at once is a flood from the frame: a pixel's filled level is
  the lowest level to which a 4-connected path from outside must climb to reach it (`_fill`).
- `findContours` gives siblings in reverse raster order of their first pixel, and a parent before
  its children. Of equal areas the first is hence the one found last in the raster; a hole or what
  lies in one never ties with what surrounds it, except after it.
- The contour of a hole runs over the pixels around it: its box is the hole's, one pixel wider on
  each side. Holes are the 4-connected components of {map < level} without those that the flood
  has reached, found by the same union-find from the lowest level up (`_holes`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.metric.compiled import njit

if TYPE_CHECKING:
    from jaxtyping import Float, Float32, Float64, Int

    from pipeline.records import Size

THRESHOLDS: Float64[np.ndarray, 1000] = np.arange(0, 1, 0.001)
THRESHOLDS.flags.writeable = False


@dataclass(frozen=True)
class Curves:
    """What a map is worth at each of the 1000 `THRESHOLDS`.

    IoUs are float64: they are compared with 0.3, 0.5 and 0.7, which float32 would get wrong.
    """

    largest: Float64[np.ndarray, 1000]  # IoU of the largest component with its best true box
    any: Float64[np.ndarray, 1000]  # best IoU of any component with any true box
    boxes: Float32[np.ndarray, "1000 4"]  # of the largest: xyxy half-open, original pixels;
    # all zeros where nothing reaches the threshold


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
    levels = _levels(np.ascontiguousarray(values, np.float64), THRESHOLDS)
    scale = np.array([width / values.shape[1], height / values.shape[0]])
    order, start = _sort(levels, len(THRESHOLDS))
    largest, largest_iou, any_iou = _grow(
        order, start, levels.shape[0], levels.shape[1], _true(boxes), scale, 0, _BY_PIXELS, True
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
    levels = (np.asarray(values, np.float64) * 255).astype(np.uint8)
    height, width = levels.shape
    true = _true(boxes)
    true[:, 2:] += 1
    top = int(levels.max())
    if top == 0:  # no contour: there the box is 0, 0, 0, 0, inclusive
        iou = np.full(len(THRESHOLDS), _iou(0.0, 0.0, 1.0, 1.0, true))
        return Curves(iou, iou, np.tile(np.array([0, 0, 1, 1], np.float32), (1000, 1)))
    # A pixel counts where it is greater than int(t * top), that is, at least one more.
    at = (THRESHOLDS * top).astype(np.intp) + 1
    scale = np.ones(2)
    filled = _fill(levels)
    largest = np.zeros((257, 4), np.int32)
    largest_iou = any_iou = np.zeros(257)
    if contours != "any":
        order, start = _sort(filled, 256)
        largest, largest_iou, _ = _grow(
            order, start, height, width, true, scale, _REACH, _BY_CONTOUR, False
        )
    if contours != "largest":
        order, start = _sort(levels, 256)
        _, _, outer = _grow(order, start, height, width, true, scale, _REACH, _NONE, True)
        any_iou = np.maximum(outer, _holes(order, start, levels, filled, true))
    return Curves(largest_iou[at], any_iou[at], largest[at].astype(np.float32))


def wsolevaluation_boxes(
    boxes: Float[np.ndarray, "M 4"], size: Size, frame: Size = (224, 224)
) -> Int[np.ndarray, "M 4"]:
    """Half-open boxes in original pixels as that evaluator has them: inclusive, scaled to its
    frame, truncated to integers."""
    (height, width), (frame_height, frame_width) = size, frame
    inclusive = np.asarray(boxes, np.float64).reshape(-1, 4) - (0, 0, 1, 1)
    scaled = inclusive.copy()
    scaled[:, 0::2] = inclusive[:, 0::2] * frame_width / width
    scaled[:, 1::2] = inclusive[:, 1::2] * frame_height / height
    return scaled.astype(np.int64)


def levels_of(values: Float[np.ndarray, "h w"]) -> Int[np.ndarray, "h w"]:
    """The index of the last of `THRESHOLDS` that each value reaches."""
    _check_map(values)
    return np.asarray(_levels(np.ascontiguousarray(values, np.float64), THRESHOLDS))


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


# ---- compiled ----------------------------------------------------------------------------------
# Pixels are addressed as y << 16 | x where they are sorted (so that they compare in raster order)
# and as (y + 1) * (width + 2) + x + 1 in flat arrays with a margin of one pixel. All of it is
# unsigned: numba then leaves out the check for negative indices, which halves the time.

_ONE, _16, _LOW = np.uint64(1), np.uint64(16), np.uint64(0xFFFF)
_REACH = 1  # a box there runs to x + w, clipped to the last column, and is measured inclusive
_NONE, _BY_PIXELS, _BY_CONTOUR = 0, 1, 2

# Fields of a root.
_X0, _Y0, _X1, _Y1, _PIXELS, _SINCE, _AREA, _FIRST = range(8)


def _neighbourhoods() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each set of the 8 neighbours (bit i: N, NE, E, SE, S, SW, W, NW): how many groups they
    form among themselves, one neighbour of each group, and twice the contour area that a pixel
    adds amid them (each of its four squares gains 1/2 as it goes from two to three or three to
    four pixels)."""
    groups = np.zeros(256, np.uint8)
    members = np.zeros((256, 4), np.uint8)
    gain = np.zeros(256, np.uint8)
    for bits in range(256):
        present = [i for i in range(8) if bits >> i & 1]
        while present:
            # Sides first: one side touches up to four of the others, and is then all we need.
            group = [min(present, key=lambda i: (i % 2, i))]
            members[bits, groups[bits]] = group[0]
            groups[bits] += 1
            for i in group:  # grows while we walk it
                near = {(i + 1) % 8, (i - 1) % 8}
                near |= {(i + 2) % 8, (i - 2) % 8} if i % 2 == 0 else set()
                group += [j for j in sorted(near) if j in present and j not in group]
            present = [i for i in present if i not in group]
        for corner in (0, 2, 4, 6):
            square = sum(bits >> (corner + i) % 8 & 1 for i in range(3))
            gain[bits] += square >= 2
    return groups, members, gain


_GROUPS, _MEMBERS, _GAIN = _neighbourhoods()


@njit
def _levels(values: np.ndarray, thresholds: np.ndarray) -> Any:
    """The last threshold that each value reaches."""
    last = len(thresholds) - 1
    levels = np.empty(values.shape, np.int16)
    for y in range(values.shape[0]):
        for x in range(values.shape[1]):
            value = values[y, x]
            k = min(int(value * (last + 1)), last)
            # The product may be off by one rounding; the comparison is what counts.
            if thresholds[k] > value:
                k -= 1
            elif k < last and thresholds[k + 1] <= value:
                k += 1
            levels[y, x] = k
    return levels


@njit
def _sort(levels: np.ndarray, count: int) -> Any:
    """Pixels by level: order[start[k]:start[k+1]] are those of level k, in raster order."""
    height, width = levels.shape
    at = np.zeros(count, np.uint32)
    for y in range(height):
        for x in range(width):
            at[levels[y, x]] += 1
    start = np.zeros(count + 1, np.int64)
    for k in range(count):
        start[k + 1] = start[k] + at[k]
        at[k] = start[k]
    order = np.empty(height * width, np.uint32)
    for y in range(height):
        for x in range(width):
            level = levels[y, x]
            order[at[level]] = y << 16 | x
            at[level] += 1
    return order, start


@njit
def _find(parent: np.ndarray, p: np.uint64) -> Any:
    while parent[p] != p:
        parent[p] = parent[parent[p]]
        p = np.uint64(parent[p])
    return p


@njit
def _start(root: np.ndarray, p: np.uint64, x: np.uint64, y: np.uint64, level: int) -> None:
    """A component of one pixel."""
    root[p, _X0] = root[p, _X1] = x
    root[p, _Y0] = root[p, _Y1] = y
    root[p, _PIXELS] = 1
    root[p, _SINCE] = level
    root[p, _AREA] = 0
    root[p, _FIRST] = y << _16 | x


@njit
def _join(root: np.ndarray, a: np.uint64, b: np.uint64) -> None:
    """Component b goes into component a."""
    root[a, _X0] = min(root[a, _X0], root[b, _X0])
    root[a, _Y0] = min(root[a, _Y0], root[b, _Y0])
    root[a, _X1] = max(root[a, _X1], root[b, _X1])
    root[a, _Y1] = max(root[a, _Y1], root[b, _Y1])
    root[a, _PIXELS] += root[b, _PIXELS]
    root[a, _AREA] += root[b, _AREA]
    root[a, _FIRST] = min(root[a, _FIRST], root[b, _FIRST])


@njit
def _extend(root: np.ndarray, a: np.uint64, x: np.uint64, y: np.uint64) -> None:
    """One more pixel for component a."""
    root[a, _PIXELS] += 1
    if x < root[a, _X0]:
        root[a, _X0] = x
    elif x > root[a, _X1]:
        root[a, _X1] = x
    if y < root[a, _Y0]:
        root[a, _Y0] = y
    elif y > root[a, _Y1]:
        root[a, _Y1] = y


@njit
def _iou(x0: float, y0: float, x1: float, y1: float, true: np.ndarray) -> Any:
    """The best IoU of a box with any of the true boxes, all half-open."""
    best = 0.0
    area = (x1 - x0) * (y1 - y0)
    for i in range(len(true)):
        w = min(x1, true[i, 2]) - max(x0, true[i, 0])
        h = min(y1, true[i, 3]) - max(y0, true[i, 1])
        if w > 0 and h > 0:
            other = (true[i, 2] - true[i, 0]) * (true[i, 3] - true[i, 1])
            best = max(best, w * h / (area + other - w * h))
    return best


@njit
def _intervals(count: int) -> Any:
    """An empty table for `_note` over levels 0..count-1, and the binary logarithms it needs."""
    log = np.zeros(count + 1, np.int8)
    for i in range(2, count + 1):
        log[i] = log[i >> 1] + 1
    return np.zeros((log[count] + 1, count)), log


@njit
def _note(table: np.ndarray, log: np.ndarray, low: int, high: int, value: float) -> None:
    """`value` holds at the levels low..high, both included: two powers of two cover them."""
    k = log[high - low + 1]
    second = high - (1 << k) + 1
    table[k, low] = max(table[k, low], value)
    table[k, second] = max(table[k, second], value)


@njit
def _best(table: np.ndarray) -> Any:
    """The largest value noted for each level."""
    for k in range(table.shape[0] - 1, 0, -1):
        half = 1 << (k - 1)
        for low in range(table.shape[1] - 2 * half + 1):
            value = table[k, low]
            table[k - 1, low] = max(table[k - 1, low], value)
            table[k - 1, low + half] = max(table[k - 1, low + half], value)
    return table[0].copy()


@njit
def _grow(
    order: np.ndarray,
    start: np.ndarray,
    height: int,
    width: int,
    true: np.ndarray,
    scale: np.ndarray,
    reach: int,
    largest_by: int,
    want_any: bool,
) -> Any:
    """8-connected components from the highest level down.

    For each level: the box of the largest component in pixels of the map, its IoU, and the best
    IoU of any component. A box [x0, x1) is measured as [x0, min(x1 + reach, width)) * scale.
    """
    count = len(start) - 1
    stride = np.uint64(width + 2)
    space = (width + 2) * (height + 2)
    steps = np.array(
        [-stride, _ONE - stride, _ONE, stride + _ONE, stride, stride - _ONE, -_ONE, -stride - _ONE]
    )  # to the neighbours N, NE, ... NW
    active = np.zeros(space, np.uint8)
    parent = np.empty(space, np.uint32)
    root = np.empty((space, 8), np.uint32)
    iou = np.empty(space if want_any else 0)
    touched = np.empty(height * width, np.uint32)
    alive = np.empty(height * width if largest_by == _BY_CONTOUR else 0, np.uint32)
    alive_count = 0
    table, log = _intervals(count)
    key = _AREA if largest_by == _BY_CONTOUR else _PIXELS

    boxes = np.zeros((count, 4), np.int32)
    ious = np.zeros(count)
    best = np.uint64(0)
    best_key = best_first = np.uint32(0)
    some = False  # whether there is a best one yet
    for level in range(count - 1, -1, -1):
        touched_count = 0
        for i in range(start[level], start[level + 1]):
            pixel = np.uint64(order[i])
            x, y = pixel & _LOW, pixel >> _16
            p = (y + _ONE) * stride + x + _ONE
            north, south = p - stride, p + stride
            bits = np.uint8(
                active[north]
                | active[north + _ONE] << 1
                | active[p + _ONE] << 2
                | active[south + _ONE] << 3
                | active[south] << 4
                | active[south - _ONE] << 5
                | active[p - _ONE] << 6
                | active[north - _ONE] << 7
            )
            active[p] = 1
            groups = _GROUPS[bits]
            if groups == 0:
                parent[p] = p
                _start(root, p, x, y, level)
                touched[touched_count] = p
                touched_count += 1
                if largest_by == _BY_CONTOUR:
                    alive[alive_count] = p
                    alive_count += 1
                continue
            a = p
            for g in range(groups):
                b = _find(parent, p + steps[_MEMBERS[bits, g]])
                if b == a:
                    continue
                if root[b, _SINCE] != level:  # its box was good until here
                    if want_any and iou[b] > 0:
                        _note(table, log, level + 1, root[b, _SINCE], iou[b])
                    root[b, _SINCE] = level
                    touched[touched_count] = b
                    touched_count += 1
                if g == 0:
                    a = b
                    continue
                if root[b, _PIXELS] > root[a, _PIXELS]:
                    a, b = b, a
                parent[b] = a
                _join(root, a, b)
            parent[p] = a
            _extend(root, a, x, y)
            if largest_by == _BY_CONTOUR:
                root[a, _AREA] += _GAIN[bits]
            if order[i] < root[a, _FIRST]:
                root[a, _FIRST] = order[i]

        if touched_count == 0:
            if level + 1 < count:
                boxes[level] = boxes[level + 1]
                ious[level] = ious[level + 1]
            continue
        if want_any:
            for i in range(touched_count):
                r = touched[i]
                if parent[r] == r:
                    iou[r] = _iou(
                        root[r, _X0] * scale[0],
                        root[r, _Y0] * scale[1],
                        min(root[r, _X1] + 1 + reach, width) * scale[0],
                        min(root[r, _Y1] + 1 + reach, height) * scale[1],
                        true,
                    )
        if largest_by == _NONE:
            continue
        candidates, candidate_count = touched, touched_count
        if some:
            best = _find(parent, best)
            if (
                largest_by == _BY_CONTOUR
                and root[best, key] == best_key
                and root[best, _FIRST] < best_first
            ):
                # It grew by a mere line and now starts earlier: an equal one, untouched, may
                # come first. Rare, as any gain of area settles it.
                kept = 0
                for i in range(alive_count):
                    if parent[alive[i]] == alive[i]:
                        alive[kept] = alive[i]
                        kept += 1
                alive_count = kept
                candidates, candidate_count = alive, alive_count
            best_key, best_first = root[best, key], root[best, _FIRST]
        for i in range(candidate_count):
            r = candidates[i]
            if parent[r] != r or root[r, key] < best_key:
                continue
            later = root[r, _FIRST] > best_first
            if not some or root[r, key] > best_key or later == (largest_by == _BY_CONTOUR):
                some = True
                best = np.uint64(r)
                best_key, best_first = root[r, key], root[r, _FIRST]
        boxes[level, 0] = root[best, _X0]
        boxes[level, 1] = root[best, _Y0]
        boxes[level, 2] = min(root[best, _X1] + 1 + reach, width)
        boxes[level, 3] = min(root[best, _Y1] + 1 + reach, height)
        ious[level] = _iou(
            boxes[level, 0] * scale[0],
            boxes[level, 1] * scale[1],
            boxes[level, 2] * scale[0],
            boxes[level, 3] * scale[1],
            true,
        )
    if want_any:
        # All has merged into one at the lowest level, where every pixel counts.
        r = _find(parent, stride + _ONE)
        _note(table, log, 0, root[r, _SINCE], iou[r])
    return boxes, ious, _best(table)


@njit
def _fill(levels: np.ndarray) -> Any:
    """The map without its holes: how high one must climb to reach each pixel from outside.

    Two scans of the raster settle all that a path right and down, then left and up, can reach:
    nearly everything in a smooth map. From where a neighbour is still too high, a flood goes on
    from the lowest level up, one bucket a level, so that it lowers no pixel twice (after Vincent,
    "Morphological Grayscale Reconstruction in Image Analysis", 1993).
    """
    height, width = levels.shape
    stride = np.uint64(width + 2)
    space = np.uint64((width + 2) * (height + 2))
    own = np.zeros(space, np.uint8)
    filled = np.zeros(space, np.uint8)  # the margin is outside, at 0
    for y in range(height):
        row = np.uint64(y + 1) * stride + _ONE
        beside = np.uint8(0)
        for x in range(width):
            p = row + np.uint64(x)
            own[p] = levels[y, x]
            beside = max(own[p], min(beside, filled[p - stride]))
            filled[p] = beside
    head = np.zeros(256, np.uint32)  # the first entry of each bucket; 0 is none
    # The next entry of the same bucket. A pixel may be in two, p as a start, p + space as lowered.
    behind = np.empty(2 * space, np.uint32)
    for y in range(height - 1, -1, -1):
        row = np.uint64(y + 1) * stride + _ONE
        beside = np.uint8(0)
        for x in range(width - 1, -1, -1):
            p = row + np.uint64(x)
            below = filled[p + stride]
            level = max(own[p], min(filled[p], min(beside, below)))
            filled[p] = level
            high = (beside > level) & (beside > own[p + _ONE])
            if high | ((below > level) & (below > own[p + stride])):
                behind[p] = head[level]
                head[level] = p
            beside = level
    stack = np.empty(space, np.uint32)
    for level in range(256):
        while head[level] != 0:
            p = np.uint64(head[level])
            head[level] = behind[p]
            if p >= space:
                p -= space
            if filled[p] != level:  # lowered since it was put here
                continue
            stack[0] = p
            depth = _ONE
            while depth > 0:
                depth -= _ONE
                p = np.uint64(stack[depth])
                for q in (p - stride, p - _ONE, p + _ONE, p + stride):
                    if filled[q] <= max(own[q], level):
                        continue
                    if own[q] <= level:
                        filled[q] = level
                        stack[depth] = q
                        depth += _ONE
                    else:
                        filled[q] = own[q]
                        behind[q + space] = head[own[q]]
                        head[own[q]] = q + space
    return filled.reshape(height + 2, width + 2)[1:-1, 1:-1]


@njit
def _holes(
    order: np.ndarray,
    start: np.ndarray,
    levels: np.ndarray,
    filled: np.ndarray,
    true: np.ndarray,
) -> Any:
    """The best IoU of any hole contour at each level, with the habits of wsolevaluation.

    A pixel lies in a hole at the levels above its own, up to its filled one; there the flood
    reaches it and, with it, all of its hole.
    """
    height, width = levels.shape
    count = len(start) - 1
    stride = np.uint64(width + 2)
    space = (width + 2) * (height + 2)
    drowns = np.zeros(space, np.uint8)  # filled level, of pixels that are in a hole already
    parent = np.empty(space, np.uint32)
    root = np.empty((space, 8), np.uint32)
    iou = np.empty(space)
    touched = np.empty(height * width, np.uint32)
    created = np.empty(height * width, np.uint32)
    created_count = 0
    table, log = _intervals(count)
    for level in range(count):
        touched_count = 0
        for i in range(start[level], start[level + 1]):
            pixel = np.uint64(order[i])
            x, y = pixel & _LOW, pixel >> _16
            end = filled[y, x]
            if end <= level:
                continue
            p = (y + _ONE) * stride + x + _ONE
            drowns[p] = end
            a = p
            for q in (p - stride, p - _ONE, p + _ONE, p + stride):
                # Holes that share a level share the one at which they drown.
                if drowns[q] != end:
                    continue
                b = _find(parent, q)
                if b == a:
                    continue
                if root[b, _SINCE] != level:
                    if iou[b] > 0:
                        _note(table, log, root[b, _SINCE] + 1, level, iou[b])
                    root[b, _SINCE] = level
                    touched[touched_count] = b
                    touched_count += 1
                if a == p:
                    a = b
                    continue
                if root[b, _PIXELS] > root[a, _PIXELS]:
                    a, b = b, a
                parent[b] = a
                _join(root, a, b)
            parent[p] = a
            if a != p:
                _extend(root, a, x, y)
                continue
            _start(root, p, x, y, level)
            touched[touched_count] = p
            touched_count += 1
            created[created_count] = p
            created_count += 1
        for i in range(touched_count):
            r = touched[i]
            if parent[r] == r:
                iou[r] = _iou(
                    root[r, _X0] - 1.0,
                    root[r, _Y0] - 1.0,
                    min(root[r, _X1] + 2.0 + _REACH, width),
                    min(root[r, _Y1] + 2.0 + _REACH, height),
                    true,
                )
    for i in range(created_count):
        r = created[i]
        if parent[r] == r:
            _note(table, log, root[r, _SINCE] + 1, drowns[r], iou[r])
    return _best(table)
