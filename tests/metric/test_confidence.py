"""AUC, calibration error and accuracy of the surest boxes, against independent computations."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from pipeline.metric.confidence import (
    Confidence,
    area_under_roc,
    calibration_error,
    keep_surest,
    split_into_bins,
)
from pipeline.types import EvaluationSettings, Evidence


def test_auc_is_the_mann_whitney_statistic() -> None:
    random = np.random.default_rng(0)
    confidences = random.integers(0, 20, 300) / 20  # with ties
    right = random.random(300) < confidences
    statistic = mannwhitneyu(confidences[right], confidences[~right]).statistic
    expected = statistic / (right.sum() * (~right).sum())
    assert area_under_roc(confidences, right) == pytest.approx(expected)
    assert area_under_roc(confidences, np.ones(300, bool)) is None


def test_bins_hold_equally_many() -> None:
    bins = split_into_bins(np.arange(47) / 47)
    assert [len(box) for box in bins] == [12, 12, 12, 11]
    assert bins[0].tolist() == list(range(12))
    assert len(split_into_bins(np.zeros(5))) == 1
    assert len(split_into_bins(np.zeros(1000))) == 10


def test_calibration_error_by_hand() -> None:
    confidences = np.repeat([0.2, 0.9], 10)
    right = np.array([True] * 4 + [False] * 6 + [True] * 8 + [False] * 2)
    assert calibration_error(confidences, right) == pytest.approx((0.2 + 0.1) / 2)


def test_the_surest_are_kept() -> None:
    assert keep_surest(np.array([0.1, 0.9, 0.5, 0.7]), 0.5).tolist() == [1, 3]
    assert keep_surest(np.array([0.1]), 0.1).tolist() == [0]


def test_the_numbers() -> None:
    metric = Confidence().with_settings(EvaluationSettings())
    for n in range(20):
        evidence = Evidence(id=str(n), image=str(n), confidence=n / 20, iou=0.5 if n >= 6 else 0.4)
        metric.update(evidence)
    scores = {score.name: score for score in metric.compute()}
    assert scores["confidence_auc"].value == 1
    assert scores["confidence_auc"].n == 20
    assert scores["confidence_surest"].value == 1
    assert scores["confidence_surest"].n == 20
    low, high = scores["confidence_auc"].interval or (0, 0)
    assert low == high == 1
    assert metric.notes() == []
    only_right = np.arange(20) >= 6
    assert "confidence_auc" not in {score.name for score in metric.compute(only_right)}
    assert metric.compute(np.zeros(20, bool)) == []


def test_confidences_that_rank_backwards_are_said() -> None:
    metric = Confidence().with_settings(EvaluationSettings())
    for n in range(20):
        evidence = Evidence(id=str(n), image=str(n), confidence=n / 20, iou=0.7 if n < 5 else 0.4)
        metric.update(evidence)
    (note,) = metric.notes()
    assert note.startswith(
        "evaluate: confidence AUC is 0.0 % (95 %: 0.0 to 0.0) over 20 boxes, of which 5 are right: "
        "below 50 %"
    )
