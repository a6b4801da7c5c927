"""Bootstrap intervals of metrics, and paired tests of differences between two runs; both seeded.

A metric here is a function of means over images: `rows[n, k]` holds k values of each image, and
`statistic` turns the k means into the metric (the mean itself; the best of 1000 thresholds; a
ratio of counts). Resampling images with replacement, computing the metric each time, and taking the
middle 95 % gives the interval (the percentile bootstrap; Efron & Tibshirani, "An Introduction to
the Bootstrap", 1993). So an oracle threshold is chosen anew in each resample.

Two runs on the same images are compared pair by pair. Under the hypothesis that they do not
differ, the two rows of an image may be swapped: p is the share of random swaps that give at
least the difference seen (Fisher's randomization test; Edgington, "Randomization Tests", 1980).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from pipeline.types import Rows, Statistic

if TYPE_CHECKING:
    from jaxtyping import Bool, Float32, Float64, Int, Shaped, UInt8

_CHUNK = 1024  # rows at a time: memory grows with this, never with the number of images
_FEW_ROWS = 64  # distinct rows, of which is drawn how often each occurs
_MAX_COUNTS = 1 << 26  # of draws that are kept, a byte each


class BitRows:
    """Boolean rows packed into bits: 125 bytes an image for 1000 thresholds.

    A slice gives rows [n, width] as uint8, 0 or 1.

    Args:
        width: Number of values of a row.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self._packed = np.empty((64, (width + 7) // 8), np.uint8)
        self._count = 0

    @classmethod
    def of(cls, packed: UInt8[np.ndarray, "n b"], width: int) -> BitRows:
        """Return the rows that were stored as `packed`.

        Args:
            packed: What the property `packed` gave.
            width: Number of values of a row.

        Raises:
            ValueError: If `packed` has another shape or dtype than rows of `width` have.
        """
        rows = cls(width)
        if packed.dtype != np.uint8 or packed.shape[1:] != rows._packed.shape[1:]:
            raise ValueError(
                f"packed rows: expected uint8 [n, {(width + 7) // 8}], "
                f"got {packed.dtype} {list(packed.shape)}"
            )
        rows._packed, rows._count = packed, len(packed)
        return rows

    @property
    def packed(self) -> UInt8[np.ndarray, "n b"]:
        """All rows, eight values to a byte, to be stored in a file."""
        return self._packed[: self._count]

    def append(self, row: Bool[np.ndarray, k]) -> None:
        """Append a row; raise ValueError unless it has `width` values."""
        if row.shape != (self.width,):
            raise ValueError(f"row: expected [{self.width}], got {list(row.shape)}")
        if self._count == len(self._packed):
            space = np.empty((max(64, self._count), self._packed.shape[1]), np.uint8)
            self._packed = np.concatenate([self._packed, space])
        self._packed[self._count] = np.packbits(row)
        self._count += 1

    def chosen(self, select: Bool[np.ndarray, n] | None) -> BitRows:
        """Return a subset of the rows, still packed.

        Args:
            select: Which rows are kept; None: all.

        Raises:
            ValueError: If `select` is not a boolean for each row.
        """
        if select is None:
            return self
        return BitRows.of(self.packed[_check_selection(select, self._count)], self.width)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, chosen: slice, /) -> np.ndarray:
        return np.unpackbits(self.packed[chosen], axis=1, count=self.width)


@dataclass(frozen=True)
class Comparison:
    """The difference b - a of two runs on the same images.

    Args:
        difference: The metric of b minus the metric of a.
        interval: The percentile bootstrap interval of the difference.
        p_value: Share of random swaps that give at least this difference in magnitude.
        n: Number of images.
    """

    difference: float
    interval: tuple[float, float]
    p_value: float
    n: int


def first(means: Float64[np.ndarray, "*b k"]) -> Float64[np.ndarray, "*b"]:
    """Return the first of the k means: the statistic of a metric with a single value an image."""
    return means[..., 0]


def best(means: Float64[np.ndarray, "*b k"]) -> Float64[np.ndarray, "*b"]:
    """Return the largest of the k means: the statistic of the best of k thresholds."""
    return np.asarray(means.max(-1))


def means(rows: Rows) -> Float64[np.ndarray, k]:
    """Average rows [n, k] over the images, in float64; raise ValueError where there are none."""
    total: np.ndarray | None = None
    for chunk in _chunks(rows):
        part = chunk.sum(0, dtype=np.float64)
        total = part if total is None else total + part
    if total is None:
        raise ValueError("no images: there is nothing to average")
    return total / len(rows)


def interval(
    rows: Rows,
    statistic: Statistic = first,
    samples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Compute the percentile bootstrap interval of statistic(means(rows)).

    Args:
        rows: k values of each image, [n, k], or a single value of each, [n].
        statistic: Turns k means into the metric.
        samples: Number of resamples.
        seed: Seed of the resamples.
        level: Share of the resampled values that lies within the interval.

    Returns:
        Lower and upper end.

    Raises:
        ValueError: If there are no images.
    """
    is_share = isinstance(rows, np.ndarray) and rows.ndim == 1 and rows.dtype == bool
    if is_share and len(rows) and statistic is first:
        return _interval_of_share(int(rows[:].sum()), len(rows), samples, seed, level)
    values = statistic(resampled(_two_dimensional(rows), samples, seed))
    return middle(values, level)


@lru_cache(maxsize=1 << 14)
def _interval_of_share(
    count: int, n: int, samples: int, seed: int, level: float
) -> tuple[float, float]:
    """Compute the interval of the share `count` of `n`; kept, as many classes have the same."""
    values = resampled((np.arange(n) < count)[:, None], samples, seed)
    return middle(first(values), level)


def compare(
    a: Rows,
    b: Rows,
    statistic: Statistic = first,
    samples: int = 1000,
    permutations: int = 2000,
    seed: int = 0,
) -> Comparison:
    """Compare two runs on the same images: row i of `a` and of `b` is the same image.

    Args:
        a: Rows of the first run, [n, k] or [n].
        b: Rows of the second run, of the same shape.
        statistic: Turns k means into the metric.
        samples: Number of resamples for the interval.
        permutations: Number of random swaps for the p-value.
        seed: Seed of both.

    Returns:
        The difference statistic(b) - statistic(a), its 95 % interval and its p-value.

    Raises:
        ValueError: If the numbers of images differ, or there are none.
    """
    a, b = _two_dimensional(a), _two_dimensional(b)
    if len(a) != len(b):
        raise ValueError(f"a paired test needs the same images: {len(a)} rows against {len(b)}")
    mean_a, mean_b = means(a), means(b)
    difference = float(statistic(mean_b) - statistic(mean_a))
    rng = np.random.default_rng(seed)
    pairs = resampled(_SideBySide(a, b), samples, rng)
    k = len(mean_a)
    spread = statistic(pairs[:, k:]) - statistic(pairs[:, :k])

    moved = _swap_at_random(a, b, permutations, rng)
    swapped = statistic(mean_b - moved) - statistic(mean_a + moved)
    as_far = np.abs(swapped) >= abs(difference) - 1e-12
    p_value = float((1 + as_far.sum()) / (1 + permutations))
    return Comparison(difference, middle(spread), p_value, len(a))


def _swap_at_random(
    a: Rows, b: Rows, permutations: int, rng: np.random.Generator
) -> Float64[np.ndarray, "permutations k"]:
    """Swap the two rows of random images; return by how much each swap moves the means of `a`."""
    moved = np.zeros((permutations, a[:1].shape[1]))
    for chunk_a, chunk_b in zip(_chunks(a), _chunks(b), strict=True):
        change = chunk_b.astype(np.float64) - chunk_a
        change = change[change.any(1)]  # swapping equal rows changes nothing
        if len(change):
            swap = rng.integers(0, 2, (permutations, len(change)), np.uint8)
            moved += swap.astype(np.float64) @ change / len(a)
    return moved


class _SideBySide:
    """Two runs' rows side by side, so that both are resampled alike."""

    def __init__(self, a: Rows, b: Rows) -> None:
        self.a, self.b = a, b

    def __len__(self) -> int:
        return len(self.a)

    def __getitem__(self, chosen: slice, /) -> np.ndarray:
        return np.concatenate([self.a[chosen], self.b[chosen]], axis=1)


def _two_dimensional(rows: Rows) -> Rows:
    if isinstance(rows, np.ndarray) and rows.ndim == 1:
        return rows[:, None]
    return rows


def _check_selection(select: np.ndarray, count: int) -> np.ndarray:
    if select.dtype != bool or select.shape != (count,):
        raise ValueError(
            f"select: expected bool [{count}], one for each image added, "
            f"got {select.dtype} {list(select.shape)}"
        )
    return select


def _chunks(rows: Rows) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), _CHUNK):
        yield rows[start : start + _CHUNK]


def resampled(
    rows: Rows, samples: int, seed: int | np.random.Generator
) -> Float64[np.ndarray, "samples k"]:
    """Compute the means of rows over resampled images, for callers with several statistics.

    Args:
        rows: k values of each image, [n, k].
        samples: Number of resamples.
        seed: Number, which draws the same images for all rows of one length, or a generator.

    Returns:
        The k means of each resample.

    Raises:
        ValueError: If there are no images.
    """
    n = len(rows)
    if n == 0:
        raise ValueError("no images: there is nothing to resample")
    if rows[:1].shape[1] <= 4:
        # Few distinct rows, as correct or not: draw how often each occurs, not image by image.
        distinct, counts = _count_distinct(np.asarray(rows[:], np.float64))
        if len(distinct) <= _FEW_ROWS:
            drawn: np.ndarray = _draw_occurrences(n, counts, samples, seed)
            return np.asarray(drawn @ distinct / n)
    total: np.ndarray | None = None
    for weights, chunk in zip(_draw_chunks(n, samples, seed), _chunks(rows), strict=True):
        part = _resample_chunk(weights, chunk)
        total = part if total is None else total + part
    assert total is not None
    return total / n


def _count_distinct(
    rows: Float64[np.ndarray, "n k"],
) -> tuple[Float64[np.ndarray, "m k"], Int[np.ndarray, m]]:
    """Return the distinct rows, sorted, and how often each occurs."""
    if rows.shape[1] == 1:  # twice as fast
        distinct, counts = np.unique(rows[:, 0], return_counts=True, equal_nan=False)
        return distinct[:, None], counts
    return np.unique(rows, axis=0, return_counts=True)


def _draw_occurrences(
    n: int, counts: Int[np.ndarray, m], samples: int, seed: int | np.random.Generator
) -> Int[np.ndarray, "samples m"]:
    """Draw how often each of some distinct rows occurs in each sample."""
    if isinstance(seed, np.random.Generator):
        return seed.multinomial(n, counts / n, samples)
    return _draw_occurrences_once(n, tuple(counts.tolist()), samples, seed)


@lru_cache(maxsize=16)
def _draw_occurrences_once(
    n: int, counts: tuple[int, ...], samples: int, seed: int
) -> Int[np.ndarray, "samples m"]:
    """Draw as `_draw_occurrences`; kept for the next classes with as many images, 8 MB at most."""
    drawn = np.random.default_rng(seed).multinomial(n, np.array(counts) / n, samples)
    drawn.flags.writeable = False
    return drawn


def _draw_chunks(
    n: int, samples: int, seed: int | np.random.Generator
) -> Iterator[Shaped[np.ndarray, "samples size"]]:
    """Yield how often each sample has each row, for one chunk of rows after the other."""
    if isinstance(seed, np.random.Generator):
        yield from _draw_new_chunks(n, samples, seed)
    elif n <= _CHUNK:
        yield _draw_weights_once(n, samples, seed)
    elif (drawn := draw_counts(n, samples, seed)) is not None:
        for start in range(0, n, _CHUNK):
            yield np.ascontiguousarray(drawn[start : start + _CHUNK].T)
    else:
        yield from _draw_new_chunks(n, samples, np.random.default_rng(seed))


def _draw_new_chunks(
    n: int, samples: int, rng: np.random.Generator
) -> Iterator[Int[np.ndarray, "samples size"]]:
    """Draw how often each sample has each row, for one chunk of rows after the other."""
    sizes = np.array([min(_CHUNK, n - start) for start in range(0, n, _CHUNK)])
    drawn = rng.multinomial(n, sizes / n, samples)  # images of each chunk, in each sample
    for i, size in enumerate(sizes.tolist()):
        yield _draw_weights(drawn[:, i], size, rng)


def draw_counts(n: int, samples: int, seed: int) -> UInt8[np.ndarray, "n samples"] | None:
    """Return how often each resample has each image, as `resampled` draws them.

    They are kept: all metrics of the same images are resampled alike.

    Args:
        n: Number of images.
        samples: Number of resamples.
        seed: Seed of the resamples.

    Returns:
        The counts; None where they are too many to be kept.
    """
    return _draw_counts_once(n, samples, seed) if n * samples <= _MAX_COUNTS else None


@lru_cache(maxsize=1)
def _draw_counts_once(n: int, samples: int, seed: int) -> UInt8[np.ndarray, "n samples"] | None:
    counts = np.empty((n, samples), np.uint8)
    rng, start = np.random.default_rng(seed), 0
    small = [_draw_weights_once(n, samples, seed)] if n <= _CHUNK else None
    for weights in small or _draw_new_chunks(n, samples, rng):
        if weights.max() > np.iinfo(np.uint8).max:
            return None
        counts[start : start + weights.shape[1]] = weights.T
        start += weights.shape[1]
    counts.flags.writeable = False
    return counts


def _resample_chunk(weights: np.ndarray, chunk: np.ndarray) -> Float64[np.ndarray, "samples k"]:
    """Compute the sums of some rows, weighted by how often each is drawn."""
    # Integers below 2**24 are exact in float32, which is twice as fast.
    dtype = np.float32 if chunk.dtype in (np.bool_, np.uint8) else np.float64
    return np.asarray(weights.astype(dtype, copy=False) @ chunk.astype(dtype), np.float64)


@lru_cache(maxsize=2)
def _draw_weights_once(n: int, samples: int, seed: int) -> Float32[np.ndarray, "samples n"]:
    """Draw how often each of at most _CHUNK rows occurs in each sample.

    The result is kept, 4 MB at most: several metrics of the same images draw the same.
    """
    (drawn,) = _draw_new_chunks(n, samples, np.random.default_rng(seed))
    weights = drawn.astype(np.float32)
    weights.flags.writeable = False
    return weights


def _draw_weights(
    drawn: Int[np.ndarray, samples], size: int, rng: np.random.Generator
) -> Int[np.ndarray, "samples size"]:
    """Draw how often each of `size` rows occurs in each sample, where `drawn` are drawn in all."""
    samples = len(drawn)
    cells = np.repeat(np.arange(samples) * size, drawn) + rng.integers(0, size, drawn.sum())
    return np.bincount(cells, minlength=samples * size).reshape(samples, size)


def middle(values: Float64[np.ndarray, samples], level: float = 0.95) -> tuple[float, float]:
    """Return the ends of the interval that holds the middle `level` of resampled values."""
    ordered = np.sort(values)
    if ordered.ndim != 1 or not (len(ordered) and np.isfinite(ordered[[0, -1]]).all()):
        low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)
    return _quantile(ordered, (1 - level) / 2), _quantile(ordered, (1 + level) / 2)


def _quantile(ordered: Float64[np.ndarray, samples], share: float) -> float:
    """Return a quantile of sorted finite values: as `np.quantile`, in a tenth of its time."""
    place = (len(ordered) - 1) * share
    before = math.floor(place)
    low = float(ordered[before])
    high = float(ordered[min(before + 1, len(ordered) - 1)])
    part, step = place - before, high - low
    return high - step * (1 - part) if part >= 0.5 else low + step * part
