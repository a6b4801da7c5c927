"""The threshold without boxes: against the formula, on maps whose best threshold is known."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.ops.maps import frame_size, upsample
from pipeline.segmenter.auto import MAX_THRESHOLD, MIN_THRESHOLD, auto_threshold
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
    expected = np.clip(1.7 * otsu(np.sqrt(scaled)) - 0.45, MIN_THRESHOLD, MAX_THRESHOLD)
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
        assert MIN_THRESHOLD <= threshold <= MAX_THRESHOLD
        assert threshold == round(threshold, 3)


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
