import cv2
import numpy as np
import pytest

from pipeline.metric.components import (
    THRESHOLDS,
    curves,
    levels_of,
    wsolevaluation_boxes,
    wsolevaluation_curves,
)
from pipeline.ops.iou import pairwise_iou
from scripts.measure.reference_sweep import sweep

from . import reference


def random_levels(rng: np.random.Generator) -> np.ndarray:
    """A small map of few levels, of a kind that is hard in its own way."""
    height, width = rng.integers(1, 21, 2)
    top = int(rng.integers(1, 9))
    kind = rng.integers(6)
    if kind == 0:  # noise
        return rng.integers(0, top + 1, (height, width))
    if kind == 1:  # two plateaus
        return (rng.random((height, width)) < rng.random()) * top
    if kind == 2:  # smooth
        smooth = cv2.GaussianBlur(rng.random((height, width)), (0, 0), rng.uniform(0.5, 2))
        smooth = smooth.reshape(height, width) - smooth.min()
        return (smooth / max(smooth.max(), 1e-9) * top).astype(int)
    if kind == 3:  # rectangles, lines, rings, one over the other
        canvas = np.zeros((height, width), np.uint8)
        for _ in range(rng.integers(1, 8)):
            x, a = (int(v) for v in rng.integers(0, width, 2))
            y, b = (int(v) for v in rng.integers(0, height, 2))
            level, thick = int(rng.integers(0, top + 1)), int(rng.choice([-1, 1]))
            shape = rng.integers(3)
            if shape == 0:
                cv2.rectangle(canvas, (x, y), (a, b), level, thick)
            elif shape == 1:
                cv2.line(canvas, (x, y), (a, b), level, 1)
            else:
                cv2.circle(canvas, (x, y), a // 2, level, thick)
        return canvas.astype(int)
    if kind == 4:  # a worn checkerboard
        y, x = np.mgrid[:height, :width]
        worn = ((x + y) % 2) * top * (rng.random((height, width)) < 0.8)
        return np.maximum(
            worn, rng.integers(0, top + 1, (height, width)) * (rng.random((height, width)) < 0.2)
        )
    return rng.integers(0, 256, (height, width))  # every level


def random_boxes(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    count = rng.integers(1, 4)
    x = np.sort(rng.integers(0, width, (count, 2)), 1)
    y = np.sort(rng.integers(0, height, (count, 2)), 1)
    return np.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], 1)


def assert_like_sweep(values: np.ndarray, boxes: np.ndarray, thresholds: np.ndarray) -> None:
    """Equal IoUs and boxes, to the last bit, at the given indices of THRESHOLDS."""
    single, multi, largest = sweep(values, boxes, THRESHOLDS[thresholds])
    found = wsolevaluation_curves(values, boxes)
    np.testing.assert_array_equal(found.largest[thresholds], single)
    np.testing.assert_array_equal(found.any[thresholds], multi)
    np.testing.assert_array_equal(found.boxes[thresholds], largest + np.array([0, 0, 1, 1]))


@pytest.mark.parametrize("seed", range(8))
def test_small_maps_equal_the_sweep(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(300):
        levels = random_levels(rng)
        # Half a level up, so that truncation cannot fall on the other side.
        values = ((levels + 0.5) / 256).astype(np.float32)
        at = (THRESHOLDS * (values.max().astype(np.float64) * 255).astype(int)).astype(int)
        distinct = np.unique(at, return_index=True)[1]
        if len(distinct) > 20:
            distinct = rng.choice(distinct, 20, replace=False)
        assert_like_sweep(values, random_boxes(rng, *values.shape), distinct)


def shapes() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:60, :47]
    spiral = np.sin(np.hypot(y - 30, x - 23) / 3 + np.arctan2(y - 30, x - 23))
    rings = np.cos(np.hypot(y - 30, x - 23))
    noise = rng.random((60, 47))
    cam = cv2.resize(rng.random((7, 7)), (90, 64), interpolation=cv2.INTER_LINEAR)
    return {
        "cam": cam,
        "noise": noise,
        "gradient": cv2.GaussianBlur(noise, (0, 0), 1.2),
        "spiral": spiral,
        "rings": rings,
        "checkerboard": (x + y) % 2 * 1.0,
        "plateaus": np.round(cv2.GaussianBlur(noise, (0, 0), 3) * 6),
        "row": rng.random((1, 50)),
        "column": rng.random((50, 1)),
        "ramp": x * 1.0,
    }


@pytest.mark.parametrize("name", shapes())
def test_whole_sweeps_are_equal(name: str) -> None:
    values = shapes()[name]
    values = ((values - values.min()) / np.ptp(values)).astype(np.float32)
    boxes = random_boxes(np.random.default_rng(1), *values.shape)
    assert_like_sweep(values, boxes, np.arange(1000))


@pytest.mark.parametrize("value", [0.0, 0.003, 0.5, 1.0])
def test_constant_maps_equal_the_sweep(value: float) -> None:
    # 0.003 is level 0 too: no contour, and the box of one pixel in the corner.
    boxes = np.array([[0, 0, 1, 1], [2, 2, 8, 5]])
    assert_like_sweep(np.full((9, 11), value, np.float32), boxes, np.arange(0, 1000, 50))


@reference.needed
@pytest.mark.parametrize("group", ["cam", "gradient", "all"])
def test_counts_equal_the_reference(group: str) -> None:
    answer = reference.answers()["groups"][group]
    maps = reference.arrays()["maps"]
    found = [wsolevaluation_curves(maps[i], reference.true_boxes(i)) for i in answer["index"]]
    for kind, name in (("single", "largest"), ("multi", "any")):
        curve = np.stack([getattr(one, name) for one in found])
        for percent in ("30", "50", "70"):
            counts = (curve >= int(percent) / 100).sum(0)
            np.testing.assert_array_equal(counts, answer[kind]["num_correct"][percent])
            best = counts.max() * 100.0 / len(found)
            assert best == answer[kind]["max_box_acc"][percent]


@reference.needed
def test_each_map_equals_the_reference() -> None:
    for i, answer in enumerate(reference.answers()["per_map"]):
        found = wsolevaluation_curves(reference.arrays()["maps"][i], reference.true_boxes(i))
        for kind, curve in (("single", found.largest), ("multi", found.any)):
            got = {k: 100.0 * (curve >= int(k) / 100).any() for k in answer[kind]}
            assert got == answer[kind], (i, kind)


def test_one_of_the_two_curves_alone() -> None:
    values = np.random.default_rng(3).random((30, 30)).astype(np.float32)
    boxes = np.array([[3, 4, 20, 25]])
    both = wsolevaluation_curves(values, boxes)
    np.testing.assert_array_equal(
        wsolevaluation_curves(values, boxes, "largest").largest, both.largest
    )
    np.testing.assert_array_equal(wsolevaluation_curves(values, boxes, "any").any, both.any)


def test_boxes_for_wsolevaluation_are_inclusive_and_truncated() -> None:
    boxes = wsolevaluation_boxes(np.array([[10, 20, 301, 201]], np.float32), (400, 600))
    assert boxes.tolist() == [[3, 11, 112, 112]]  # 300 * 224 / 600, 200 * 224 / 400


# ---- the project's own convention ----------------------------------------------------------------


def slow_curves(
    values: np.ndarray, boxes: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One labelling for each threshold."""
    scale = np.tile([size[1] / values.shape[1], size[0] / values.shape[0]], 2)
    best, any_, largest = np.zeros(1000), np.zeros(1000), np.zeros((1000, 4), np.float32)
    for i, threshold in enumerate(THRESHOLDS):
        mask = (values.astype(np.float64) >= threshold).astype(np.uint8)
        count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
        if count == 1:
            continue
        x, y, w, h, pixels = stats[1:].T
        starts = [np.flatnonzero(labels.ravel() == k)[0] for k in range(1, count)]
        found = np.stack([x, y, x + w, y + h], 1) * scale
        first = min(range(count - 1), key=lambda k: (-pixels[k], starts[k]))
        iou = pairwise_iou(found, boxes).max(1)
        best[i], any_[i], largest[i] = iou[first], iou.max(), found[first]
    return best, any_, largest


@pytest.mark.parametrize("seed", range(12))
def test_default_equals_one_labelling_a_threshold(seed: int) -> None:
    rng = np.random.default_rng(seed)
    levels = random_levels(rng)
    values = levels / max(levels.max(), 1)
    if seed % 2:  # right on a threshold
        values = rng.choice(THRESHOLDS, 12)[levels % 12]
    values = values.astype(np.float64 if seed % 3 else np.float32)
    size = (values.shape[0] * 3, values.shape[1] * 2 + 1)
    boxes = random_boxes(rng, *size) + np.array([0, 0, 1, 1.5])
    best, any_, largest = slow_curves(values, boxes, size)
    found = curves(values, boxes, size)
    np.testing.assert_allclose(found.largest, best, rtol=1e-12)
    np.testing.assert_allclose(found.any, any_, rtol=1e-12)
    np.testing.assert_array_equal(found.boxes, largest)


def test_default_by_hand() -> None:
    values = np.zeros((4, 8), np.float32)
    values[1:3, 1:4] = 0.5  # six pixels
    values[3, 6:] = 1.0  # two
    found = curves(values, np.array([[10, 10, 40, 30]]), size=(40, 80))
    assert found.boxes[0].tolist() == [0, 0, 80, 40]  # every pixel reaches 0
    assert found.boxes[500].tolist() == [10, 10, 40, 30]  # half-open, ten pixels to one
    assert found.boxes[501].tolist() == [60, 30, 80, 40]
    assert found.largest[500] == 1
    assert found.largest[501] == 0
    assert found.largest[0] == 600 / 3200


def test_nothing_reaches_the_threshold() -> None:
    found = curves(np.full((3, 3), 0.25), np.array([[0, 0, 3, 3]]))
    assert found.largest[250] == 1
    assert found.largest[251] == found.any[251] == 0
    assert found.boxes[251].tolist() == [0, 0, 0, 0]


def test_levels_are_the_thresholds_reached() -> None:
    rng = np.random.default_rng(0)
    near = np.nextafter(THRESHOLDS, rng.choice([-1.0, 2.0], 1000)).clip(0, 1)
    for values in (THRESHOLDS, near, rng.random(1000), THRESHOLDS.astype(np.float32)):
        expected = np.searchsorted(THRESHOLDS, values.astype(np.float64), "right") - 1
        np.testing.assert_array_equal(levels_of(values[None])[0], expected)
    assert levels_of(np.ones((1, 1)))[0, 0] == 999


@pytest.mark.parametrize(
    ("values", "boxes", "message"),
    [
        (np.full((2, 2), 1.5), np.zeros((1, 4)), r"values in \[0, 1\], got 1.5"),
        (np.full((2, 2), np.nan), np.zeros((1, 4)), "got nan"),
        (np.zeros((2, 2, 1)), np.zeros((1, 4)), r"expected \[h, w\]"),
        (np.zeros((2, 2)), np.zeros(4), r"expected \[M, 4\]"),
    ],
)
def test_bad_input_is_refused(values: np.ndarray, boxes: np.ndarray, message: str) -> None:
    for function in (curves, wsolevaluation_curves):
        with pytest.raises(ValueError, match=message):
            function(values, boxes)
