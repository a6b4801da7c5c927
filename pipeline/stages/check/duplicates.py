"""Images that are there twice: files of the same bytes, and images that look the same.

Near duplicates are two images whose perceptual hashes differ in at most `check.distance` bits and
whose grey values, 8 x 8, correlate by at least MIN_CORRELATION. Both bounds are measured
(docs/engineer.md). Images of hardly any contrast, and those with a side below MIN_SIDE, all look
the same, and are compared by bytes only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.ops.perceptual_hash import SIDE, correlate, find_near_hashes
from pipeline.stages.check.images import Measured

if TYPE_CHECKING:
    from jaxtyping import Int64

MIN_CORRELATION = 0.95
MIN_CONTRAST = 4.0  # standard deviation of grey values: less is a flat image or a speck on sky
MIN_SIDE = SIDE  # pixels: digits of 28 x 28 pixels look the same without being duplicates
PAIRS_AT_ONCE = 1 << 16  # candidates that are verified together


@dataclass(frozen=True)
class Duplicates:
    """Groups of images that are there several times.

    Attributes:
        exact: the images of each group of equal files.
        near: the images of each group that look the same and are not all equal files.
        plain: images of hardly any contrast or few pixels, which are compared by bytes only.
    """

    exact: Sequence[Sequence[int]] = ()
    near: Sequence[Sequence[int]] = ()
    plain: Sequence[int] = ()


def find_duplicates(measured: Measured, distance: int) -> Duplicates:
    """Find the groups of images that are there several times.

    Args:
        measured: of all images, with hashes.
        distance: bits in which the hashes of near duplicates differ at most.
    """
    readable = np.flatnonzero(measured.is_read)
    exact = _group_equal(readable, measured.content[readable])
    # One image of each group of equal files stands for all of them.
    others = {number for group in exact for number in group[1:]}
    shorter = np.minimum(measured.height, measured.width)
    is_plain = (measured.contrast < MIN_CONTRAST) | (shorter < MIN_SIDE)
    compared = np.array(
        [n for n in readable.tolist() if n not in others and not is_plain[n]], np.int64
    )
    hashes = measured.perceptual[compared]
    leaders, joined = _group_same_hash(measured, compared, hashes)
    pairs = leaders[find_near_hashes(measured.perceptual[leaders], distance)]
    joined += pairs[_are_alike(measured, pairs)].tolist()
    by_first = {group[0]: group for group in exact}
    near = [
        sorted(number for first in group for number in by_first.get(first, [first]))
        for group in join_pairs(joined)
    ]
    return Duplicates(exact, sorted(near), readable[is_plain[readable]].tolist())


def _group_equal(numbers: Int64[np.ndarray, m], values: Int64[np.ndarray, m]) -> list[list[int]]:
    """Group the numbers whose values are equal, at least two a group."""
    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(np.diff(values[order], prepend=values[order][:1] - 1))
    groups = np.split(numbers[order], starts[1:]) if len(numbers) else []
    return sorted(group.tolist() for group in groups if len(group) > 1)


def _group_same_hash(
    measured: Measured, compared: Int64[np.ndarray, m], hashes: Int64[np.ndarray, m]
) -> tuple[Int64[np.ndarray, k], list[list[int]]]:
    """Join images of the same hash that are alike, each with the first such image.

    Thousands of images may have the same hash, as slides of one layout have: they are not compared
    in pairs.

    Returns:
        The images that are left to be compared, and the pairs that were joined.
    """
    same = _group_equal(compared, hashes.view(np.int64))
    absorbed: set[int] = set()
    pairs: list[list[int]] = []
    for group in same:
        left = np.array(group, np.int64)
        while len(left) > 1:
            first, rest = left[0], left[1:]
            is_alike = _are_alike(measured, np.stack([np.full(len(rest), first), rest], 1))
            pairs += [[int(first), int(other)] for other in rest[is_alike]]
            absorbed |= set(rest[is_alike].tolist())
            left = rest[~is_alike]
    leaders = [number for number in compared.tolist() if number not in absorbed]
    return np.array(leaders, np.int64), pairs


def _are_alike(measured: Measured, pairs: Int64[np.ndarray, "m 2"]) -> np.ndarray:
    """Return whether the grey values of the images of each pair correlate."""
    parts = [
        correlate(measured.grey[part[:, 0]], measured.grey[part[:, 1]]) >= MIN_CORRELATION
        for part in np.split(pairs, range(PAIRS_AT_ONCE, len(pairs), PAIRS_AT_ONCE))
    ]
    return np.concatenate(parts)


def join_pairs(pairs: Iterable[Sequence[int]]) -> list[list[int]]:
    """Return the connected components of pairs of numbers, each sorted.

    Args:
        pairs: of numbers that belong together.

    Examples:
        >>> join_pairs([(1, 2), (7, 9), (2, 4)])
        [[1, 2, 4], [7, 9]]
    """
    parent: dict[int, int] = {}

    def find_root(number: int) -> int:
        root = number
        while parent.setdefault(root, root) != root:
            root = parent[root]
        while parent[number] != root:
            parent[number], number = root, parent[number]
        return root

    for first, second in pairs:
        low, high = sorted((find_root(first), find_root(second)))
        parent[high] = low
    groups: dict[int, list[int]] = {}
    for number in sorted(parent):
        groups.setdefault(find_root(number), []).append(number)
    return list(groups.values())
