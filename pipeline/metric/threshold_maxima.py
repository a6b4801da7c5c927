"""Highest accuracy over the thresholds in each bootstrap resample, from where curves change.

Whether a map is right changes at a few thresholds only. So the number of correct images at a
threshold is that of the threshold before, plus the images that become right and less those that
become wrong. All sums are of integers: they equal those of a matrix product, which costs hundreds
of times as much. `max_box_acc` uses it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.ops.compiled import njit

if TYPE_CHECKING:
    from jaxtyping import Bool, Int, Int32, UInt8


@dataclass(frozen=True)
class Changes:
    """Where the curves of images change, column by column.

    A column is a threshold of a curve; each image has several curves, one after the other. The
    columns of a curve begin as if the image was wrong before.

    Attributes:
        start: the changes of column c are those from start[c] to before start[c + 1].
        image: of each change.
        becomes_right: of each change; else the image becomes wrong.
        length: how many columns a curve has.
    """

    start: Int[np.ndarray, "k+1"]
    image: Int32[np.ndarray, c]
    becomes_right: Bool[np.ndarray, c]
    length: int

    def count_correct(self) -> Int[np.ndarray, k]:
        """Return how many images are right in each column."""
        signs = np.where(self.becomes_right, 1, -1)
        total = np.concatenate([[0], np.cumsum(signs)])[self.start]
        gains = np.diff(total).reshape(-1, self.length)
        return np.asarray(gains.cumsum(1).ravel())

    def find_maxima(self, drawn: UInt8[np.ndarray, "n samples"]) -> Int32[np.ndarray, "samples d"]:
        """Return the highest number of correct images over the columns of each curve.

        Args:
            drawn: how often each resample has each image.
        """
        curves, samples = (len(self.start) - 1) // self.length, drawn.shape[1]
        highest = np.zeros((curves, samples), np.int32)
        correct = np.zeros((curves, samples), np.int32)
        _find_maxima(
            self.start, self.image, self.becomes_right, self.length, drawn, correct, highest
        )
        return highest.T


def find_changes(packed: UInt8[np.ndarray, "n b"], width: int, length: int) -> Changes:
    """Find where curves change that are stored as bits, eight columns a byte.

    Args:
        packed: as `BitRows.packed` returns them.
        width: number of columns of all curves of an image.
        length: number of columns of a curve.

    Raises:
        ValueError: A curve does not begin with a byte.
    """
    if length % 8 or width % length:
        raise ValueError(f"columns: expected curves of a multiple of 8, got {width} of {length}")
    before = np.zeros_like(packed)  # of each byte, the bit before its first
    before[:, 1:] = packed[:, :-1] & 1
    before[:, :: length // 8] = 0
    changed = packed ^ (packed >> 1 | before << 7)
    bytes_changed = np.flatnonzero(changed)  # few of all
    bits = np.unpackbits(changed.ravel()[bytes_changed, None], axis=1)
    number, bit = bits.nonzero()
    row, byte = np.divmod(bytes_changed[number], packed.shape[1])
    column = 8 * byte + bit
    order = column.argsort(kind="stable")  # by column, then by image
    values = np.unpackbits(packed.ravel()[bytes_changed, None], axis=1)
    start = np.zeros(width + 1, np.int64)
    np.cumsum(np.bincount(column, minlength=width), out=start[1:])
    image = row[order].astype(np.int32)
    return Changes(start, image, values[number, bit][order].astype(bool), length)


@njit
def _find_maxima(
    start: np.ndarray,
    image: np.ndarray,
    becomes_right: np.ndarray,
    length: int,
    drawn: np.ndarray,
    correct: np.ndarray,
    highest: np.ndarray,
) -> None:
    """Follow the number of correct images of all resamples from column to column.

    `correct` and `highest`, a row for each curve, are zeros before.
    """
    for curve in range(len(highest)):
        now, best = correct[curve], highest[curve]
        for c in range(curve * length, (curve + 1) * length):
            for i in range(start[c], start[c + 1]):
                row = drawn[image[i]]
                sign = np.int32(1) if becomes_right[i] else np.int32(-1)
                for s in range(len(row)):
                    now[s] += sign * np.int32(row[s])
            if start[c] < start[c + 1]:
                for s in range(len(best)):
                    if now[s] > best[s]:
                        best[s] = now[s]
