import numpy as np
import pytest

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
    hit, energy = metric.compute()
    assert (hit.name, hit.value, hit.n) == ("pointing_game", 0.5, 2)
    assert (energy.name, energy.value) == ("energy_pointing_game", 0.5)
