"""Images that look the same: found by perceptual hashes, verified by grey values and colours.

Two images are near duplicates where

    their perceptual hashes differ in at most `distance` bits;
    their grey values, 8 x 8, correlate by at least MIN_CORRELATION;
    their contrasts differ by a factor of at most MAX_CONTRAST_RATIO;
    the colour, (Cr, Cb), of no cell of 4 x 4 differs by more than MAX_COLOUR_DISTANCE, nor that of
    half of the cells by more than MAX_MEDIAN_DISTANCE. A copy in grey has no colour: images without
    any are not compared by it.

The first two depend on a flat image only by where its objects are: two things in the same place on
plain backgrounds differ in colour. All bounds are measured (docs/engineer.md). Images of hardly any
contrast, and those with a side below MIN_SIDE, all look the same, and are not compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from pipeline.ops.perceptual_hash import (
    SIDE,
    correlate,
    find_near_hashes,
    hash_image,
    measure_contrast,
)

if TYPE_CHECKING:
    from jaxtyping import Bool, Float32, Int32, Int64, UInt8, UInt64

DISTANCE = 8  # bits of 64 in which hashes of near duplicates differ at most, unless it is given
MIN_CORRELATION = 0.95
MAX_CONTRAST_RATIO = 1.7
MAX_COLOUR_DISTANCE = 24.0  # of 255, in the plane of Cr and Cb
MAX_MEDIAN_DISTANCE = 16.0
MIN_COLOUR = 6.0  # distance from grey there: no cell of an image without colour has more
MIN_CONTRAST = 4.0  # standard deviation of grey values: less is a flat image or a speck on sky
MIN_SIDE = SIDE  # pixels: digits of 28 x 28 pixels look the same without being duplicates
GREY_SIDE = 8  # pixels of the grey image by which near duplicates are verified
CELLS = 4  # of each direction, whose colours are compared
GREY_CHROMA = 128  # Cr and Cb of grey
PAIRS_AT_ONCE = 1 << 16  # candidates that are verified together


@dataclass(frozen=True)
class Signatures:
    """What near duplicates are found by, of each image.

    Attributes:
        perceptual: its perceptual hash.
        grey: its grey values at GREY_SIDE x GREY_SIDE pixels.
        chroma: Cr and Cb of each of CELLS x CELLS cells.
        contrast: standard deviation of its grey values.
        shorter: its shorter side in pixels; 0 where it cannot be read.
    """

    perceptual: UInt64[np.ndarray, n]
    grey: UInt8[np.ndarray, "n 64"]
    chroma: UInt8[np.ndarray, "n 32"]
    contrast: Float32[np.ndarray, n]
    shorter: Int32[np.ndarray, n]

    @property
    def is_plain(self) -> Bool[np.ndarray, n]:
        """Whether each image is one of those that all look the same."""
        return np.asarray((self.contrast < MIN_CONTRAST) | (self.shorter < MIN_SIDE))


def shrink_to_grey(small: UInt8[np.ndarray, "32 32 3"]) -> UInt8[np.ndarray, "64"]:
    """Return the grey values of an image that near duplicates are verified by.

    Args:
        small: RGB, scaled to `SIDE` x `SIDE` pixels.
    """
    grey = cv2.cvtColor(np.ascontiguousarray(small), cv2.COLOR_RGB2GRAY)
    shrunk = cv2.resize(grey, (GREY_SIDE, GREY_SIDE), interpolation=cv2.INTER_AREA)
    return np.asarray(shrunk, np.uint8).ravel()


def shrink_to_chroma(small: UInt8[np.ndarray, "32 32 3"]) -> UInt8[np.ndarray, "32"]:
    """Return the colour of each of CELLS x CELLS cells of an image: Cr and Cb, 128 of grey.

    Args:
        small: RGB, scaled to `SIDE` x `SIDE` pixels.
    """
    cells = cv2.resize(np.ascontiguousarray(small), (CELLS, CELLS), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.cvtColor(cells, cv2.COLOR_RGB2YCrCb)[..., 1:], np.uint8).ravel()


def measure_signature(
    small: UInt8[np.ndarray, "32 32 3"],
) -> tuple[int, UInt8[np.ndarray, "64"], UInt8[np.ndarray, "32"], float]:
    """Return the perceptual hash of an image, its grey values, its colours and its contrast.

    Args:
        small: RGB, scaled to `SIDE` x `SIDE` pixels.
    """
    return (
        hash_image(small),
        shrink_to_grey(small),
        shrink_to_chroma(small),
        measure_contrast(small),
    )


def find_near_groups(
    signatures: Signatures, compared: Int64[np.ndarray, m], distance: int = DISTANCE
) -> list[list[int]]:
    """Group the images that look the same, at least two a group.

    Args:
        signatures: of all images.
        compared: the images that are compared; plain ones among them are left out.
        distance: bits in which the hashes of near duplicates differ at most.
    """
    compared = compared[~signatures.is_plain[compared]]
    leaders, joined = _group_same_hash(signatures, compared)
    pairs = leaders[find_near_hashes(signatures.perceptual[leaders], distance)]
    joined += pairs[_are_alike(signatures, pairs)].tolist()
    return join_pairs(joined)


def group_equal(numbers: Int64[np.ndarray, m], values: Int64[np.ndarray, m]) -> list[list[int]]:
    """Group the numbers whose values are equal, at least two a group.

    Args:
        numbers: of images.
        values: of each of them.
    """
    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(np.diff(values[order], prepend=values[order][:1] - 1))
    groups = np.split(numbers[order], starts[1:]) if len(numbers) else []
    return sorted(group.tolist() for group in groups if len(group) > 1)


def _group_same_hash(
    signatures: Signatures, compared: Int64[np.ndarray, m]
) -> tuple[Int64[np.ndarray, k], list[list[int]]]:
    """Join images of the same hash that are alike, each with the first such image.

    Thousands of images may have the same hash, as slides of one layout have: they are not compared
    in pairs.

    Returns:
        The images that are left to be compared, and the pairs that were joined.
    """
    same = group_equal(compared, signatures.perceptual[compared].view(np.int64))
    absorbed: set[int] = set()
    pairs: list[list[int]] = []
    for group in same:
        left = np.array(group, np.int64)
        while len(left) > 1:
            first, rest = left[0], left[1:]
            is_alike = _are_alike(signatures, np.stack([np.full(len(rest), first), rest], 1))
            pairs += [[int(first), int(other)] for other in rest[is_alike]]
            absorbed |= set(rest[is_alike].tolist())
            left = rest[~is_alike]
    leaders = [number for number in compared.tolist() if number not in absorbed]
    return np.array(leaders, np.int64), pairs


def _are_alike(signatures: Signatures, pairs: Int64[np.ndarray, "m 2"]) -> np.ndarray:
    """Return whether grey values correlate, and contrasts and colours are near, in each pair."""
    parts = []
    for part in np.split(pairs, range(PAIRS_AT_ONCE, len(pairs), PAIRS_AT_ONCE)):
        first, second = part[:, 0], part[:, 1]
        is_alike = correlate(signatures.grey[first], signatures.grey[second]) >= MIN_CORRELATION
        contrasts = signatures.contrast[first], signatures.contrast[second]
        is_alike &= np.maximum(*contrasts) <= MAX_CONTRAST_RATIO * np.minimum(*contrasts)
        is_alike &= have_near_colours(signatures.chroma[first], signatures.chroma[second])
        parts.append(is_alike)
    return np.concatenate(parts)


def have_near_colours(
    images: UInt8[np.ndarray, "m 32"], others: UInt8[np.ndarray, "m 32"]
) -> Bool[np.ndarray, m]:
    """Return whether the colours of no cell are far apart in each pair, or an image has no colour.

    Args:
        images: Cr and Cb of the cells of an image in each row.
        others: those of the images that they are compared with.
    """
    first, second = (
        chroma.reshape(-1, CELLS**2, 2).astype(np.float32) - GREY_CHROMA
        for chroma in (images, others)
    )
    colour = [np.linalg.norm(chroma, axis=2).max(1) for chroma in (first, second)]
    distance = np.linalg.norm(first - second, axis=2)
    is_near = distance.max(1) <= MAX_COLOUR_DISTANCE
    is_near &= np.median(distance, axis=1) <= MAX_MEDIAN_DISTANCE
    return np.asarray(is_near | (np.minimum(*colour) < MIN_COLOUR), bool)


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
