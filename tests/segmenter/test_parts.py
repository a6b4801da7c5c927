"""Parting: objects that touch, by the peaks of the map or the necks of the mask."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco
from skimage.measure import label as label_regions
from skimage.morphology import h_maxima
from skimage.segmentation import watershed

from pipeline.segmenter.parts import flood, part_components
from pipeline.segmenter.threshold import Threshold
from pipeline.types import Boxes, SaliencyMap


def hills(*centres: tuple[float, float], side: int = 64, width: float = 7) -> np.ndarray:
    """A map with a hill of height 1 at each (x, y)."""
    y, x = np.mgrid[:side, :side]
    each = [np.exp(-((x - a) ** 2 + (y - b) ** 2) / (2 * width**2)) for a, b in centres]
    return np.max(each, 0).astype(np.float32)


def smooth_noise(seed: int, side: int = 60) -> np.ndarray:
    coarse = np.random.default_rng(seed).random((9, 9), np.float32)
    large = cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)
    return np.asarray(large - large.min() + 0.2, np.float32)


def segment(values: np.ndarray, **options: Any) -> Boxes:
    given: dict[str, Any] = {"threshold": 0.3, "components": "all", **options}
    size = values.shape[0], values.shape[1]
    saliency = SaliencyMap("x", 0, 0, 1.0, values.astype(np.float16), 1.0, size)
    return Threshold(**given)(saliency)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("depth", [0.1, 0.3, 0.5])
def test_parts_are_the_maxima_that_stand_out(seed: int, depth: float) -> None:
    """The reference is scikit-image: p - s >= depth p where log p - log s >= -log(1 - depth)."""
    landscape = smooth_noise(seed)
    parts = flood(landscape, np.ones(landscape.shape, bool), depth)
    logarithm = np.log(landscape.astype(np.float64))
    markers = label_regions(h_maxima(logarithm, -np.log1p(-depth)), connectivity=2)
    assert parts.max() == markers.max()
    assert set(np.unique(parts)) == set(range(1, parts.max() + 1))
    reference = watershed(-landscape, markers, connectivity=2)
    same = 0
    for part in range(1, parts.max() + 1):
        same += np.bincount(reference[parts == part]).max()
    assert same / parts.size > 0.97


def test_two_hills_that_touch_get_a_box_each() -> None:
    values = hills((22, 30), (42, 34))
    assert values[32, 32] > 0.3, "they touch at the threshold"
    joined, parted = segment(values), segment(values, parts="peaks", masks=True)
    assert len(joined.boxes) == 1
    assert len(parted.boxes) == 2
    left, right = parted.boxes[np.argsort(parted.boxes[:, 0])]
    assert abs(left[2] - 32) <= 1
    assert abs(right[0] - 32) <= 3
    assert left[0] == joined.boxes[0][0]
    assert right[2] == joined.boxes[0][2]
    masks = np.stack([coco.decode(mask) for mask in parted.masks])
    assert (masks.sum(0) == (values.astype(np.float16) >= 0.3)).mean() > 0.999
    assert masks.sum(0).max() == 1, "no pixel belongs to two parts"


@pytest.mark.parametrize(("depth", "count"), [(0.5, 2), (0.6, 1)])
def test_depth_is_a_share_of_the_lower_peak(depth: float, count: int) -> None:
    """Two hills of heights 1 and 0.8 with a saddle of 0.36 between: it is 55 % below the lower."""
    profile = np.interp(np.arange(41), [0, 10, 20, 30, 40], [0, 1, 0.36, 0.8, 0])
    values = np.minimum.outer(np.interp(np.arange(41), [0, 20, 40], [0, 1, 0]), profile)
    assert len(segment(values.astype(np.float32), parts="peaks", depth=depth).boxes) == count


def test_necks_part_a_flat_map_that_peaks_do_not() -> None:
    mask = np.zeros((80, 80), np.uint8)
    for centre in ((24, 40), (56, 40)):
        cv2.circle(mask, centre, 18, (1,), -1)
    values = mask.astype(np.float32)
    assert len(segment(values, parts="peaks").boxes) == 1
    boxes = segment(values, parts="necks").boxes
    assert len(boxes) == 2
    assert sorted(boxes[:, 0].tolist())[0] <= 7
    square = np.zeros((80, 80), np.float32)
    square[20:60, 10:70] = 1
    assert len(segment(square, parts="necks").boxes) == 1, "no neck"


def test_labels_are_in_raster_order_and_small_components_stay() -> None:
    values = hills((20, 44), (40, 44))
    values[2:4, 2:4] = 0.9
    mask = (values >= 0.3).astype(np.uint8)
    count, labels = cv2.connectedComponents(mask)
    number, parts = part_components(labels, count - 1, values, "peaks", 0.3)
    assert number == parts.max() == 3
    first = [int(np.flatnonzero(parts.ravel() == n)[0]) for n in range(1, number + 1)]
    assert first == sorted(first)
    assert (parts[2:4, 2:4] == 1).all()
    assert ((parts > 0) == (mask > 0)).all()
    assert part_components(labels, count - 1, values, "none", 0.3)[1] is labels


def test_large_maps_are_visited_on_a_grid() -> None:
    """Four times the side, each hill four times as wide: the same parts, four times as large."""
    small = segment(hills((22, 30), (42, 34)), parts="peaks")
    large = segment(hills((88, 120), (168, 136), side=256, width=28), parts="peaks")
    assert len(large.boxes) == len(small.boxes) == 2
    np.testing.assert_allclose(large.boxes / 4, small.boxes, atol=1.5)


def test_a_wrong_depth_is_refused() -> None:
    with pytest.raises(ValueError, match="depth=0"):
        Threshold(depth=0)
