"""The component tree equals a naive sweep that labels the components anew at each threshold."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from pipeline.metric.components import THRESHOLDS, curves
from pipeline.ops.iou import pairwise_iou

# Values that lie on thresholds, few of them different, so that plateaus and ties are frequent.
MAPS = arrays(
    np.int64,
    array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=7),
    elements=st.sampled_from([0, 1, 250, 500, 501, 999]),
).map(lambda levels: THRESHOLDS[levels])
TRUE_BOXES = st.lists(
    st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(1, 15), st.integers(1, 15)),
    min_size=1, max_size=3,
).map(lambda rows: np.array([(x, y, x + w, y + h) for x, y, w, h in rows], np.float64))  # fmt: skip


@given(MAPS, TRUE_BOXES, st.integers(1, 5), st.integers(1, 5))
def test_curves_equal_a_naive_sweep(
    values: np.ndarray, true: np.ndarray, y_scale: int, x_scale: int
) -> None:
    size = (values.shape[0] * y_scale, values.shape[1] * x_scale)
    found = curves(values, true, size)
    levels = np.unique(np.searchsorted(THRESHOLDS, values))
    for index in {0, 999, *levels, *np.minimum(levels + 1, 999)}:
        components = components_of(values >= THRESHOLDS[index])
        if not components:
            assert found.largest[index] == found.any[index] == 0
            assert not found.boxes[index].any()
            continue
        scale = np.array([x_scale, y_scale, x_scale, y_scale])
        boxes = np.array([bounding_box(pixels) for pixels in components]) * scale
        largest = max(range(len(components)), key=lambda n: len(components[n]))  # first of equals
        iou = pairwise_iou(boxes, true).max(1)
        np.testing.assert_array_equal(found.boxes[index], boxes[largest])
        np.testing.assert_allclose(found.largest[index], iou[largest], rtol=1e-12)
        np.testing.assert_allclose(found.any[index], iou.max(), rtol=1e-12)


def components_of(mask: np.ndarray) -> list[list[tuple[int, int]]]:
    """The (y, x) of the pixels of each 8-connected component, in raster order of the first."""
    left = {(int(y), int(x)) for y, x in np.argwhere(mask)}
    components = []
    for start in sorted(left):
        if start not in left:
            continue
        left.remove(start)
        component = [start]
        for y, x in component:  # grows while it is walked
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            component += sorted(near)
        components.append(component)
    return components


def bounding_box(pixels: list[tuple[int, int]]) -> tuple[int, int, int, int]:
    """Half-open `xyxy` around pixels."""
    rows, columns = zip(*pixels, strict=True)
    return min(columns), min(rows), max(columns) + 1, max(rows) + 1


def test_naive_components_by_hand() -> None:
    mask = np.array([[1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 0, 1]], bool)
    assert components_of(mask) == [[(0, 0), (1, 1)], [(0, 3)], [(2, 3)]]
    assert bounding_box([(0, 0), (1, 1)]) == (0, 0, 2, 2)
