"""Mosaics: two to four shapes of one class an image, apart, and never those of the embedded set."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.data.mosaics import GAP, Mosaics
from pipeline.data.shapes import Shapes
from pipeline.errors import UserError


@pytest.fixture(scope="module")
def mosaics() -> Mosaics:
    return Mosaics(images=40, val_images=60)


def test_each_image_holds_two_to_four_boxes_that_are_apart(mosaics: Mosaics) -> None:
    counts = []
    for truth in mosaics.truth("val").values():
        boxes = truth.boxes
        counts.append(len(boxes))
        for n, first in enumerate(boxes):
            for second in boxes[n + 1 :]:
                distance = max((second[:2] - first[2:]).max(), (first[:2] - second[2:]).max())
                assert distance >= GAP - 1, "boxes are rounded to whole pixels"
    assert set(counts) == {2, 3, 4}
    assert min(counts.count(count) for count in (2, 3, 4)) >= 10


def test_shapes_have_the_sizes_that_the_module_names(mosaics: Mosaics) -> None:
    sides = [
        (truth.boxes[:, 2:] - truth.boxes[:, :2]).max(1) for truth in mosaics.truth("val").values()
    ]
    assert np.concatenate(sides).min() >= 52
    assert np.concatenate(sides).max() <= 87


def test_images_are_other_than_those_of_the_embedded_set(mosaics: Mosaics) -> None:
    shapes = Shapes(images=40, val_images=60)
    assert mosaics.ids("val") == shapes.ids("val")
    assert mosaics.classes == shapes.classes
    for split in ("train", "val", "all"):
        assert mosaics.fingerprint(split) != shapes.fingerprint(split)
    mosaic, shape = mosaics.example("val", 0), shapes.example("val", 0)
    assert mosaic.image.shape[0] > shape.image.shape[0]


def test_an_image_is_drawn_the_same_by_another_set_of_the_seed(mosaics: Mosaics) -> None:
    again, other = Mosaics(val_images=7), Mosaics(val_images=7, seed=1)
    image = mosaics.example("val", 5).image
    assert np.array_equal(image, again.example("val", 5).image)
    assert not np.array_equal(image, other.example("val", 5, at=image.shape[:2]).image)


def test_a_wrong_option_is_refused() -> None:
    with pytest.raises(UserError, match="val_images"):
        Mosaics(val_images=0)
