"""Features of boxes: values that follow from how the map was made."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.segmenter.confidence_features import FEATURES, LOGITS, measure_features
from pipeline.types import Boxes, SaliencyMap


def measure(
    values: np.ndarray, *boxes: tuple[float, ...], score: float = 0.5, predicted: int = 0
) -> list[dict[str, float]]:
    size = (values.shape[0], values.shape[1])
    saliency = SaliencyMap.of("a", 0, predicted, score, values.astype(np.float32), size)
    found = np.array(boxes, np.float32).reshape(-1, 4)
    rows = measure_features(saliency, Boxes("a", 0, found, np.ones(len(found), np.float32), size))
    assert rows.dtype == np.float32
    return [dict(zip(FEATURES, row.tolist(), strict=True)) for row in rows]


def square() -> np.ndarray:
    values = np.zeros((64, 64))
    values[16:48, 8:40] = 1
    return values


def test_a_box_that_no_threshold_changes_is_stable() -> None:
    right, half = measure(square(), (8, 16, 40, 48), (8, 16, 24, 48))
    assert right["stability"] == pytest.approx(1)
    assert right["plateau"] == 1
    assert half["stability"] == pytest.approx(0.5)
    assert half["plateau"] == 1
    assert right["variation"] == pytest.approx(0)
    assert right["components"] == 0


def test_a_box_that_fits_at_one_threshold_alone_is_not() -> None:
    y, x = np.mgrid[:64, :64]
    blob = np.exp(-((y - 32.0) ** 2 + (x - 32.0) ** 2) / 120)
    (steep,), (flat,) = measure(square(), (8, 16, 40, 48)), measure(blob, (28, 28, 37, 37))
    assert flat["stability"] < 0.5 < steep["stability"]
    assert flat["plateau"] < 0.5


def test_components_are_counted_without_specks() -> None:
    values = square()
    values[2:4, 60:62] = 1  # 4 pixels beside 1024
    assert measure(values, (8, 16, 40, 48))[0]["components"] == 0
    values[16:48, 50:62] = 1
    assert measure(values, (8, 16, 40, 48))[0]["components"] == pytest.approx(np.log(2))


def test_edges_that_the_box_touches_are_counted() -> None:
    boxes = [(0, 10, 30, 40), (0, 0, 64, 64), (10, 10, 30, 40), (40, 30, 64, 64)]
    assert [row["edges"] for row in measure(square(), *boxes)] == [1, 4, 0, 2]


def test_the_class() -> None:
    ((sure,), (unsure,)) = (measure(square(), (8, 16, 40, 48), score=p) for p in (0.9, 0.5))
    assert sure["class_logit"] == pytest.approx(np.log(0.901 / 0.101), abs=1e-4)
    assert unsure["class_logit"] == 0
    assert unsure["other_class"] == 0
    assert measure(square(), (8, 16, 40, 48), predicted=1)[0]["other_class"] == 1
    for certain in (0.0, 1.0):
        assert np.isfinite(
            list(measure(square(), (8, 16, 40, 48), score=certain)[0].values())
        ).all()


@pytest.mark.parametrize("values", [np.zeros((40, 60)), np.full((40, 60), np.nan)])
def test_maps_without_a_component(values: np.ndarray) -> None:
    (row,) = measure(values, (0, 0, 60, 40))
    assert np.isfinite(list(row.values())).all()
    assert row["stability"] == 0
    assert measure(values) == []


def test_the_box_counts_and_not_the_size_of_the_image() -> None:
    small = SaliencyMap.of("a", 0, 0, 0.5, square()[::2, ::2].astype(np.float32), (640, 640))
    box = np.array([[80, 160, 400, 480]], np.float32)
    rows = measure_features(small, Boxes("a", 0, box, np.ones(1, np.float32), (640, 640)))
    assert rows[0, FEATURES.index("stability")] > 0.9
    assert len(LOGITS) == 7
