import itertools

import numpy as np
import pytest

from pipeline.ops.bootstrap import (
    BitRows,
    best,
    compare,
    draw_counts,
    interval,
    means,
    middle,
    resampled,
)


def test_interval_of_a_share_is_the_binomial_one() -> None:
    correct = np.arange(1000) < 300
    low, high = interval(correct)
    spread = 1.96 * np.sqrt(0.3 * 0.7 / 1000)
    assert low == pytest.approx(0.3 - spread, abs=0.006)
    assert high == pytest.approx(0.3 + spread, abs=0.006)


def test_interval_of_numbers_over_several_chunks() -> None:
    values = np.random.default_rng(5).normal(2, 3, 3000)  # chunks of 1024
    low, high = interval(values)
    spread = 1.96 * values.std() / np.sqrt(3000)
    assert low == pytest.approx(values.mean() - spread, abs=0.02)
    assert high == pytest.approx(values.mean() + spread, abs=0.02)


def test_seeded() -> None:
    values = np.random.default_rng(5).random(50)
    assert interval(values, seed=1) == interval(values, seed=1) != interval(values, seed=2)


def test_best_threshold_is_chosen_again_in_each_resample() -> None:
    # Two thresholds, each right for one half: the best of a resample is never below one half.
    rows = np.zeros((100, 8), bool)
    rows[:50, 2] = rows[50:, 5] = True
    low, high = interval(rows, best)
    assert 0.5 <= low < 0.53
    assert 0.57 < high < 0.63


def test_packed_rows_come_back_from_a_file() -> None:
    rows = np.random.default_rng(0).random((70, 13)) < 0.4
    bits = BitRows(13)
    for row in rows:
        bits.append(row)
    back = BitRows.of(bits.packed, 13)
    assert bits.packed.shape == (70, 2)
    assert (back[:] == rows).all()
    assert (back.chosen(rows[:, 0])[:] == rows[rows[:, 0]]).all()
    back.append(rows[0])
    assert len(back) == 71
    nobody = back.chosen(np.zeros(71, bool))
    nobody.append(rows[0])
    assert (nobody[:] == rows[:1]).all()
    with pytest.raises(ValueError, match=r"uint8 \[n, 3\], got uint8 \[70, 2\]"):
        BitRows.of(bits.packed, 20)


def test_packed_rows_are_the_same_rows() -> None:
    rows = np.random.default_rng(0).random((1500, 13)) < 0.4
    packed = BitRows(13)
    for row in rows:
        packed.append(row)
    np.testing.assert_array_equal(packed[:], rows)
    np.testing.assert_allclose(means(packed), rows.mean(0))
    assert interval(packed, best) == interval(rows, best)
    some = np.arange(1500) % 3 == 0
    np.testing.assert_array_equal(packed.chosen(some)[:], rows[some])
    with pytest.raises(ValueError, match=r"expected \[13\]"):
        packed.append(rows[0, :5])


def test_resampling_keeps_the_mean() -> None:
    rows = np.random.default_rng(0).random((2500, 7))
    np.testing.assert_allclose(
        resampled(rows, 500, np.random.default_rng(0)).mean(0), rows.mean(0), atol=2e-3
    )


def test_comparison_with_itself_and_with_a_better_run() -> None:
    rng = np.random.default_rng(0)
    a = rng.random(400)
    same = compare(a, a)
    assert (same.difference, same.interval, same.p_value) == (0, (0, 0), 1)
    better = compare(a, a + rng.normal(0.1, 0.2, 400))
    assert better.interval[0] < better.difference < better.interval[1]
    assert better.difference == pytest.approx(0.1, abs=0.03)
    assert better.interval[0] > 0
    assert better.p_value < 0.01
    noise = compare(a, a + rng.normal(0, 0.2, 400))
    assert noise.p_value > 0.05
    assert noise.interval[0] < 0 < noise.interval[1]


def test_p_value_is_that_of_all_swaps() -> None:
    change = np.array([1.0, 2, 3, -1, 2, 1, 4, 0.5])
    signs = np.array(list(itertools.product([1, -1], repeat=8)))
    exact = (np.abs(signs @ change) >= abs(change.sum())).mean()
    got = compare(np.zeros(8), change, permutations=20000).p_value
    assert got == pytest.approx(exact, abs=0.004)


def test_paired_test_of_two_maxima() -> None:
    rng = np.random.default_rng(1)
    a = rng.random((300, 20)) < 0.4
    b = a | (rng.random((300, 20)) < 0.2)
    comparison = compare(a, b, best)
    assert comparison.difference == b.mean(0).max() - a.mean(0).max()
    assert comparison.p_value < 0.01
    assert comparison.n == 300
    assert compare(a, a, best).p_value == 1


def test_errors() -> None:
    with pytest.raises(ValueError, match="no images"):
        interval(np.zeros(0))
    with pytest.raises(ValueError, match="same images: 3 rows against 4"):
        compare(np.zeros(3), np.zeros(4))


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95, 0.99, 1.0])
@pytest.mark.parametrize("count", [1, 2, 3, 41, 1000])
def test_quantiles_are_those_of_numpy_to_the_bit(level: float, count: int) -> None:
    for seed in range(10):
        rng = np.random.default_rng(seed)
        for values in (rng.random(count), rng.integers(0, 9, count) / 9):
            expected = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
            assert middle(values, level) == tuple(expected.tolist())


def test_quantiles_of_what_is_not_finite_are_those_of_numpy() -> None:
    assert np.isnan(middle(np.array([0.0, np.nan, 1.0]))).all()


@pytest.mark.parametrize("n", [1, 7, 50, 3000])
def test_intervals_that_are_kept_are_those_of_a_new_draw(n: int) -> None:
    rng = np.random.default_rng(n)
    for values in (rng.random(n) < 0.3, rng.random(n), rng.integers(0, 3, n).astype(float)):
        # A generator draws anew; a column of floats is no share.
        drawn = resampled(values[:, None].astype(float), 1000, np.random.default_rng(4))[:, 0]
        expected = tuple(np.quantile(drawn, [(1 - 0.95) / 2, (1 + 0.95) / 2]).tolist())
        assert interval(values, seed=4) == interval(values, seed=4) == expected


@pytest.mark.parametrize("n", [5, 1024, 2500])
def test_draws_that_are_kept_are_those_of_rows_of_numbers(n: int) -> None:
    drawn = draw_counts(n, 20, 3)
    assert drawn is not None
    rows = np.random.default_rng(0).integers(0, 99, (n, 6))
    expected = drawn.T.astype(float) @ rows / n
    np.testing.assert_allclose(resampled(rows, 20, 3), expected, rtol=1e-12)
    generator = np.random.default_rng(3)
    np.testing.assert_array_equal(resampled(rows, 20, 3), resampled(rows, 20, generator))
    assert (drawn.sum(0, dtype=int) == n).all()
    assert draw_counts(1 << 20, 1000, 3) is None  # a byte each would be a gigabyte
