"""Perceptual hashes: 64 bits of an image that hardly change with its size and compression.

    C = DCT-II of the grey image, 32 x 32 pixels
    bit k = C_k > median(C)     over the 64 lowest frequencies without the mean, C_00

Images are near where their hashes differ in at most d bits. Of d // 2 + 1 bands of the bits, two
such hashes differ in at most one bit of at least one band (else they would differ in more than d),
so that only these are compared, and not all pairs. The method of the bits is pHash (Zauner,
"Implementation and Benchmarking of Perceptual Image Hash Functions", 2010).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float32, Int64, UInt8, UInt64

SIDE = 32  # pixels of the image that is hashed
BITS = 64
FREQUENCIES = 8  # of each direction


def hash_image(image: UInt8[np.ndarray, "32 32 3"]) -> int:
    """Return the perceptual hash of an image, as an unsigned integer of 64 bits.

    Args:
        image: RGB, scaled to `SIDE` x `SIDE` pixels.
    """
    grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY).astype(np.float32)
    spectrum = cv2.dct(grey)
    # The mean, C_00, says nothing of the content: the next frequency takes its place.
    low = spectrum[:FREQUENCIES, :FREQUENCIES].ravel()
    low[0] = spectrum[FREQUENCIES, 0]
    return int.from_bytes(np.packbits(low > np.median(low)).tobytes(), "big")


def measure_contrast(image: UInt8[np.ndarray, "h w 3"]) -> float:
    """Return the standard deviation of the grey values of an image, from 0 to 127.5.

    Args:
        image: RGB.
    """
    return float(cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY).std())


def measure_colour_range(image: UInt8[np.ndarray, "h w 3"]) -> int:
    """Return the largest difference of two pixels in a channel, from 0 to 255.

    Args:
        image: RGB.
    """
    return int(np.ptp(image.reshape(-1, 3), axis=0).max())


def find_near_hashes(hashes: UInt64[np.ndarray, n], distance: int) -> Int64[np.ndarray, "m 2"]:
    """Return each pair of hashes that differ in at most so many bits, once.

    Args:
        hashes: of images; equal ones are near, too.
        distance: bits in which near hashes differ at most, from 0 to 32.

    Returns:
        Positions of the two of each pair, the smaller first, sorted.
    """
    pairs = [
        np.sort(pair, axis=1)
        for first, last in _list_bands(distance // 2 + 1)
        for pair in _compare_in_band(hashes, first, last, distance)
    ]
    return np.unique(np.concatenate([np.empty((0, 2), np.int64), *pairs]), axis=0)


def _list_bands(count: int) -> list[tuple[int, int]]:
    """Divide the bits into bands: the first bit of each, and the bit behind its last."""
    ends = [round(n * BITS / count) for n in range(count + 1)]
    return list(pairwise(ends))


def _compare_in_band(
    hashes: UInt64[np.ndarray, n], first: int, last: int, distance: int
) -> Iterator[Int64[np.ndarray, "m 2"]]:
    """Yield the near pairs among hashes that differ in at most one bit of a band."""
    band = (hashes >> np.uint64(first)) & np.uint64((1 << (last - first)) - 1)
    order = np.argsort(band, kind="stable")
    values, sorted_hashes = band[order], hashes[order]
    begin = np.arange(1, len(hashes) + 1)  # equal in the band: with all that come after it
    end = np.searchsorted(values, values, "right")
    for places, others in _list_pairs(sorted_hashes, begin, end, distance):
        yield np.stack([order[places], order[others]], axis=1)
    for bit in range(last - first):  # from the hash without this bit to that with it
        flipped = values | np.uint64(1 << bit)
        begin, end = (np.searchsorted(values, flipped, side) for side in ("left", "right"))
        end = np.where(flipped == values, begin, end)
        for places, others in _list_pairs(sorted_hashes, begin, end, distance):
            yield np.stack([order[places], order[others]], axis=1)


def _list_pairs(
    hashes: UInt64[np.ndarray, n],
    begin: Int64[np.ndarray, n],
    end: Int64[np.ndarray, n],
    distance: int,
) -> Iterator[tuple[Int64[np.ndarray, m], Int64[np.ndarray, m]]]:
    """Yield positions of near hashes, each compared with those from `begin` to before `end`.

    All are compared with their first, then with their second, as long as there is a further hash.
    """
    places = np.flatnonzero(begin < end)
    step = 0
    while len(places):
        others = begin[places] + step
        is_near = np.bitwise_count(hashes[places] ^ hashes[others]) <= distance
        if is_near.any():
            yield places[is_near], others[is_near]
        step += 1
        places = places[begin[places] + step < end[places]]


def correlate(
    images: UInt8[np.ndarray, "m k"], others: UInt8[np.ndarray, "m k"]
) -> Float32[np.ndarray, m]:
    """Return the correlation of the grey values of each pair of images, from -1 to 1.

    It does not depend on their brightness and contrast. Of an image of one grey value it is 0.

    Args:
        images: the grey values of an image in each row.
        others: those of the images that they are compared with.
    """
    first, second = (_standardize(values) for values in (images, others))
    return np.asarray((first * second).sum(1), np.float32)


def _standardize(values: UInt8[np.ndarray, "m k"]) -> Float32[np.ndarray, "m k"]:
    """Shift and scale each row to the mean 0 and the length 1."""
    centred = values.astype(np.float32) - values.mean(1, keepdims=True, dtype=np.float32)
    length = np.sqrt((centred**2).sum(1, keepdims=True))
    return np.asarray(centred / np.maximum(length, 1e-6))
