"""The model of confidences, compared with a general optimizer."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.optimize import minimize

from pipeline.segmenter.confidence import (
    AGREEMENT,
    DEFAULTS,
    MIN_EXAMPLES,
    SCALE_PENALTY,
    SHIFT_PENALTY,
    WEIGHT_PENALTY,
    ConfidenceModel,
    default_model,
)
from pipeline.segmenter.confidence_features import FEATURES


def draw(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    model = default_model("head", False)
    rows = np.array(model.deviations) * random.normal(size=(count, len(FEATURES)))
    rows[:, 2] += 0.8
    return rows, random.random(count) < model(rows) * 0.5


def test_values() -> None:
    model = ConfidenceModel("default", ("a", "b"), (1.0, -2.0), 0.5, (1.0, 1.0))
    assert model(np.array([[1.5, 1.0], [0.0, 0.0]])).tolist() == pytest.approx(
        [0.5, 1 / (1 + np.exp(-0.5))]
    )


def test_the_defaults_take_the_features() -> None:
    for (_, with_agreement), model in DEFAULTS.items():
        assert model.features == (*FEATURES, *([AGREEMENT] if with_agreement else []))
        assert len(model.weights) == len(model.deviations) == len(model.features)
        assert model.kind == "default"
        assert model.weights[2] > 0  # of the stability


def test_correction_is_the_penalized_maximum_likelihood() -> None:
    rows, right = draw(60)
    model = default_model("head", False)
    offset = model.logits(rows)
    spread = (rows - rows.mean(0)) / np.array(model.deviations)

    def logits(values: np.ndarray) -> np.ndarray:
        return np.asarray(
            offset + values[0] + values[1] * (offset - offset.mean()) + spread @ values[2:]
        )

    def loss(values: np.ndarray) -> float:
        sign = np.where(right, 1, -1)
        ridge = SHIFT_PENALTY * values[0] ** 2 + SCALE_PENALTY * values[1] ** 2
        ridge += WEIGHT_PENALTY * (values[2:] ** 2).sum()
        return float(np.logaddexp(0, -sign * logits(values)).sum() + ridge / 2)

    best = minimize(loss, np.zeros(9), method="BFGS", options={"gtol": 1e-8}).x
    corrected = model.corrected(rows, right)
    assert corrected.logits(rows) == pytest.approx(logits(best), abs=1e-3)
    assert corrected.kind == "calibrated"
    assert corrected.examples == 60


def test_correction_meets_the_share_of_right_boxes() -> None:
    rows, right = draw(200)
    model = default_model("head", False)
    assert abs(model(rows).mean() - right.mean()) > 0.1
    assert model.corrected(rows, right)(rows).mean() == pytest.approx(right.mean(), abs=0.01)


@pytest.mark.parametrize("share", [0, 1])
def test_boxes_that_agree_leave_the_model_finite(share: int) -> None:
    rows, _ = draw(30)
    confidences = default_model("head", False).corrected(rows, np.full(30, bool(share)))(rows)
    assert np.isfinite(confidences).all()
    assert abs(confidences.mean() - share) < 0.15


def test_few_boxes_change_nothing() -> None:
    rows, right = draw(MIN_EXAMPLES - 1)
    model = default_model("classifier", False)
    assert model.corrected(rows, right) is model


def test_a_model_is_read_as_it_was_written() -> None:
    model = default_model("classifier", True)
    assert ConfidenceModel.from_record(json.loads(json.dumps(model.record()))) == model
