"""Brush masks of Label Studio: they come back as they were, and damaged ones are refused."""

from __future__ import annotations

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from pipeline.formats.label_studio_brush import decode_brush, encode_brush
from pipeline.formats.odd_records import BadRecord
from pipeline.ops.rle import encode_rle

# Written by label_studio_sdk 2.0 (converter.brush.encode_rle) for the mask of `small_mask`.
FROM_THE_SDK = [
    0, 0, 0, 140, 57, 27, 254, 35, 0, 191, 255, 108, 2, 63, 248, 192, 39, 255, 182, 1, 127, 255, 15,
    128, 0,
]  # fmt: skip


def small_mask() -> np.ndarray:
    mask = np.zeros((5, 7), bool)
    mask[1:4, 2:6] = True
    mask[2, 3] = False
    return mask


@given(arrays.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_masks_come_back_as_they_were(mask: np.ndarray) -> None:
    size = mask.shape
    assert decode_brush(encode_brush(encode_rle(mask, size)), size) == encode_rle(mask, size)


def test_runs_longer_than_a_block_come_back() -> None:
    mask = np.zeros((700, 900), bool)
    mask[300:, :] = True
    size = mask.shape
    assert decode_brush(encode_brush(encode_rle(mask, size)), size) == encode_rle(mask, size)


def test_the_reference_writes_what_we_read() -> None:
    decoded = coco_mask.decode(decode_brush(FROM_THE_SDK, (5, 7)))
    assert (decoded == small_mask()).all()


def test_literal_values_are_read() -> None:
    """Browsers write values that change from pixel to pixel without runs."""
    bits = f"{16:032b}{7:05b}" + "0010" + "0011" + "0111" + "1111"
    alphas = [0, 255, 7, 0]
    bits += "0" + "01" + f"{15:04b}" + "".join(f"{0:08b}" * 3 + f"{a:08b}" for a in alphas)
    bits += "0" * (-len(bits) % 8)
    values = [int(bits[n : n + 8], 2) for n in range(0, len(bits), 8)]
    assert coco_mask.decode(decode_brush(values, (2, 2))).tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize(
    "values",
    [[], [0], [300], ["a"], list(range(50)), encode_brush(encode_rle(small_mask(), (5, 7)))[:-2]],
)
def test_damaged_masks_are_refused(values: list[int]) -> None:
    with pytest.raises(BadRecord, match="brush"):
        decode_brush(values, (5, 7))


def test_masks_of_another_size_are_refused() -> None:
    with pytest.raises(BadRecord, match="brush"):
        decode_brush(encode_brush(encode_rle(small_mask(), (5, 7))), (7, 7))
