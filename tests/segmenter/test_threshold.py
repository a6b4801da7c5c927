"""Threshold: boxes by hand, unusual maps, and the component of the metric's curves."""

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from pipeline.metric.components import THRESHOLDS, curves
from pipeline.ops.maps import frame_size, upsample
from pipeline.segmenter.threshold import Threshold, compute_otsu_threshold
from pipeline.types import SaliencyMap


def saliency(values, size=None, score=1.0, scale=1.0):
    values = np.asarray(values, np.float16)
    return SaliencyMap("x", 2, 1, score, values, scale, size or values.shape)


def drawn(text):
    """Return a map of the size of its image: digits are tenths, # is the maximum."""
    rows = [line.strip() for line in text.split("|")]
    return saliency([[1.0 if c == "#" else int(c) / 10 for c in row] for row in rows])


def segment(text, threshold=0.5, components="largest"):
    return Threshold(threshold, components)(drawn(text))


def test_boxes_are_half_open():
    result = segment("00000|0##00|0##00|00000")
    assert result.boxes.tolist() == [[1, 1, 3, 3]]
    assert result.scores.tolist() == [1]
    assert result.label == 2
    assert result.size == (4, 5)
    assert segment("#0000|00000").boxes.tolist() == [[0, 0, 1, 1]]
    assert segment("00000|0000#").boxes.tolist() == [[4, 1, 5, 2]]


def test_diagonal_neighbours_are_one_component():
    assert segment("#000|0#00|00#0|0000").boxes.tolist() == [[0, 0, 3, 3]]


def test_largest_is_by_pixels_not_by_box():
    assert segment("#0000|0#000|00#00|00000|00099|00099").boxes.tolist() == [[3, 4, 5, 6]]


def test_of_equals_the_first_in_raster_order():
    # OpenCV's default labels these two the other way round: it goes by blocks of 2 x 2.
    assert segment("000#|#000|0000").boxes.tolist() == [[3, 0, 4, 1]]
    assert segment("000#|#000|0000", components="all").boxes.tolist() == [
        [3, 0, 4, 1],
        [0, 1, 1, 2],
    ]


def test_all_components_best_score_first():
    result = segment("60000|60000|000##|00000|88000", components="all")
    assert result.boxes.tolist() == [[3, 2, 5, 3], [0, 4, 2, 5], [0, 0, 1, 2]]
    np.testing.assert_allclose(result.scores, [1, 0.8, 0.6], atol=1e-3)


def test_score_is_the_mean_inside_times_the_probability():
    values = [[0, 0, 0], [0, 1, 0.5], [0, 0, 0]]
    for components in ("largest", "all"):
        result = Threshold(0.5, components)(saliency(values, score=0.4))
        np.testing.assert_allclose(result.scores, [0.75 * 0.4], rtol=1e-6)


def test_few_and_many_components_are_measured_alike():
    noise = np.random.default_rng(0).random((40, 60))
    many = Threshold(0.9, "all")(saliency(noise))
    assert len(many.boxes) > 50
    largest = Threshold(0.9)(saliency(noise))
    assert (many.boxes == largest.boxes[0]).all(1).any()
    for box, score in zip(many.boxes.astype(int), many.scores, strict=True):
        lone = np.full_like(noise, 0)
        lone[box[1] : box[3], box[0] : box[2]] = noise[box[1] : box[3], box[0] : box[2]]
        assert lone.max() >= 0.89
        assert score >= 0.9


@pytest.mark.parametrize("components", ["largest", "all"])
@pytest.mark.parametrize("size", [(37, 101), (101, 37), (1, 1), (1, 50), (3000, 4000)])
@pytest.mark.parametrize("value", [0, 0.7, -3, np.nan, np.inf])
def test_a_map_that_tells_nothing_gives_the_whole_image(components, size, value):
    result = Threshold(0.2, components)(saliency(np.full((7, 7), value), size))
    assert result.boxes.tolist() == [[0, 0, size[1], size[0]]]
    assert result.scores.tolist() == [0]


def test_one_pixel_image_of_any_map():
    result = Threshold()(saliency(np.random.default_rng(0).random((7, 7)), (1, 1)))
    assert result.boxes.tolist() == [[0, 0, 1, 1]]


def test_height_and_width_are_not_swapped():
    values = np.zeros((7, 7))
    values[6, 0] = 1
    for size in ((37, 101), (101, 37)):
        x0, y0, x1, y1 = Threshold(0.5)(saliency(values, size)).boxes[0]
        assert (x0, y1) == (0, size[0])
        assert x1 < size[1] / 7 + 1
        assert y0 > size[0] * 6 / 7 - 1


def test_thresholds_0_and_1():
    values = np.random.default_rng(0).random((7, 7))
    assert Threshold(0)(saliency(values, (50, 60))).boxes.tolist() == [[0, 0, 60, 50]]
    top = Threshold(1)(saliency(values, (50, 60)))
    assert top.scores.tolist() == [1]
    scaled = upsample(saliency(values).raw(), (50, 60))
    y, x = np.unravel_index(scaled.argmax(), scaled.shape)
    assert top.boxes[0, 0] <= x < top.boxes[0, 2]
    assert top.boxes[0, 1] <= y < top.boxes[0, 3]


def test_some_values_not_finite():
    values = np.zeros((7, 7))
    values[1:3, 1:3], values[5, 5], values[5, 1] = 1, np.nan, np.inf
    x0, y0, x1, y1 = Threshold(0.5)(saliency(values, (70, 70))).boxes[0]
    assert x0 < 15 < 25 < x1 < 40
    assert y0 < 15 < 25 < y1 < 40


@pytest.mark.parametrize("bad", [-0.1, 1.5, float("nan")])
def test_thresholds_outside_are_refused(bad):
    with pytest.raises(ValueError, match="expected a fraction of the maximum, from 0 to 1"):
        Threshold(bad)


def test_boxes_of_large_photographs_are_within_one_pixel_of_the_frame():
    values = np.random.default_rng(3).random((7, 7))
    values[3, 4] = 2
    full = upsample(saliency(values).raw(), (3000, 4000))
    ys, xs = np.nonzero(full >= 0.7)  # one blob
    exact = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
    box = Threshold(0.7)(saliency(values, (3000, 4000))).boxes[0]
    assert np.abs(box - exact).max() <= 4000 / 512


@pytest.mark.parametrize("size", [(224, 224), (37, 101), (101, 37), (60, 700), (2, 3)])
def test_same_boxes_as_the_curves_of_the_metric(size):
    rng = np.random.default_rng(sum(size))
    for _ in range(10):
        map_ = saliency(rng.random((7, 7)), size)
        swept = curves(upsample(map_.raw(), frame_size(size)), np.zeros((0, 4)), size).boxes
        for k in (0, 1, 150, 200, 300, 437, 500, 700, 850, 999):
            boxes = Threshold(float(THRESHOLDS[k]))(map_).boxes
            assert boxes.tolist() == [swept[k].tolist()], (size, k)


def test_same_boxes_as_the_curves_where_values_and_ties_are_plenty():
    rng = np.random.default_rng(0)
    for _ in range(30):
        map_ = saliency(rng.integers(0, 11, (12, 17)) / 10)  # exact tenths meet the thresholds
        swept = curves(upsample(map_.raw(), (12, 17)), np.zeros((0, 4))).boxes
        for k in range(0, 1000, 100):
            assert Threshold(float(THRESHOLDS[k]))(map_).boxes.tolist() == [swept[k].tolist()]


# -- thresholds, and which components are kept ---------------------------------------------------


def test_quantile_keeps_the_highest_share():
    values = np.random.default_rng(0).permutation(100).reshape(10, 10) / 100
    kept = values >= 0.75
    segmented = Threshold(0.75, "all", at="quantile", masks=True)(saliency(values))
    inside = np.zeros((10, 10), bool)
    for mask in segmented.masks:
        inside |= coco_mask.decode(mask).astype(bool)
    assert np.array_equal(inside, kept)
    assert kept.sum() == 25


def test_otsu_is_that_of_opencv():
    rng = np.random.default_rng(1)
    values = np.where(rng.random((40, 50)) < 0.3, 0.7, 0.2) + rng.normal(0, 0.05, (40, 50))
    scaled = upsample(saliency(values).raw(), (40, 50))
    coarse = np.round(scaled * 255).astype(np.uint8)
    _, mask = cv2.threshold(coarse, 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    assert np.array_equal(scaled >= compute_otsu_threshold(scaled), mask.astype(bool))
    assert Threshold(at="otsu")(saliency(values)).boxes.tolist()


def test_value_is_of_the_raw_map():
    values = [[-2, -2, -2, -2], [-2, 3, 4, -2], [-2, 1, -2, -2]]
    for value, box in ((2.5, [1, 1, 3, 2]), (0.5, [1, 1, 3, 3]), (3.5, [2, 1, 3, 2])):
        assert Threshold(value, at="value")(saliency(values)).boxes.tolist() == [box]
    assert Threshold(99.0, at="value")(saliency(values)).boxes.tolist() == [[2, 1, 3, 2]]
    assert Threshold(-99.0, at="value")(saliency(values)).boxes.tolist() == [[0, 0, 4, 3]]
    constant = Threshold(0.5, at="value")(saliency(np.ones((3, 4))))
    assert constant.boxes.tolist() == [[0, 0, 4, 3]]


def test_diagonal_neighbours_are_separate_with_four_neighbours():
    map_ = saliency([[1, 0, 0], [0, 1, 1], [0, 1, 0]])
    assert Threshold(0.5)(map_).boxes.tolist() == [[0, 0, 3, 3]]
    assert Threshold(0.5, connectivity=4)(map_).boxes.tolist() == [[1, 1, 3, 3]]


def test_small_components_are_dropped_by_their_share_of_the_largest():
    values = np.zeros((10, 20))
    values[0:4, 0:5], values[0:2, 8:13], values[9, 19] = 1, 1, 1  # 20, 10 and 1 pixels
    for share, count in ((0.0, 3), (0.05, 3), (0.06, 2), (0.5, 2), (0.51, 1)):
        assert len(Threshold(0.5, "all", share=share)(saliency(values)).boxes) == count


@pytest.mark.parametrize("crowd", [0, 15])
def test_boxes_inside_one_another_become_one(crowd):
    values = np.zeros((40, 40))
    values[0:20, 0] = values[19, 0:20] = 1  # an L
    values[5:10, 5:10] = 0.8  # in its box
    values[30:34, 30:34] = 0.5
    for n in range(crowd):  # so that components are many
        values[39, 2 * n] = 1
    plain = Threshold(0.4, "all")(saliency(values))
    assert len(plain.boxes) == 3 + crowd
    merged = Threshold(0.4, "all", merge=0.5, masks=True)(saliency(values))
    assert len(merged.boxes) == 2 + crowd
    at = merged.boxes.tolist().index([0, 0, 20, 20])
    np.testing.assert_allclose(merged.scores[at], (39 + 25 * 0.8) / 64, rtol=1e-3)
    assert coco_mask.area(merged.masks[at]) == 39 + 25
    assert len(Threshold(0.4, "all", merge=1.0)(saliency(values)).boxes) == 2 + crowd


def test_score_is_the_peak_where_asked():
    for count in (1, 20):
        values = np.zeros((4, 2 * count))
        values[1, ::2], values[2, ::2] = 0.6, 0.8
        values[2, 0] = 1
        result = Threshold(0.5, "all", score="peak")(saliency(values, score=0.5))
        np.testing.assert_allclose(result.scores, [0.5, *[0.4] * (count - 1)], rtol=1e-3)


def test_masks_cover_the_original_image():
    values = np.zeros((7, 7))
    values[5, 1] = 1
    for size in ((37, 101), (101, 37), (700, 300)):
        result = Threshold(0.5, masks=True)(saliency(values, size))
        (mask,) = result.masks
        inside = coco_mask.decode(mask)
        assert inside.shape == size
        ys, xs = np.nonzero(inside)
        box = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
        assert np.abs(np.array(box) - result.boxes[0]).max() <= max(1, max(size) / 512)


def test_the_threshold_has_the_name_that_metrics_use():
    assert Threshold(0.3).threshold_info == {"kind": "fixed", "value": 0.3}
    assert Threshold("auto").threshold_info["kind"] == "auto"
    assert Threshold("validation").threshold_info["kind"] == "validation"
    assert Threshold("validation").with_threshold(0.4) == Threshold(0.4)
    assert Threshold(at="otsu").threshold_info == {"kind": "auto", "value": None, "rule": "otsu"}
    with pytest.raises(ValueError, match="with_threshold"):
        Threshold("validation")(saliency([[0, 1]]))
    with pytest.raises(ValueError, match="at=quantile expects a number"):
        Threshold("auto", at="quantile")
    with pytest.raises(ValueError, match="expected a number"):
        Threshold(float("nan"), at="value")
    with pytest.raises(ValueError, match="of the image"):
        Threshold(1.2, at="quantile")


def test_a_threshold_that_was_chosen_by_looking_is_named_oracle() -> None:
    chosen = Threshold(0.37, threshold_source="oracle")
    assert chosen.threshold_info == {"kind": "oracle", "value": 0.37, "source": "given"}
    assert chosen.with_threshold(0.4).threshold_info["kind"] == "oracle"
    with pytest.raises(ValueError, match="threshold_source=oracle"):
        Threshold("auto", threshold_source="oracle")
    with pytest.raises(ValueError, match="expected fixed or oracle"):
        Threshold(0.3, threshold_source="guess")  # type: ignore[arg-type]
