"""The threshold without boxes: against the formula, on maps whose best threshold is known."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.ops.maps import frame_size, upsample
from pipeline.segmenter.auto import (
    MAX_SIZE_THRESHOLD,
    MAX_THRESHOLD,
    MIN_SIZE_THRESHOLD,
    MIN_THRESHOLD,
    auto_threshold,
    size_threshold,
)
from pipeline.segmenter.threshold import Threshold
from pipeline.types import SaliencyMap


def cone(height: int = 96, width: int = 64) -> np.ndarray:
    """Return a map from 1 in the middle down to 0 at the corners."""
    y, x = np.mgrid[:height, :width]
    away = np.hypot((y - height / 2) / height, (x - width / 2) / width)
    return np.asarray(1 - away / away.max(), np.float32)


def otsu(values: np.ndarray) -> float:
    """Return the level of 256 at which the variance between the two classes is largest."""
    levels = np.rint(values.ravel() * 255).astype(int)
    between = [
        (levels <= k).mean() * (levels > k).mean()
        * (levels[levels > k].mean() - levels[levels <= k].mean()) ** 2
        for k in range(levels.min(), levels.max())
    ]  # fmt: skip
    return float((levels.min() + int(np.argmax(between)) + 0.5) / 255)


@pytest.mark.parametrize("power", [0.5, 1, 2, 4])
def test_it_equals_the_formula(power: float) -> None:
    noise = np.random.default_rng(0).random((96, 64), np.float32)
    scaled = (0.9 * cone() + 0.1 * noise) ** power
    scaled = (scaled - scaled.min()) / (scaled.max() - scaled.min())
    expected = np.clip(1.7 * otsu(np.sqrt(scaled)) - 0.5, MIN_THRESHOLD, MAX_THRESHOLD)
    assert auto_threshold(scaled) == pytest.approx(expected, abs=0.01)  # some levels of 256


def test_the_longer_the_tail_the_lower() -> None:
    thresholds = [auto_threshold(cone() ** power) for power in (1, 2, 4, 6)]
    assert thresholds == sorted(thresholds, reverse=True)
    assert thresholds[0] - thresholds[-1] > 0.1


@pytest.mark.parametrize("background", [0.1, 0.25, 0.4])
def test_an_object_is_segmented(background: float) -> None:
    noise = np.random.default_rng(0).random((37, 101))
    values = 0.1 * noise - 0.05 + background * (noise > -1)
    values[10:30, 40:60] += 0.95 - background
    result = Threshold("auto")(
        SaliencyMap("x", 0, 0, 1.0, values.astype(np.float16), 1.0, values.shape)
    )
    assert result.boxes.tolist() == [[40, 10, 60, 30]]


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (3, 3), (37, 101), (500, 20)])
def test_any_map_has_a_threshold(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    for values in (np.zeros(shape), np.ones(shape), rng.random(shape), rng.random(shape) > 0.5):
        threshold = auto_threshold(values.astype(np.float32))
        assert MIN_SIZE_THRESHOLD <= threshold <= MAX_SIZE_THRESHOLD
        assert threshold == round(threshold, 3)
        assert MIN_SIZE_THRESHOLD <= size_threshold(values.astype(np.float32)) <= MAX_SIZE_THRESHOLD


def test_the_segmenter_uses_it() -> None:
    values = np.random.default_rng(0).normal(size=(7, 9)).astype(np.float16)
    saliency = SaliencyMap("x", 0, 0, 0.7, values, 2.0, (120, 160))
    threshold = auto_threshold(upsample(saliency.raw(), frame_size(saliency.size)))
    for components in ("largest", "all"):
        auto, fixed = (Threshold(t, components)(saliency) for t in ("auto", threshold))
        np.testing.assert_array_equal(auto.boxes, fixed.boxes)
        np.testing.assert_array_equal(auto.scores, fixed.scores)


def test_the_size_of_the_map_changes_it_little() -> None:
    values = np.random.default_rng(0).random((7, 7)).astype(np.float32)
    thresholds = [auto_threshold(upsample(values, (n, n))) for n in (56, 224, 512)]
    assert max(thresholds) - min(thresholds) < 0.05


def plateau(share: float, height: int = 100, width: int = 100) -> np.ndarray:
    """Return a saturated map: 0.9 and more in a box of this share of the image, else 0.02."""
    values = np.full((height, width), 0.02, np.float32)
    side = share**0.5
    values[: round(height * side), : round(width * side)] = 0.9
    values[0, 0], values[-1, -1] = 1, 0
    return values


@pytest.mark.parametrize("share", [0.04, 0.25, 0.49, 0.81])
def test_the_threshold_of_a_saturated_map_follows_its_size(share: float) -> None:
    logit = -2.06 - 0.6 * np.log(share / (1 - share))
    expected = np.clip(1 / (1 + np.exp(-logit)), 0.01, 0.45)
    assert size_threshold(plateau(share)) == pytest.approx(expected, abs=0.001)
    assert auto_threshold(plateau(share)) == size_threshold(plateau(share))


def test_a_large_core_takes_its_faint_ends_along() -> None:
    """A box of 0.9 with ends of 0.15: cut off where it is small, part of it where it is large."""
    for scale, is_included in ((1, False), (3, True)):
        values = np.zeros((96, 96), np.float32)
        values[4 : 4 + 30 * scale, 4 : 4 + 24 * scale] = 0.9
        values[4, 4] = 1
        values[10 : 10 + 6 * scale, 4 + 24 * scale : 8 + 27 * scale] = 0.15
        maps = SaliencyMap("x", 0, 0, 1.0, values.astype(np.float16), 1.0, values.shape)
        box = Threshold("size")(maps).boxes[0].tolist()
        assert box[2] == (8 + 27 * scale if is_included else 4 + 24 * scale)


def test_the_core_of_a_large_map_is_measured_as_that_of_a_small_one() -> None:
    small = np.random.default_rng(3).random((9, 9)).astype(np.float32) ** 2
    thresholds = [size_threshold(upsample(small, (n, n))) for n in (64, 128, 300, 512)]
    assert max(thresholds) - min(thresholds) < 0.02


def test_the_rule_is_named_in_the_threshold() -> None:
    assert Threshold("size").threshold_info == {"kind": "auto", "value": None, "rule": "size"}
    assert Threshold("auto").threshold_info == {"kind": "auto", "value": None}
