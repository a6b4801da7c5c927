"""false_alarms: counted, and with Wilson's interval as statsmodels prints it."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.metric.false_alarms import FalseAlarms
from pipeline.types import EvaluationSettings, Evidence


def filled(alarms: list[float]) -> FalseAlarms:
    metric = FalseAlarms().with_settings(EvaluationSettings())
    for n, alarm in enumerate(alarms):
        metric.update(Evidence(id=f"{n}", image=f"{n}.png", alarm=alarm))
    return metric


def test_shares_and_intervals():
    metric = filled([0, 0.2, 0.5, 0.49, 0.9, 0, 0, 0, 0, 0])
    strong, some = metric.compute()
    assert (strong.name, strong.value, strong.n) == ("false_alarms", 0.2, 10)
    assert (some.name, some.value, some.n) == ("false_alarms_any", 0.4, 10)
    # statsmodels 0.14, proportion_confint(2, 10, method="wilson")
    assert strong.interval == pytest.approx((0.05668, 0.50984), abs=1e-4)


def test_of_some_images_and_of_none():
    metric = filled([0, 1])
    strong, _ = metric.compute(np.array([False, True]), "1")
    assert (strong.value, strong.n, strong.label) == (1, 1, "1")
    assert filled([]).compute() == []
