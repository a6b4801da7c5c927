import numpy as np

from pipeline.metric.groups import (
    NUMBERS,
    SIZES,
    by_class,
    number_group,
    relative_area,
    size_group,
    subsets,
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


def test_subsets_leave_out_empty_groups() -> None:
    found = subsets(["small", "large", "small"], SIZES)
    assert list(found) == ["small", "large"]
    assert found["small"].tolist() == [True, False, True]
    assert subsets([], NUMBERS) == {}
    classes = by_class([2, 0, 2, -1], ("cat", "dog", "owl"))
    assert list(classes) == ["cat", "owl"]
    assert classes["owl"].sum() == 2
