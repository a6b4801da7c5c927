"""Perceptual hashes: the bits against NumPy's definition, near pairs against all pairs."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from pipeline.ops.perceptual_hash import (
    SIDE,
    correlate,
    find_near_hashes,
    hash_image,
    measure_colour_range,
    measure_contrast,
)


def draw_scene(seed: int, size: int = 256) -> Image.Image:
    """A photograph-like image: blobs of several sizes and colours."""
    rng = np.random.default_rng(seed)
    small = [rng.integers(0, 256, (side, side, 3)).astype(np.uint8) for side in (3, 6, 12)]
    layers = [
        np.asarray(Image.fromarray(layer).resize((size, size), Image.Resampling.BICUBIC), float)
        for layer in small
    ]
    return Image.fromarray(
        (0.5 * layers[0] + 0.3 * layers[1] + 0.2 * layers[2]).clip(0, 255).astype(np.uint8)
    )


def hash_picture(image: Image.Image) -> int:
    small = image.resize((SIDE, SIDE), Image.Resampling.BILINEAR, reducing_gap=3.0)
    return hash_image(np.asarray(small.convert("RGB")))


def test_the_bits_are_those_of_the_cosine_transform() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
    grey = np.asarray(Image.fromarray(pixels).convert("L"), float)  # as OpenCV, up to rounding
    n = np.arange(SIDE)
    basis = np.cos(np.pi * np.outer(n, 2 * n + 1) / (2 * SIDE))
    basis *= np.sqrt(2 / SIDE)
    basis[0] /= np.sqrt(2)
    spectrum = basis @ grey @ basis.T
    low = spectrum[:8, :8].ravel().copy()
    low[0] = spectrum[8, 0]
    expected = int("".join("1" if v else "0" for v in low > np.median(low)), 2)
    differing = (expected ^ hash_image(pixels)).bit_count()
    assert differing <= 2, "a coefficient at the median may fall on the other side"
    assert hash_image(pixels).bit_count() == 32


@pytest.mark.parametrize("change", ["half", "jpeg", "brighter", "grey"])
def test_copies_are_near_and_other_images_are_not(change: str) -> None:
    for seed in range(5):
        image = draw_scene(seed)
        if change == "half":
            copy = image.resize((128, 128), Image.Resampling.BICUBIC)
        elif change == "jpeg":
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", quality=30)
            copy = Image.open(buffer)
        elif change == "brighter":
            copy = image.point(lambda value: min(255, value + 20))
        else:
            copy = image.convert("L")
        assert (hash_picture(image) ^ hash_picture(copy)).bit_count() <= 8
        assert (hash_picture(image) ^ hash_picture(draw_scene(seed + 100))).bit_count() > 8


@pytest.mark.parametrize("distance", [0, 1, 2, 5, 8, 9])
def test_near_hashes_are_those_of_all_pairs(distance: int) -> None:
    rng = np.random.default_rng(distance)
    base = rng.integers(0, 2**64, 60, np.uint64)
    flips = [
        np.uint64(sum(1 << int(bit) for bit in rng.choice(64, count, replace=False)))
        for count in rng.integers(0, 13, 240)
    ]
    hashes = np.concatenate([base, np.repeat(base, 4) ^ np.array(flips, np.uint64)])
    differing = np.bitwise_count(hashes[:, None] ^ hashes[None])
    expected = np.argwhere(np.triu(differing <= distance, 1))
    assert len(expected) > 10
    assert find_near_hashes(hashes, distance).tolist() == expected.tolist()


def test_no_hash_and_one_hash_have_no_pair() -> None:
    for count in (0, 1):
        assert find_near_hashes(np.zeros(count, np.uint64), 8).shape == (0, 2)


def test_correlation_is_that_of_numpy() -> None:
    rng = np.random.default_rng(1)
    first, second = (rng.integers(0, 256, (6, 64)).astype(np.uint8) for _ in range(2))
    expected = [np.corrcoef(a, b)[0, 1] for a, b in zip(first, second, strict=True)]
    assert correlate(first, second) == pytest.approx(expected, abs=1e-5)
    assert correlate(np.full((1, 64), 7, np.uint8), first[:1]).tolist() == [0]


def test_contrast_and_range() -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    image[:2, :, 2] = 100
    assert measure_colour_range(image) == 100
    assert measure_contrast(image) == pytest.approx(0.114 * 50, abs=0.5)
