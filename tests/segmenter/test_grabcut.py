"""GrabCut: an object by its colours, unusual maps and images, the same mask in any thread."""

from __future__ import annotations

import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from pipeline.ops.maps import frame_size, upsample
from pipeline.segmenter.grabcut import GrabCut
from pipeline.segmenter.threshold import Threshold, compute_otsu_threshold
from pipeline.types import Example, SaliencyMap


def saliency(values, size, id="x", score=1.0):
    return SaliencyMap(id, 2, 2, score, np.asarray(values, np.float16), 1.0, size)


def example(image, size=None):
    image = np.asarray(image, np.uint8)
    return Example("x", image, -1, size or image.shape[:2])


def disc(size, centre, radius, seed=0, colour=(200, 60, 40)):
    """Return an image of a noisy disc on a noisy background, and the disc's box."""
    rng = np.random.default_rng(seed)
    image = np.empty((*size, 3), np.float32)
    image[:] = (60, 120, 70)
    y, x = np.mgrid[: size[0], : size[1]]
    inside = np.hypot(y - centre[0], x - centre[1]) < radius
    image[inside] = colour
    image += rng.normal(0, 8, image.shape)
    ys, xs = np.nonzero(inside)
    box = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
    return example(image.clip(0, 255)), box


def around(size, centre, spread, cells=(14, 14)):
    """Return a blurred map whose peak lies at the centre."""
    y, x = (np.arange(n) + 0.5 for n in cells)
    dy = y[:, None] / cells[0] * size[0] - centre[0]
    dx = x[None] / cells[1] * size[1] - centre[1]
    return saliency(np.exp(-(dy**2 + dx**2) / (2 * spread**2)), size)


def iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    both = max(width, 0) * max(height, 0)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def test_finds_an_outline_that_the_map_does_not_have():
    size, centre = (160, 200), (80, 90)
    image, box = disc(size, centre, 45)
    hint = around(size, centre, 25)
    by_map = Threshold(0.5)(hint).boxes[0]
    result = GrabCut(map_share=0, agree=0, threshold=0.5)(hint, image)
    assert result.fell_back is None
    assert iou(result.boxes[0], box) > 0.9 > iou(by_map, box)
    (mask,) = result.masks
    inside = coco_mask.decode(mask).astype(bool)
    assert inside.shape == size
    y, x = np.mgrid[: size[0], : size[1]]
    true = np.hypot(y - centre[0], x - centre[1]) < 45
    assert (inside & true).sum() / (inside | true).sum() > 0.9


def test_where_the_map_is_high_stays_in_the_box():
    """The object has two colours; the mask alone finds one of them."""
    size = (120, 120)
    image = np.full((*size, 3), (60, 120, 70), np.float32)
    image[30:90, 20:60], image[30:90, 60:100] = (200, 60, 40), (62, 122, 72)
    image += np.random.default_rng(0).normal(0, 4, image.shape)
    values = np.zeros((12, 12))
    values[3:9, 2:6], values[3:9, 6:10] = 1, 0.6
    hint = saliency(values, size)
    box = [20, 30, 100, 90]
    alone = GrabCut(map_share=0, agree=0, threshold=0.5)(hint, example(image.clip(0, 255)))
    both = GrabCut()(hint, example(image.clip(0, 255)))
    assert iou(both.boxes[0], box) > 0.8 > iou(alone.boxes[0], box)


def test_refined_map_is_the_average():
    size, centre = (96, 80), (50, 40)
    image, _ = disc(size, centre, 25)
    hint = around(size, centre, 15)
    scaled = upsample(hint.raw(), size)
    mask, why = GrabCut(agree=0).compute_mask(hint, image)
    assert why is None
    assert mask.shape == size
    for share in (0.0, 0.4, 1.0):
        refined, why = GrabCut(agree=0, map_share=share).refined(hint, image)
        mixed = share * scaled + (1 - share) * mask
        mixed = (mixed - mixed.min()) / np.ptp(mixed)
        np.testing.assert_allclose(refined, mixed, atol=1e-5)
        assert why is None


@pytest.mark.parametrize("size", [(37, 101), (101, 37), (300, 120)])
def test_height_and_width_are_not_swapped(size):
    centre = size[0] * 0.3, size[1] * 0.7
    image, box = disc(size, centre, 0.25 * min(size))
    result = GrabCut()(around(size, centre, 0.18 * min(size)), image)
    assert result.size == size
    assert result.masks[0]["size"] == list(size)
    assert iou(result.boxes[0], box) > 0.6


def test_large_photographs_are_cut_at_a_reduced_size_in_original_pixels():
    size, centre = (3000, 4000), (1500, 2500)
    small, box = disc((300, 400), (150, 250), 60)
    hint = around(size, centre, 400)
    frame = frame_size(size, GrabCut().needs_image)
    assert max(frame) < 300
    shown = cv2.resize(small.image, frame[::-1], interpolation=cv2.INTER_AREA)
    result = GrabCut()(hint, example(shown, size))
    assert iou(result.boxes[0], [10 * v for v in box]) > 0.7
    assert coco_mask.decode(result.masks[0]).shape == size


def reason(hint, image, **options):
    """Return why the map was used alone, and check that it was."""
    result = GrabCut(**options)(hint, image)
    plain = Threshold(GrabCut().threshold, masks=True)(hint)
    assert result.boxes.tolist() == plain.boxes.tolist()
    assert result.scores.tolist() == plain.scores.tolist()
    assert result.masks == plain.masks
    return result.fell_back


def test_falls_back_to_the_threshold_and_says_why():
    image, _ = disc((64, 64), (32, 32), 15)
    for value in (0, 0.7, np.nan):
        hint = saliency(np.full((7, 7), value), (64, 64))
        assert reason(hint, image) == "the map is constant"
    hint = around((64, 64), (32, 32), 12)
    everything: dict[str, Any] = {"seeds": "fraction", "background": 0.0, "foreground": 1.0}
    assert reason(hint, image, seeds="fraction", background=0.0, middle=0.5, agree=1.0) is not None
    assert GrabCut(agree=0, **everything)(hint, image).fell_back is None
    for side in (1, 3):
        tiny = np.random.default_rng(0).integers(0, 255, (side, side, 3))
        hint = saliency(np.random.default_rng(1).random((7, 7)), (side, side))
        assert "less than 8 pixels" in reason(hint, example(tiny))
    long = saliency(np.random.default_rng(1).random((7, 7)), (1, 5000))
    assert "less than 8 pixels" in reason(long, example(np.zeros((1, 144, 3)), (1, 5000)))


def test_a_mask_that_disagrees_with_the_map_is_not_used():
    image, _ = disc((96, 96), (48, 48), 40)
    hint = around((96, 96), (20, 20), 6)
    assert reason(hint, image, agree=1.0) == "colours and map do not agree"


def test_images_of_one_colour_and_maps_of_two_values_are_segmented():
    grey = np.full((60, 80, 3), 128)
    two = np.zeros((6, 8))
    two[2:4, 3:6] = 1
    for values in (two, 1 - two, np.eye(6, 8)):
        result = GrabCut()(saliency(values, (60, 80)), example(grey))
        assert len(result.boxes) == 1


def test_same_mask_in_any_order_and_by_any_number_of_threads():
    rng = np.random.default_rng(0)
    items = []
    for n in range(8):
        centre = rng.uniform(30, 70, 2)
        image, _ = disc((100, 110), centre, rng.uniform(15, 30), seed=n, colour=(90, 130, 60))
        items.append((around((100, 110), centre, 14), image))
    segmenter = GrabCut(agree=0)

    def refine(item):
        return segmenter.refined(*item)[0]

    expected = [refine(item) for item in items]
    backwards = [refine(item) for item in reversed(items)][::-1]
    assert all(np.array_equal(a, b) for a, b in zip(expected, backwards, strict=True))
    for workers in (1, 2, 4):
        with ThreadPoolExecutor(workers) as pool:
            maps = list(pool.map(refine, items))
        assert all(np.array_equal(a, b) for a, b in zip(expected, maps, strict=True)), workers
    before = cv2.getNumThreads()
    try:
        cv2.setNumThreads(1)
        assert all(np.array_equal(a, refine(item)) for a, item in zip(expected, items, strict=True))
    finally:
        cv2.setNumThreads(before)


def test_colours_from_sampled_pixels_give_nearly_the_same_mask():
    size, centre = (208, 180), (110, 80)
    image, _ = disc(size, centre, 50)
    hint = around(size, centre, 28)
    options: dict[str, Any] = {"agree": 0, "map_share": 0}
    sampled, _ = GrabCut(**options).compute_mask(hint, image)
    full, _ = GrabCut(**options, colours=None).compute_mask(hint, image)
    plain = run_plain_grabcut(hint, image)
    assert np.array_equal(full, plain)
    assert sampled.shape == full.shape == size
    assert (sampled & full).sum() / (sampled | full).sum() > 0.97


def run_plain_grabcut(hint, image):
    """Run cv2.grabCut from the same seeds, as in its documentation."""
    segmenter = GrabCut(colours=None)
    small = upsample(hint.raw(), image.image.shape[:2])
    mask = segmenter._choose_seeds(small, small > compute_otsu_threshold(small))
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.setRNGSeed(zlib.crc32(hint.values.tobytes()) & 0x7FFFFFFF)
    cv2.grabCut(image.image, mask, None, *models, segmenter.iterations, cv2.GC_INIT_WITH_MASK)
    return (mask & 1).astype(bool)


def test_all_pixels_are_used_where_sampling_would_lose_the_seeds():
    """One pixel is surely of the object: a sample of each second pixel may not contain it."""
    size, centre = (208, 208), (100, 100)
    image, _ = disc(size, centre, 40)
    hint = around(size, centre, 30)
    options: dict[str, Any] = {
        "seeds": "fraction",
        "foreground": 1.0,
        "background": 0.05,
        "agree": 0,
    }
    sampled, why = GrabCut(**options).compute_mask(hint, image)
    full, _ = GrabCut(**options, colours=None).compute_mask(hint, image)
    assert why is None
    assert np.array_equal(sampled, full)


def test_the_last_cut_stays_near_the_small_one():
    """Thin legs, which the small cut loses, are recovered within the band and not beyond it."""
    size = (224, 224)
    image = np.full((*size, 3), (60, 120, 70), np.float32)
    image[60:140, 70:150] = image[140:200, 105:108] = (200, 60, 40)
    image += np.random.default_rng(0).normal(0, 6, image.shape)
    shown, hint = example(image.clip(0, 255)), around(size, (100, 110), 40)
    leg = np.zeros(size, bool)
    leg[145:195, 105:108] = True  # between columns that are sampled
    options: dict[str, Any] = {"agree": 0, "colours": 28}
    near, _ = GrabCut(**options, band=2).compute_mask(hint, shown)
    far, _ = GrabCut(**options, band=80).compute_mask(hint, shown)
    assert far[leg].mean() > 0.9
    assert near[leg].mean() < 0.5
    body = (slice(65, 135), slice(75, 145))
    assert near[body].all()
    assert far[body].all()


def test_several_objects():
    size = (100, 200)
    first, a = disc(size, (50, 50), 30)
    second, b = disc(size, (50, 150), 20)
    image = np.where(np.arange(200)[None, :, None] < 100, first.image, second.image)
    values = around(size, (50, 50), 20).values.astype(float) + 0.9 * around(
        size, (50, 150), 15
    ).values.astype(float)
    result = Threshold(0.3, "all", masks=True)(saliency(values, size))
    assert len(result.boxes) == len(result.masks) == 2
    refined = GrabCut(components="all", share=0.1)(saliency(values, size), example(image))
    assert iou(refined.boxes[0], a) > 0.7
    assert list(refined.scores) == sorted(refined.scores, reverse=True)
    assert iou(refined.boxes[-1], b) > 0.5


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"threshold": 1.5}, "fraction of the maximum"),
        ({"background": 0.95}, "below the foreground"),
        ({"iterations": 0}, "1 to 100"),
        ({"longer_side": 4}, "from 8 to 4096"),
        ({"colour_weight": 0.0}, "from 0.1 to 10"),
        ({"band": 0}, "band=0: expected pixels from 1"),
        ({"colours": 4}, "colours=4: expected pixels from 8 to 4096"),
        ({"map_share": 2.0}, "from 0 to 1"),
        ({"agree": -1.0}, "from 0 to 1"),
        ({"share": 2.0}, "share of the largest"),
        ({"merge": 0.0}, "share of the smaller"),
    ],
)
def test_wrong_arguments_are_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        GrabCut(**wrong)


def test_threshold_given_later():
    segmenter = GrabCut(threshold="validation")
    assert segmenter.threshold_info == {"kind": "validation", "value": None}
    assert segmenter.with_threshold(0.3).threshold_info == {"kind": "fixed", "value": 0.3}
    image, _ = disc((64, 64), (32, 32), 15)
    with pytest.raises(ValueError, match="with_threshold"):
        segmenter(around((64, 64), (32, 32), 12), image)
