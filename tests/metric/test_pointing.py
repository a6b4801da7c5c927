from __future__ import annotations

import numpy as np
import pytest
import quantus

from pipeline.metric.pointing import Pointing, energy_inside, inside, peak, pointing_hit

SIZE = (100, 200)
VALUES = np.zeros((10, 10), np.float32)
VALUES[5, 2] = 0.75  # the point (50, 55) of the image
VALUES[0, 9] = 0.25


def test_point() -> None:
    assert peak(VALUES, SIZE) == (50, 55)


@pytest.mark.parametrize(
    ("box", "hit"),
    [
        ((40, 50, 60, 60), True),
        ((65, 50, 90, 60), True),  # 15 away
        ((66, 50, 90, 60), False),
        ((59, 67, 90, 90), True),  # 9 and 12: 15
        ((60, 67, 90, 90), False),
    ],
)
def test_tolerance(box: tuple[float, ...], hit: bool) -> None:
    assert pointing_hit(VALUES, np.array([box], np.float32), SIZE) is hit
    mask = inside(np.array([box]), SIZE, SIZE)
    assert pointing_hit(VALUES, np.zeros((0, 4)), SIZE, mask=mask) is hit


def test_any_box_and_none() -> None:
    far, near = (150, 0, 180, 20), (48, 50, 52, 60)
    assert pointing_hit(VALUES, np.array([far, near]), SIZE, tolerance=0)
    assert not pointing_hit(VALUES, np.zeros((0, 4)), SIZE)


def test_energy() -> None:
    assert energy_inside(VALUES, np.array([[40, 50, 60, 60]]), SIZE) == 0.75
    boxes = np.array([[0, 0, 200, 100], [40, 50, 60, 60]])
    assert energy_inside(VALUES, boxes, SIZE) == 1  # counted once where boxes overlap
    assert energy_inside(np.zeros((3, 3)), boxes, SIZE) == 0
    with pytest.raises(ValueError, match="at least 0"):
        energy_inside(-VALUES, boxes, SIZE)


def test_accumulator() -> None:
    metric = Pointing()
    metric.add(VALUES, np.array([[40, 50, 60, 60]]), SIZE)
    metric.add(VALUES, np.array([[180, 0, 200, 10]]), SIZE)
    hit, energy = metric.compute()  # no class is known: no mean over classes
    assert (hit.name, hit.value, hit.n) == ("pointing_game", 0.5, 2)
    assert (energy.name, energy.value) == ("energy_pointing_game", 0.5)


# -- several objects, several classes


def boxes_of_classes(rng: np.random.Generator) -> dict[int, np.ndarray]:
    """One to three objects of each of two or three classes, whole pixels, which may overlap."""
    classes = rng.choice(4, rng.integers(2, 4), replace=False)
    found = {}
    for label in classes.tolist():
        low = rng.integers(0, (50, 80), (rng.integers(1, 4), 2))
        found[label] = np.concatenate([low, low + rng.integers(4, 20, low.shape)], 1)[
            :, [1, 0, 3, 2]
        ].astype(np.float32)
    return found


def reach(mask: np.ndarray, tolerance: float) -> np.ndarray:
    """The pixels whose centre is at most `tolerance` from a pixel of the mask: its square."""
    y, x = np.mgrid[: mask.shape[0], : mask.shape[1]]
    reached = np.zeros_like(mask)
    for row, column in np.argwhere(mask):
        down, across = (np.maximum(np.abs(a - b) - 0.5, 0) for a, b in ((y, row), (x, column)))
        reached |= down**2 + across**2 <= tolerance**2
    return reached


@pytest.mark.parametrize("tolerance", [0.0, 5.0])
def test_several_objects_of_several_classes_are_quantus_pointing_game(tolerance: float) -> None:
    """Of each class of an image a map; any object of the class may be hit, and none of another.

    Quantus knows no tolerance: it gets masks that are as much larger.
    """
    rng, size = np.random.default_rng(4), (60, 90)
    maps, masks, hits, labels = [], [], [], []
    metric = Pointing(tolerance)
    for _ in range(12):
        for label, boxes in boxes_of_classes(rng).items():
            values = rng.random(size)
            if rng.random() < 0.5:  # it points at some object
                x0, y0, x1, y1 = boxes[rng.integers(len(boxes))].astype(int)
                values[rng.integers(y0, y1), rng.integers(x0, x1)] = 2
            metric.add(values, boxes, size, label)
            hits.append(pointing_hit(values, boxes, size, tolerance))
            mask = inside(boxes, size, size)
            assert pointing_hit(values, np.zeros((0, 4)), size, tolerance, mask) == hits[-1]
            maps.append(values)
            masks.append(reach(mask, tolerance) if tolerance else mask)
            labels.append(label)
    images = np.zeros((len(maps), 1, *size), np.float32)
    wanted = quantus.PointingGame(normalise=False, abs=False, disable_warnings=True)(
        model=None, x_batch=images, y_batch=np.array(labels), a_batch=np.stack(maps)[:, None],
        s_batch=np.stack(masks)[:, None], channel_first=True,
    )  # fmt: skip
    assert hits == [bool(hit) for hit in wanted]
    assert 0 < np.mean(hits) < 1, "a test that tells nothing"
    share, classes, _ = metric.compute()
    assert (share.value, share.n) == (np.mean(hits), len(hits))
    of_class = [np.mean([h for h, c in zip(hits, labels, strict=True) if c == n])
                for n in sorted(set(labels))]  # fmt: skip
    assert classes.name == "pointing_game_classes"
    assert classes.value == pytest.approx(np.mean(of_class))
    assert classes.interval is not None
    low, high = classes.interval
    assert low <= classes.value <= high


def test_a_rare_class_weighs_as_much_as_a_common_one() -> None:
    metric = Pointing()
    for hit, label in ((True, 0), (True, 0), (True, 0), (False, 1)):
        metric.append(hit, 0.0, label)
    values = {score.name: score.value for score in metric.compute()}
    assert values["pointing_game"] == 0.75
    assert values["pointing_game_classes"] == 0.5
    metric.append(True, 0.0)  # of an unknown class
    assert "pointing_game_classes" not in {score.name for score in metric.compute()}


def test_boxes_cover_the_pixels_whose_centre_they_hold() -> None:
    rng = np.random.default_rng(0)
    for count in (0, 1, 2, 3):
        size, frame = (75, 100), (30, 41)
        boxes = rng.uniform(-20, 120, (count, 2, 2))
        boxes = np.concatenate([boxes.min(1), boxes.max(1)], 1)
        values = rng.random(frame).astype(np.float32)
        y = (np.arange(30) + 0.5) * 75 / 30
        x = (np.arange(41) + 0.5) * 100 / 41
        expected = np.zeros(frame, bool)
        for x0, y0, x1, y1 in boxes:
            expected |= ((y >= y0) & (y < y1))[:, None] & ((x >= x0) & (x < x1))[None]
        np.testing.assert_array_equal(inside(boxes, size, frame), expected)
        exact = values.astype(np.float64)
        assert energy_inside(values, boxes, size) == float(exact[expected].sum() / exact.sum())
