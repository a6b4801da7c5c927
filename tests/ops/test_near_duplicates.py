"""Near duplicates: copies of photographs are found, other things on plain backgrounds are not."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw

from pipeline.ops.near_duplicates import (
    MAX_COLOUR_DISTANCE,
    Signatures,
    find_near_groups,
    have_near_colours,
    measure_signature,
    shrink_to_chroma,
)
from pipeline.ops.perceptual_hash import SIDE
from tests.ops.test_perceptual_hash import draw_scene


def sign(images: Sequence[Image.Image]) -> Signatures:
    smalls = [
        np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX))
        for image in images
    ]
    perceptual, grey, chroma, contrast = zip(*map(measure_signature, smalls), strict=True)
    return Signatures(
        np.array(perceptual, np.uint64), np.array(grey), np.array(chroma),
        np.array(contrast, np.float32), np.array([min(image.size) for image in images], np.int32),
    )  # fmt: skip


def find_groups(*images: Image.Image) -> list[list[int]]:
    return find_near_groups(sign(images), np.arange(len(images)))


def draw_thing(
    background: tuple[int, int, int], colour: tuple[int, int, int], is_square: bool = True
) -> Image.Image:
    """A thing in the right half of a plain background."""
    image = Image.new("RGB", (160, 120), background)
    pen = ImageDraw.Draw(image)
    if is_square:
        pen.rectangle((100, 60, 139, 99), fill=colour)
    else:
        pen.polygon(((100, 99), (139, 99), (120, 60)), fill=colour)
    return image


def compress(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=30)
    return Image.open(buffer)


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "jpeg": compress,
    "quarter": lambda image: image.resize((image.width // 4, image.height // 4)),
    "brighter": lambda image: image.point(lambda value: min(255, int(1.2 * value))),
    "grey": lambda image: image.convert("L"),
    "warmer": lambda image: Image.fromarray(
        (np.asarray(image) * (1.08, 1, 0.92)).clip(0, 255).astype(np.uint8)
    ),
}


@pytest.mark.parametrize("name", COPIES)
def test_copies_are_found(name: str) -> None:
    for image in map(draw_scene, range(4)):
        assert find_groups(image, COPIES[name](image)) == [[0, 1]]


def test_other_things_in_the_same_place_on_plain_backgrounds_are_not() -> None:
    square = draw_thing((222, 184, 165), (55, 45, 215))
    triangle = draw_thing((212, 212, 222), (5, 130, 45), is_square=False)
    red = draw_thing((222, 184, 165), (170, 25, 20))
    pale = draw_thing((222, 184, 165), (168, 158, 200))  # as the first one, of half the contrast
    for other in (triangle, red, pale):
        assert find_groups(square, other) == []
    assert find_groups(square, triangle, draw_scene(1), compress(triangle)) == [[1, 3]]


def test_colours_are_those_of_the_definition() -> None:
    small = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
    cells = small.reshape(4, 8, 4, 8, 3).mean((1, 3)).round().astype(np.uint8)
    red, green, blue = cells.astype(float).transpose(2, 0, 1)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue  # BT.601, as JPEG has it
    expected = np.stack([0.713 * (red - luma) + 128, 0.564 * (blue - luma) + 128], 2).ravel()
    assert shrink_to_chroma(small) == pytest.approx(expected, abs=1.5)

    grey = np.full((1, 32), 128, np.uint8)
    near, far = grey + 20, grey + 20
    near[0, 4] += int(MAX_COLOUR_DISTANCE)
    far[0, 4] += int(MAX_COLOUR_DISTANCE) + 1
    assert have_near_colours(grey + 20, near).tolist() == [True]
    assert have_near_colours(grey + 20, far).tolist() == [False]
    tinted = grey.reshape(1, 16, 2) + np.uint8(20)
    tinted[0, :8, 0] += 17  # half of the cells, and then one more
    assert have_near_colours(grey + 20, tinted.reshape(1, 32)).tolist() == [True]
    tinted[0, 8, 0] += 17
    assert have_near_colours(grey + 20, tinted.reshape(1, 32)).tolist() == [False]
    assert have_near_colours(grey, far).tolist() == [True]  # a copy in grey has no colour
    assert have_near_colours(far, grey).tolist() == [True]
    assert have_near_colours(grey[:0], grey[:0]).shape == (0,)
    assert cv2.cvtColor(np.full((1, 1, 3), 90, np.uint8), cv2.COLOR_RGB2YCrCb)[0, 0, 1] == 128
