"""draw: where a mask ends, on a canvas of another size."""

from __future__ import annotations

import numpy as np

from pipeline.ops.rle import encode_rle
from pipeline.plotting.boxes import draw_outline


def test_the_outline_of_a_mask_lies_where_it_ends() -> None:
    mask = np.zeros((100, 200), bool)
    mask[20:60, 40:120] = True
    canvas = np.full((50, 100, 3), 200, np.uint8)  # half the size
    draw_outline(canvas, encode_rle(mask, (100, 200)), (255, 0, 0), 2)
    red = (canvas == (255, 0, 0)).all(-1)
    ys, xs = np.nonzero(red)
    assert abs(ys.min() - 10) <= 2
    assert abs(ys.max() - 29) <= 2
    assert abs(xs.min() - 20) <= 2
    assert abs(xs.max() - 59) <= 2
    assert (canvas[14:25, 25:54] == 200).all()  # the inside stays to be seen
    assert (canvas[40:, 70:] == 200).all()


def test_an_empty_mask_draws_nothing() -> None:
    canvas = np.full((50, 100, 3), 200, np.uint8)
    draw_outline(canvas, encode_rle(np.zeros((10, 20), bool), (100, 200)), (255, 0, 0), 2)
    assert (canvas == 200).all()
