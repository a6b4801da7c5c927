import numpy as np

from pipeline.metric.groups import (
    number_group,
    relative_area,
    size_group,
)


def test_sizes() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 20, 30]], np.float32)
    assert relative_area(boxes, (60, 100)) == 0.1
    assert size_group(boxes, (60, 100)) == "medium"
    assert size_group(boxes, (61, 100)) == "small"
    assert size_group(boxes, (50, 30)) == "large"


def test_numbers() -> None:
    got = [number_group(np.zeros((n, 4))) for n in range(5)]
    assert got == ["no objects", "1 object", "2 objects", "3+ objects", "3+ objects"]
