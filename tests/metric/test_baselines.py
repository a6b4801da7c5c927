import numpy as np
import pytest

from pipeline.metric.baselines import Baselines, centre_box, full_image, pyramid


def test_boxes() -> None:
    assert full_image((20, 40)).tolist() == [0, 0, 40, 20]
    assert centre_box((20, 40), 0.5).tolist() == [10, 5, 30, 15]
    with pytest.raises(ValueError, match="got 0"):
        centre_box((20, 40), 0)


def test_pyramid() -> None:
    values = pyramid((4, 6))
    assert values.dtype == np.float32
    assert values.shape == (4, 6)
    np.testing.assert_array_equal(values, values[::-1, ::-1])
    assert values[0, 3] == 0.25  # three quarters of the way to the upper edge
    assert values.min() > 0
    assert values.max() == 0.75
    # Its level sets are the centred boxes.
    large = pyramid((224, 224))
    rows, columns = np.nonzero(large >= 0.5)
    assert (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) == (56, 168, 56, 168)


def test_best_centre_box_is_that_of_the_set() -> None:
    metric = Baselines(ious=(0.5,))
    assert metric.compute() == []
    metric.add(np.array([[25, 25, 75, 75]]), (100, 100))
    metric.add(np.array([[30, 30, 70, 70]]), (100, 100))
    metric.add(np.array([[0, 0, 100, 100]]), (100, 100))
    full, centre = metric.compute()
    assert (full.name, full.value) == ("full_image_loc", pytest.approx(1 / 3))
    assert (centre.name, centre.value) == ("centre_box_loc", pytest.approx(2 / 3))
    assert centre.threshold == {"kind": "oracle", "value": 0.4}  # 1600 / 2500, the first of equals
    assert centre.n == 3
    assert centre.interval is not None
