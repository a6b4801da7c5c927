"""The windows around an object: its share of their area, and that they lie in the image."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.stages.refine.windows import MAX_SHARE, crop_masks, draw_window


def box_mask(x0: int, y0: int, x1: int, y1: int, side: int = 56) -> np.ndarray:
    mask = np.zeros((side, side), bool)
    mask[y0:y1, x0:x1] = True
    return mask


def seen_share(box: np.ndarray, window: np.ndarray) -> float:
    """Return the share of a window that the part of a box in it covers."""
    low, high = np.maximum(box[:2], window[:2]), np.minimum(box[2:], window[2:])
    return float(np.prod(high - low) / np.prod(window[2:] - window[:2]))


@pytest.mark.parametrize("corners", [(20, 20, 36, 36), (0, 30, 20, 56), (2, 25, 54, 31)])
def test_windows_lie_in_the_image_and_magnify_the_object(
    corners: tuple[int, int, int, int],
) -> None:
    mask, box = box_mask(*corners), np.array(corners) / 56
    own = float(np.prod(box[2:] - box[:2]))
    windows = np.stack([draw_window(mask, f"{n}.jpg") for n in range(200)])
    assert windows.min() >= 0
    assert windows.max() <= 1 + 1e-6
    shares = np.array([seen_share(box, window) for window in windows])
    assert shares.min() >= own - 1e-5
    assert shares.max() <= MAX_SHARE + 1e-5
    assert np.quantile(shares, 0.75) - np.quantile(shares, 0.25) > 0.2
    cut = (windows[:, :2] > box[:2] + 1e-6).any(1) | (windows[:, 2:] < box[2:] - 1e-6).any(1)
    assert 0.1 < cut.mean() < 0.5


def test_an_image_always_has_the_same_window() -> None:
    mask = box_mask(10, 20, 30, 44)
    assert np.array_equal(draw_window(mask, "a"), draw_window(mask, "a"))
    assert not np.array_equal(draw_window(mask, "a"), draw_window(mask, "b"))


def test_without_an_object_the_window_is_the_image() -> None:
    assert draw_window(np.zeros((56, 56), bool), "a").tolist() == [0, 0, 1, 1]


def test_masks_are_cropped_to_windows() -> None:
    mask = box_mask(14, 14, 42, 42).astype(np.float32)[None]
    (cropped,) = crop_masks(mask, np.array([[0.25, 0.25, 0.75, 0.75]], np.float32))
    assert cropped.shape == (56, 56)
    assert cropped[2:-2, 2:-2].min() == 1
    (left,) = crop_masks(mask, np.array([[0, 0, 0.5, 1]], np.float32))
    assert left[28, 40] == 1
    assert left[28, 10] == 0
