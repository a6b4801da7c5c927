"""Confidences against right and wrong boxes: what is counted, and that no box scores itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.metric.confidence import area_under_roc
from pipeline.segmenter.confidence import default_model
from pipeline.segmenter.confidence_features import FEATURES
from scripts.measure import confidences
from scripts.measure.confidences import (
    BoxTable,
    Scored,
    correct_on_boxes,
    excess_error,
    measure,
    share_of_wrong,
)

DEFAULT = default_model("head", False)


def boxes(count: int, prefix: str = "photograph", seed: int = 0) -> BoxTable:
    """Boxes that are right with the probability that the default model gives them."""
    rng = np.random.default_rng(seed)
    features = np.zeros((count, len(FEATURES)))
    features[:, FEATURES.index("stability")] = rng.uniform(0.3, 1.2, count)
    right = rng.random(count) < DEFAULT(features)
    names = np.array([f"{prefix} {n}" for n in range(count)])
    return BoxTable(names, features, rng.random(count), right)


def test_least_sure_fifth() -> None:
    right = np.array([False, True, True, True, False, True, True, True, True, True])
    assert share_of_wrong(np.arange(10.0), right) == 0.5
    assert share_of_wrong(-np.arange(10.0), right) == 0.0


def test_calibrated_confidences_have_no_excess_error() -> None:
    table, rng = boxes(4000), np.random.default_rng(0)
    perfect = DEFAULT(table.features)
    assert excess_error(perfect, table.right, rng) == pytest.approx(0, abs=0.01)
    assert excess_error(perfect**3, table.right, rng) > 0.05


def test_rows_are_the_mean_over_seeds() -> None:
    first, second = (Scored(boxes(300, seed=n), boxes(300, seed=n), DEFAULT) for n in (0, 1))
    second = replace(second, scored=replace(second.scored, sources=first.scored.sources))
    both, alone = measure([first, second]), [measure([seed]) for seed in (first, second)]
    for name in ("right", "AUC, default", "least sure fifth, score", "random fifth"):
        assert both[name][0] == pytest.approx(np.mean([rows[name][0] for rows in alone]))
    (auc, spread), (by_score, _) = alone[0]["AUC, default"], alone[0]["AUC, score"]
    assert spread is not None
    assert spread[0] < auc < spread[1]
    assert auc > 0.7 > 0.6 > by_score


def test_boxes_that_correct_a_confidence_are_not_scored_with_it(monkeypatch) -> None:
    """Nor are other crops of their photographs."""
    table = boxes(120)
    table = replace(table, sources=np.repeat([f"p{n}" for n in range(60)], 2))
    seen: list[int] = []

    def count(values: np.ndarray, right: np.ndarray) -> float:
        seen.append(len(right))
        return area_under_roc(values, right)

    monkeypatch.setattr(confidences, "area_under_roc", count)
    assert correct_on_boxes(Scored(table, table, DEFAULT))["error"] < 0.2
    assert len(seen) == confidences.DRAWS
    assert max(seen) <= 120 - confidences.BOXES
    assert min(seen) < 120 - confidences.BOXES
    few = boxes(30)
    assert correct_on_boxes(Scored(few, few, DEFAULT)) == {}
