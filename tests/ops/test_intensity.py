"""Ranges of values of more than 8 bits: robust, without what is no measurement."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipeline.ops.intensity import (
    find_isolated,
    find_no_data,
    measured,
    robust_range,
    scale_to_bytes,
)

INT16, UINT16 = (-32768.0, 32767.0), (0.0, 65535.0)


def values(low: float, high: float, *further: float, dtype: Any = np.int32) -> np.ndarray:
    spread = np.random.default_rng(0).uniform(low, high, 5000)
    return np.concatenate([spread, further * 20]).astype(dtype)


@pytest.mark.parametrize(
    ("pixels", "extremes", "expected"),
    [(values(-400, 3000, -9999), INT16, {-9999}),
     (values(-400, 3000, -32768), INT16, {-32768}),
     (values(-400, 3000, -32768, -9999, 32767), INT16, {-32768, -9999, 32767}),
     (values(400, 3500, 65535), UINT16, {65535}),
     (values(8000, 12000, 0), UINT16, {0}),
     (values(8000, 12000, 0, 65535), UINT16, {0, 65535}),
     (values(0, 1, -3.4028235e38, dtype=np.float32), (-1, 1), {float(np.float32(-3.4028235e38))}),
     # Measurements: black beside dark, saturated highlights, full scale, heights of the sea floor.
     (values(400, 3500, 0), UINT16, set()),
     (values(0, 60000, 65535), UINT16, set()),
     (values(-32768, 32768), INT16, set()),
     (values(-11000, 8000, -9999), INT16, set()),
     (np.array([0, 65535]), UINT16, set()),
     (values(400, 600, 3500), UINT16, set())],
)  # fmt: skip
def test_isolated_values_are_no_part_of_the_range(
    pixels: np.ndarray, extremes: tuple[float, float], expected: set[float]
) -> None:
    isolated = find_isolated(pixels, extremes)
    assert set(isolated) == expected
    # The greatest value of an unsigned type is that of saturated pixels: white.
    assert set(find_no_data(isolated)) == expected - {65535}


def test_a_range_is_that_of_nearly_all_values() -> None:
    pixels = values(400, 3500, dtype=np.uint16)
    low, high = robust_range(np.append(pixels, [65000, 5, 60000]), "integer")
    assert 400 <= low <= 420
    assert 3480 <= high <= 3500


@pytest.mark.parametrize(
    ("pixels", "kind", "expected"),
    [(np.arange(300, 65000), "integer", (0.0, 65535.0)), (np.arange(5, 250), "integer", (0, 255)),
     (np.linspace(0.05, 0.98, 99), "float", (0, 1)), (np.array([7.0]), "float", (7, 8)),
     (np.array([]), "float", (0, 1)), (np.array([5] * 999 + [9]), "integer", (5, 9))],
)  # fmt: skip
def test_whole_scales_and_degenerate_ranges(
    pixels: np.ndarray, kind: Any, expected: tuple[float, float]
) -> None:
    assert robust_range(pixels, kind) == expected


def test_the_whole_scale_gives_the_upper_byte_and_bytes_stay() -> None:
    deep = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    np.testing.assert_array_equal(scale_to_bytes(deep, UINT16), deep >> 8)
    table = np.tile(deep, (2, 1))  # large enough for the table
    np.testing.assert_array_equal(scale_to_bytes(table, UINT16), table >> 8)
    bytes_ = np.arange(256, dtype=np.int32)[None]
    np.testing.assert_array_equal(scale_to_bytes(bytes_, (0, 255)), bytes_)
    np.testing.assert_array_equal(scale_to_bytes(bytes_ / 255, (0, 1)), bytes_)


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.int32, np.uint32, np.float32])
def test_values_beyond_the_range_are_clipped_and_no_data_is_black(dtype: Any) -> None:
    pixels = np.array([[0, 100, 150, 200, 300, 9999]]).astype(dtype)
    scaled = scale_to_bytes(pixels, (100, 200), [9999])
    assert scaled.tolist()[0][:2] == [0, 0]
    assert 125 <= scaled[0, 2] <= 128
    assert scaled.tolist()[0][3:] == [255, 255, 0]
    large = np.tile(pixels, (300, 100))
    np.testing.assert_array_equal(scale_to_bytes(large, (100, 200), [9999])[:1, :6], scaled)


def test_nan_and_infinity_are_black() -> None:
    pixels = np.array([[np.nan, np.inf, -np.inf, 0.5, 1.0]], np.float32)
    assert scale_to_bytes(pixels, (0, 1)).tolist() == [[0, 0, 0, 128, 255]]
    assert measured(pixels, [0.5]).tolist() == [[False, False, False, False, True]]
