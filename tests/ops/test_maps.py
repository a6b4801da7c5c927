"""From a map back to pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from pipeline.ops.maps import boxes_to_image, frame_size, min_max, upsample


@pytest.mark.parametrize("frame", [(37, 101), (101, 37), (224, 224), (1, 1), (7, 5)])
def test_upsampling_is_bilinear_with_half_pixel_centres(frame):
    values = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    ours = upsample(values, frame)
    assert ours.shape == frame
    assert ours.dtype == np.float32
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(values)[None, None], frame, mode="bilinear", align_corners=False
    )[0, 0].numpy()
    spread = np.ptp(theirs)
    np.testing.assert_allclose(ours, (theirs - theirs.min()) / spread if spread else 0, atol=1e-5)


def test_scaled_after_upsampling_so_that_the_ends_are_0_and_1():
    values = np.random.default_rng(1).random((7, 7)).astype(np.float32)
    scaled = upsample(values, (224, 100))
    assert scaled.min() == 0
    assert scaled.max() == 1
    assert np.array_equal(min_max(values), (values - values.min()) / np.ptp(values))


@pytest.mark.parametrize("value", [0.0, 3.5, -2.0, np.nan, np.inf, -np.inf])
def test_constant_maps_give_zeros(value):
    assert not upsample(np.full((7, 7), value, np.float32), (30, 40)).any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_counts_as_the_lowest_and_does_not_spread(bad):
    values = np.random.default_rng(2).random((7, 7)).astype(np.float32)
    mended = values.copy()
    values[3, 3], mended[3, 3] = bad, np.delete(values, 24).min()
    assert np.array_equal(upsample(values, (64, 64)), upsample(mended, (64, 64)))


def test_extreme_and_tiny_ranges():
    wide = np.array([[-3e38, 3e38]], np.float32)
    assert upsample(wide, (1, 2)).tolist() == [[0, 1]]
    assert upsample(np.array([[0, 1e-44]], np.float32), (1, 2)).tolist() == [[0, 1]]


def test_frame_is_bounded_and_keeps_the_aspect():
    assert frame_size((3000, 4000)) == (384, 512)
    assert frame_size((4000, 3000)) == (512, 384)
    assert frame_size((37, 101)) == (37, 101)
    assert frame_size((1, 100_000)) == (1, 512)


@pytest.mark.parametrize("size", [(2999, 4001), (1, 1), (3001, 777), (37, 101)])
def test_the_frame_s_edge_is_the_image_s_edge(size):
    frame = frame_size(size)
    whole = np.array([[0, 0, frame[1], frame[0]]], np.float32)
    assert boxes_to_image(whole, frame, size).tolist() == [[0, 0, size[1], size[0]]]
    assert boxes_to_image(whole, frame, size).dtype == np.float32


MAPS = arrays(
    np.float32,
    array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=8),
    elements=st.floats(width=32),  # NaN and infinities too
)


@given(MAPS, st.integers(1, 40), st.integers(1, 40))
def test_any_map_is_upsampled_to_0_to_1(values: np.ndarray, height: int, width: int) -> None:
    scaled = upsample(values, (height, width))
    assert scaled.shape == (height, width)
    assert ((scaled >= 0) & (scaled <= 1)).all()


@given(st.integers(1, 10**5), st.integers(1, 10**5), st.integers(1, 1000))
def test_any_frame_fits_and_its_edge_is_the_image_s(height: int, width: int, side: int) -> None:
    frame = frame_size((height, width), side)
    assert 1 <= max(frame) <= max(side, 1)
    assert frame[0] <= height
    assert frame[1] <= width
    whole = np.array([[0, 0, frame[1], frame[0]]], np.float32)
    assert boxes_to_image(whole, frame, (height, width)).tolist() == [[0, 0, width, height]]
