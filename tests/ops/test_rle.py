"""Run-length masks over the original image, compared with pycocotools on the scaled mask."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as coco_mask

from pipeline.ops.rle import encode_rle


def test_as_pycocotools_encodes_the_scaled_mask():
    rng = np.random.default_rng(0)
    for _ in range(300):
        h, w, height, width = (int(n) for n in (*rng.integers(1, 12, 2), *rng.integers(1, 40, 2)))
        mask = rng.random((h, w)) < rng.choice([0, 0.3, 0.7, 1])
        encoded = encode_rle(mask, (height, width))
        scaled = mask[np.arange(height) * h // height][:, np.arange(width) * w // width]
        expected = coco_mask.encode(np.asfortranarray(scaled.astype(np.uint8)))
        assert encoded == {"size": [height, width], "counts": expected["counts"].decode("ascii")}


def test_a_large_photograph_costs_its_outline():
    mask = np.zeros((384, 512), bool)
    mask[100:200, 50:450] = True
    encoded = encode_rle(mask, (30_000, 40_000))
    assert encoded["size"] == [30_000, 40_000]
    assert abs(coco_mask.area(encoded) / (30_000 * 40_000) - mask.mean()) < 1e-4


MASKS = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12))


@given(MASKS)
def test_decoding_gives_the_mask_back(mask: np.ndarray) -> None:
    height, width = mask.shape
    decoded = coco_mask.decode(encode_rle(mask, (height, width)))
    np.testing.assert_array_equal(decoded, mask)


@given(MASKS, st.integers(1, 50), st.integers(1, 50))
def test_decoding_gives_the_mask_back_at_any_size(
    mask: np.ndarray, height: int, width: int
) -> None:
    (h, w) = mask.shape
    rows, columns = np.arange(height) * h // height, np.arange(width) * w // width
    decoded = coco_mask.decode(encode_rle(mask, (height, width)))
    np.testing.assert_array_equal(decoded, mask[rows][:, columns])
