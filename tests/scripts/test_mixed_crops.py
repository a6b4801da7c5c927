"""Crops in which objects have all sizes: their windows, their boxes and their halves."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.data.shapes import Shapes
from pipeline.ops.rle import encode_rle
from pipeline.protocols import AnnotatedDataSet
from pipeline.types import GroundTruth
from scripts.measure.mixed_crops import (
    MAX_SHARE,
    MIN_SIDE,
    MixedCrops,
    _crop_truth,
    draw_window,
    is_held_out,
    source_of,
)

SIZE = (300, 400)
STABLE_HALVES = [False, False, False, False, False, True, False, True]
BOX = np.array([150, 100, 250, 160], np.float32)  # a twentieth of the area


@pytest.fixture(scope="module")
def base() -> Shapes:
    return Shapes(images=20, val_images=40)


@pytest.fixture(scope="module")
def crops(base) -> MixedCrops:
    return MixedCrops(base, crops=2)


def largest_area(truth: GroundTruth) -> float:
    boxes = truth.of_label()
    return float(((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).max())


@pytest.mark.parametrize("box", [BOX, BOX * 0.6, np.array([0, 0, 390, 200], np.float32)])
def test_windows_lie_in_the_photograph_and_give_the_object_its_share(box) -> None:
    own = (box[2] - box[0]) * (box[3] - box[1]) / (SIZE[0] * SIZE[1])
    shares, is_cut = [], []
    for seed in range(300):
        x0, y0, x1, y1 = draw_window(np.random.default_rng(seed), box, SIZE)
        assert 0 <= x0 < x1 <= SIZE[1]
        assert 0 <= y0 < y1 <= SIZE[0]
        assert min(x1 - x0, y1 - y0) >= MIN_SIDE
        seen = np.clip(box, [x0, y0, x0, y0], [x1, y1, x1, y1])
        area = (seen[2] - seen[0]) * (seen[3] - seen[1])
        assert area >= 0.75 * (box[2] - box[0]) * (box[3] - box[1])  # at most a fifth is cut off
        shares.append(area / ((x1 - x0) * (y1 - y0)))
        is_cut.append(np.abs(seen - box).max() > 1)
    assert own * 0.97 <= min(shares)
    assert max(shares) <= MAX_SHARE * 1.04  # sides are rounded to pixels
    assert max(shares) - min(shares) > 0.2
    assert 0.05 < np.mean(is_cut) < 0.5


def test_windows_are_off_centre() -> None:
    windows = [draw_window(np.random.default_rng(seed), BOX, SIZE) for seed in range(300)]
    places = [((200 - x0) / (x1 - x0), (130 - y0) / (y1 - y0)) for x0, y0, x1, y1 in windows]
    assert np.std(places, 0).min() > 0.04
    assert np.abs(np.mean(places, 0) - 0.5).max() < 0.05


def test_where_no_window_fits_it_is_the_whole_photograph() -> None:
    box = np.array([0, 0, 400, 300], np.float32)
    windows = {draw_window(np.random.default_rng(seed), box, SIZE) for seed in range(20)}
    assert (0, 0, 400, 300) in windows


def test_crops_are_pixels_of_their_photographs_with_their_boxes(base, crops) -> None:
    assert isinstance(crops, AnnotatedDataSet)
    truth, sources = crops.truth("val"), list(base.ids("val"))
    assert len(crops.ids("val")) == 2 * len(sources) == len(set(crops.ids("val")))
    own = base.truth("val")
    for position in (0, 1, 30, 31):
        example = crops.example("val", position)
        known, source = truth[example.id], source_of(example.id)
        assert example.size == known.size == example.image.shape[:2]
        photograph = base.example("val", sources.index(source))
        assert example.label == photograph.label == crops.labels("val")[position]
        rows = np.lib.stride_tricks.sliding_window_view(
            photograph.image, example.image.shape[:2], (0, 1)
        )
        assert (rows == example.image.transpose(2, 0, 1)).all((2, 3, 4)).any()
        width, height = example.size[1], example.size[0]
        assert (known.boxes >= 0).all()
        assert (known.boxes <= [width, height, width, height]).all()
        assert largest_area(known) / (width * height) > largest_area(own[source]) / np.prod(
            own[source].size
        )
    assert crops.example("val", 0, at=(64, 64)).image.shape == (64, 64, 3)


def test_other_splits_are_those_of_the_photographs(base, crops) -> None:
    assert list(crops.ids("train")) == list(base.ids("train"))
    assert crops.fingerprint("train") == base.fingerprint("train")
    assert (crops.example("train", 0).image == base.example("train", 0).image).all()


def test_crops_are_the_same_again_and_others_with_another_seed(base, crops) -> None:
    again, other = MixedCrops(base, crops=2), MixedCrops(base, crops=2, seed=1)
    assert crops.fingerprint("val") == again.fingerprint("val") != other.fingerprint("val")
    assert (crops.example("val", 5).image == again.example("val", 5).image).all()
    assert crops.fingerprint("val") != base.fingerprint("val")


def test_of_other_objects_those_are_annotated_that_are_mostly_seen() -> None:
    boxes = np.array([[10, 10, 60, 60], [60, 0, 100, 40], [90, 0, 190, 40]], np.float32)
    truth = GroundTruth("a", 1, (100, 200), boxes, classes=np.array([1, 2, 1]))
    cropped = _crop_truth(truth, "a#0", (5, 5, 100, 100))
    assert cropped.size == (95, 95)
    assert cropped.boxes.tolist() == [[5, 5, 55, 55], [55, 0, 95, 35]]
    assert cropped.classes is not None
    assert cropped.classes.tolist() == [1, 2]


def test_an_object_of_whose_mask_nothing_is_seen_is_not_annotated() -> None:
    masks = np.zeros((2, 100, 200), bool)
    masks[0, 10:60, 10:60] = True
    masks[1, :40, 110:140] = masks[1, 35:40, 70:140] = True  # an L
    boxes = np.array([[10, 10, 60, 60], [70, 0, 140, 40]], np.float32)
    rles = [encode_rle(mask.astype(np.uint8), (100, 200)) for mask in masks]
    truth = GroundTruth("a", 1, (100, 200), boxes, masks=rles)
    cropped = _crop_truth(truth, "a#0", (0, 0, 100, 35))
    assert cropped.boxes.tolist() == [[10, 10, 60, 35]]
    assert cropped.masks is not None
    assert len(cropped.masks) == 1


def test_halves_depend_on_the_photograph_alone() -> None:
    names = [f"val/{n:05}.png" for n in range(1000)]
    held = [is_held_out(name) for name in names]
    assert 0.45 < np.mean(held) < 0.55
    assert held == [is_held_out(f"{name}#{n % 3}") for n, name in enumerate(names)]
    # Stable: the halves of another version would be other images.
    assert [is_held_out(f"photograph {n}") for n in range(8)] == STABLE_HALVES
    assert source_of("a/b.jpg#1") == source_of("a/b.jpg") == "a/b.jpg"
