"""What holds of every segmenter: boxes inside the image, best first, whatever the map."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest

from pipeline.engine.choices import fill_defaults, instantiate, list_choices, read_choice
from pipeline.ops.maps import frame_size
from pipeline.protocols import RefiningSegmenter, Segmenter
from pipeline.types import Boxes, Example, SaliencyMap, Size, ThresholdKind

SEGMENTERS = list_choices("segmenter")
SIZES = [(48, 64), (64, 48), (1, 1), (1, 50), (300, 3)]
RNG = np.random.default_rng(5)
MAPS = {
    "noise": RNG.random((7, 7)),
    "signed": RNG.normal(size=(9, 5)),
    "peak": np.eye(7)[3:4].T @ np.eye(7)[2:3],
    "zeros": np.zeros((7, 7)),
    "constant": np.full((7, 7), 0.3),
    "nan": np.full((7, 7), np.nan),
    "some nan": np.where(np.eye(7) > 0, np.nan, RNG.random((7, 7))),
    "infinite": np.where(np.eye(7) > 0, np.inf, RNG.random((7, 7))),
    "one value": np.array([[0.7]]),
}


def build(name: str, **options: Any) -> Any:
    return instantiate(name, {**fill_defaults(name, read_choice("segmenter", name)), **options})


def saliency(values: np.ndarray, size: Size, score: float = 0.8) -> SaliencyMap:
    return SaliencyMap("x", 2, 1, score, values.astype(np.float16), 1.0, size)


def example(size: Size) -> Example:
    """An image at the size that a segmenter asks for: a bright rectangle on dark noise."""
    height, width = frame_size(size, 224)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 60, (height, width, 3)).astype(np.uint8)
    image[height // 4 : height // 2 + 1, width // 4 : width // 2 + 1] = 220
    return Example("x", image, 2, size)


def segment(name: str, values: np.ndarray, size: Size = (48, 64), **options: Any) -> Boxes:
    segmenter = build(name, **options)
    given = example(size) if segmenter.needs_image else None
    found: Boxes = segmenter(saliency(values, size), given)
    return found


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", MAPS)
@pytest.mark.parametrize("name", SEGMENTERS)
def test_boxes_are_inside_the_image_and_best_first(name: str, kind: str, size: Size) -> None:
    found = segment(name, MAPS[kind], size)
    assert (found.id, found.label, found.size) == ("x", 2, size)
    assert found.boxes.dtype == found.scores.dtype == np.float32
    assert len(found.boxes) >= 1
    x0, y0, x1, y1 = found.boxes.T
    assert (x0 >= 0).all()
    assert (y0 >= 0).all()
    assert (x1 <= size[1]).all()
    assert (y1 <= size[0]).all()
    assert (x1 > x0).all(), "half-open: a box of one pixel has a width of 1"
    assert (y1 > y0).all()
    assert (np.diff(found.scores) <= 0).all()
    assert ((found.scores >= 0) & (found.scores <= 0.8 + 1e-6)).all(), "at most the probability"
    if found.masks is not None:
        assert len(found.masks) == len(found.boxes)
        assert all(mask["size"] == list(size) for mask in found.masks)


@pytest.mark.parametrize("kind", ["zeros", "constant", "nan"])
@pytest.mark.parametrize("name", SEGMENTERS)
def test_map_without_a_maximum_gives_the_whole_image(name: str, kind: str) -> None:
    found = segment(name, MAPS[kind])
    assert found.boxes.tolist() == [[0, 0, 64, 48]]
    assert found.scores.tolist() == [0]


@pytest.mark.parametrize("name", SEGMENTERS)
def test_map_is_left_as_it_is_and_boxes_are_the_same_again(name: str) -> None:
    values = MAPS["noise"].copy()
    first, second = segment(name, values), segment(name, values)
    np.testing.assert_array_equal(first.boxes, second.boxes)
    np.testing.assert_array_equal(first.scores, second.scores)
    assert first.masks == second.masks
    np.testing.assert_array_equal(values, MAPS["noise"])


@pytest.mark.parametrize("name", SEGMENTERS)
def test_threshold_is_named_and_can_be_set(name: str) -> None:
    plain: Segmenter = build(name)
    assert plain.threshold_info["kind"] in get_args(ThresholdKind)
    fixed = plain.with_threshold(0.35)
    assert type(fixed) is type(plain)
    assert fixed.threshold_info == {"kind": "fixed", "value": 0.35}
    assert plain.threshold_info == build(name).threshold_info, "a copy was changed"
    assert fixed.needs_image == plain.needs_image
    waiting: Segmenter = build(name, threshold="validation")
    assert waiting.threshold_info == {"kind": "validation", "value": None}
    assert waiting.with_threshold(0.35).threshold_info == fixed.threshold_info


@pytest.mark.parametrize("name", SEGMENTERS)
def test_validation_threshold_segments_as_a_fixed_one_of_that_value(name: str) -> None:
    given = example((48, 64)) if build(name).needs_image else None
    peak = saliency(MAPS["peak"] + 0.1 * MAPS["noise"], (48, 64))
    waiting = build(name, threshold="validation")
    chosen, fixed = (
        waiting.with_threshold(0.4)(peak, given),
        build(name, threshold=0.4)(peak, given),
    )
    np.testing.assert_array_equal(chosen.boxes, fixed.boxes)
    np.testing.assert_array_equal(chosen.scores, fixed.scores)
    with pytest.raises(ValueError, match="with_threshold"):
        waiting(saliency(MAPS["noise"], (48, 64)), None if given is None else given)


@pytest.mark.parametrize("name", SEGMENTERS)
def test_higher_threshold_gives_no_larger_area(name: str) -> None:
    values = MAPS["peak"] + 0.1 * MAPS["noise"]
    areas = []
    for threshold in (0.1, 0.5, 0.9):
        (x0, y0, x1, y1) = segment(name, values, threshold=threshold).boxes[0]
        areas.append((x1 - x0) * (y1 - y0))
    assert areas == sorted(areas, reverse=True)


@pytest.mark.parametrize("name", SEGMENTERS)
def test_refined_map_is_from_zero_to_one(name: str) -> None:
    segmenter = build(name)
    if not isinstance(segmenter, RefiningSegmenter):
        return
    for kind in ("noise", "peak", "constant", "nan"):
        values, reason = segmenter.refined(saliency(MAPS[kind], (48, 64)), example((48, 64)))
        assert values.ndim == 2
        assert ((values >= 0) & (values <= 1)).all()
        assert reason is None or reason
