import numpy as np
import pytest

from pipeline.metric.threshold_maxima import find_changes


@pytest.mark.parametrize(("count", "curves"), [(1, 1), (30, 3), (400, 2)])
def test_equals_the_matrix_product(count: int, curves: int) -> None:
    rng = np.random.default_rng(count)
    length = 40
    right = rng.random((count, curves, length)) < rng.random((count, curves, 1)) ** 2
    right[0] = True  # from the first column on
    right = np.repeat(right[..., ::4], 4, axis=-1)  # neighbours are equal
    flat = right.reshape(count, -1)
    drawn = rng.integers(0, 200, (count, 25)).astype(np.uint8)
    changes = find_changes(np.packbits(flat, axis=1), flat.shape[1], length)
    np.testing.assert_array_equal(changes.count_correct(), flat.sum(0))
    sums = drawn.T.astype(int) @ flat.astype(int)
    np.testing.assert_array_equal(
        changes.find_maxima(drawn), sums.reshape(25, curves, length).max(-1)
    )


def test_nothing_right() -> None:
    changes = find_changes(np.zeros((5, 2), np.uint8), 16, 8)
    assert not changes.count_correct().any()
    assert not changes.find_maxima(np.ones((5, 3), np.uint8)).any()


def test_curves_begin_with_a_byte() -> None:
    with pytest.raises(ValueError, match="multiple of 8, got 20 of 10"):
        find_changes(np.zeros((1, 3), np.uint8), 20, 10)
