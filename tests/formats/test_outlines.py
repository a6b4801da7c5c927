"""Outlines of masks: polygons that, filled, are the mask again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco_mask
from scipy import ndimage

from pipeline.formats.outlines import OutlineCounter, join_polygons, trace_outline
from pipeline.ops.rle import encode_rle


def fill(polygons: list[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    flat = [polygon.ravel().astype(float).tolist() for polygon in polygons]
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(flat, *size)))


MASKS = arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9)))


@settings(max_examples=200, deadline=None)
@given(MASKS, st.integers(1, 3))
def test_polygons_are_the_mask_with_its_holes_filled(mask: np.ndarray, scale: int) -> None:
    size = (mask.shape[0] * scale, mask.shape[1] * scale)
    rle = encode_rle(mask, size)
    outline = trace_outline(rle)
    if not mask.any():
        assert not outline.polygons
        return
    whole = coco_mask.decode(rle)
    # Pixels that touch by a corner are one part, so a hole is what four neighbours enclose.
    wanted = ndimage.binary_fill_holes(whole, ndimage.generate_binary_structure(2, 1))
    assert np.array_equal(fill(list(outline.polygons), size), wanted)
    assert outline.iou == pytest.approx(whole.sum() / wanted.sum())


@settings(max_examples=100, deadline=None)
@given(MASKS)
def test_joined_polygons_fill_the_same(mask: np.ndarray) -> None:
    rle = encode_rle(mask, mask.shape)
    polygons = list(trace_outline(rle).polygons)
    if polygons:
        joined = fill([join_polygons(polygons)], mask.shape)
        assert np.array_equal(joined, fill(polygons, mask.shape))


def test_the_largest_part_comes_first() -> None:
    mask = np.zeros((20, 20), bool)
    mask[0:2, 0:2] = mask[8:18, 8:18] = True
    first, second = trace_outline(encode_rle(mask, (20, 20))).polygons
    assert first.tolist() == [[8, 8], [8, 18], [18, 18], [18, 8]]
    assert second.max() == 2


def test_filled_holes_are_counted() -> None:
    ring = np.ones((3, 3), bool)
    ring[1, 1] = False
    counter = OutlineCounter()
    counter.add("whole", [trace_outline(encode_rle(np.ones((3, 3), bool), (3, 3))).iou])
    assert counter.notes() == []
    counter.add("ring", [trace_outline(encode_rle(ring, (3, 3))).iou])
    (note,) = counter.notes()
    assert "1 image ('ring')" in note
    assert "0.889" in note
