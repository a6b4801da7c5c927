"""The threshold without boxes: against the formula, on maps whose right cut is known."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.ops.maps import frame_size, upsample
from pipeline.segmenter.auto import LEAST, MOST, auto_threshold
from pipeline.segmenter.threshold import Threshold
from pipeline.types import SaliencyMap


def cone(height: int = 96, width: int = 64) -> np.ndarray:
    """From 1 in the middle down to 0 at the corners."""
    y, x = np.mgrid[:height, :width]
    away = np.hypot((y - height / 2) / height, (x - width / 2) / width)
    return np.asarray(1 - away / away.max(), np.float32)


def otsu(values: np.ndarray) -> float:
    """The level of 256 at which the variance between the two classes is largest."""
    levels = np.rint(values.ravel() * 255).astype(int)
    between = [
        (levels <= k).mean() * (levels > k).mean()
        * (levels[levels > k].mean() - levels[levels <= k].mean()) ** 2
        for k in range(levels.min(), levels.max())
    ]  # fmt: skip
    return float((levels.min() + int(np.argmax(between)) + 0.5) / 255)


@pytest.mark.parametrize("power", [0.5, 1, 2, 4])
def test_it_is_the_formula(power: float) -> None:
    noise = np.random.default_rng(0).random((96, 64), np.float32)
    scaled = (0.9 * cone() + 0.1 * noise) ** power
    scaled = (scaled - scaled.min()) / (scaled.max() - scaled.min())
    expected = np.clip(1.7 * otsu(np.sqrt(scaled)) - 0.45, LEAST, MOST)
    assert auto_threshold(scaled) == pytest.approx(expected, abs=0.01)  # some levels of 256


def test_the_longer_the_tail_the_lower() -> None:
    found = [auto_threshold(cone() ** power) for power in (1, 2, 4, 6)]
    assert found == sorted(found, reverse=True)
    assert found[0] - found[-1] > 0.1


@pytest.mark.parametrize("background", [0.1, 0.25, 0.4])
def test_an_object_is_cut_out(background: float) -> None:
    noise = np.random.default_rng(0).random((37, 101))
    values = 0.1 * noise - 0.05 + background * (noise > -1)
    values[10:30, 40:60] += 0.95 - background
    found = Threshold("auto")(
        SaliencyMap("x", 0, 0, 1.0, values.astype(np.float16), 1.0, values.shape)
    )
    assert found.boxes.tolist() == [[40, 10, 60, 30]]


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (3, 3), (37, 101), (500, 20)])
def test_any_map_has_one(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    for values in (np.zeros(shape), np.ones(shape), rng.random(shape), rng.random(shape) > 0.5):
        found = auto_threshold(values.astype(np.float32))
        assert LEAST <= found <= MOST
        assert found == round(found, 3)


def test_the_segmenter_cuts_there() -> None:
    values = np.random.default_rng(0).normal(size=(7, 9)).astype(np.float16)
    saliency = SaliencyMap("x", 0, 0, 0.7, values, 2.0, (120, 160))
    at = auto_threshold(upsample(saliency.raw(), frame_size(saliency.size)))
    for components in ("largest", "all"):
        own, other = (Threshold(t, components)(saliency) for t in ("auto", at))
        np.testing.assert_array_equal(own.boxes, other.boxes)
        np.testing.assert_array_equal(own.scores, other.scores)


def test_the_size_of_the_map_has_little_part_in_it() -> None:
    values = np.random.default_rng(0).random((7, 7)).astype(np.float32)
    found = [auto_threshold(upsample(values, (n, n))) for n in (56, 224, 512)]
    assert max(found) - min(found) < 0.05
