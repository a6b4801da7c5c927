"""Recall at a precision: of boxes that are matched once each, best score first."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.types import Boxes, GroundTruth
from scripts.measure.mosaics import Found, match

SIZE = (100, 100)
TRUE = np.array([[0, 0, 20, 20], [40, 40, 60, 60]], np.float32)


def image(boxes: list[list[float]], scores: list[float]) -> tuple[Boxes, GroundTruth]:
    found = Boxes("x", 0, np.array(boxes, np.float32).reshape(-1, 4), np.array(scores, np.float32),
                  SIZE)  # fmt: skip
    return found, GroundTruth("x", 0, SIZE, TRUE)


def test_a_true_box_is_found_once() -> None:
    found = match([image([[0, 0, 20, 20], [1, 1, 20, 20], [40, 40, 60, 50]], [0.9, 0.8, 0.7])])
    assert found.fits.tolist() == [True, False, True], "the third has an IoU of 0.5"
    assert found.totals == {2: 2}


def test_recall_is_the_highest_at_the_precision() -> None:
    hit, miss = [0.0, 0, 20, 20], [70.0, 70, 90, 90]
    images = [image([hit], [0.9]), image([miss], [0.8]), image([hit], [0.7]), image([hit], [0.6])]
    assert match(images).recall() == pytest.approx(3 / 8), "three of four boxes fit"
    images.append(image([miss, miss], [0.5, 0.4]))
    assert match(images).recall() == pytest.approx(3 / 10), "boxes of low scores are left away"
    assert match([image([miss], [0.9]), image([hit], [0.1])]).recall() == 0
    assert match([image([], [])]).recall() == 0


def test_recall_by_number_of_objects() -> None:
    found = Found(np.array([0.9, 0.8]), np.array([True, True]), np.array([2, 3]), {2: 2, 3: 3})
    assert found.recall(2) == 1 / 2
    assert found.recall(3) == 1 / 3
    assert found.recall() == 2 / 5
