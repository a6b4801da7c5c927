"""The sentences and charts of confidences in the report."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.stages.report.confidence import (
    describe_confidences,
    describe_sureness,
    list_coverages,
)


def records(count: int) -> list[dict[str, Any]]:
    return [
        {"position": n, "confidence": n / count, "iou": 0.9 if n >= 0.3 * count else 0.1}
        for n in range(count)
    ]


def test_what_review_gains() -> None:
    told = describe_confidences(records(100), "calibrated", 40)
    assert told is not None
    assert told["sentence"] == (
        "Look at the least sure 30 %: of the rest 100.0 % are right (94.8 to 100.0), of all boxes "
        "70.0 %."
    )
    assert "calibrated on 40" in told["kind"]
    assert [bin["count"] for bin in told["bins"]] == [10] * 10
    assert [bin["right"] for bin in told["bins"]] == [0] * 3 + [1] * 7
    assert told["auc"] == "100.0"
    assert told["points"][-1] == (1.0, 0.7)


def test_few_boxes_or_none_tell_nothing() -> None:
    assert describe_confidences(records(19), "default", 0) is None
    assert describe_confidences([{"position": 0, "iou": None}], "default", 0) is None
    told = describe_confidences(records(40), "default", 0)
    assert told is not None
    assert "not calibrated" in told["kind"]


def test_coverages_rise_and_end_with_all() -> None:
    points = list_coverages(np.arange(300) / 300, np.arange(300) % 2 == 0)
    assert len(points) == 100
    assert points[-1] == (1.0, 0.5)
    assert [x for x, _ in points] == sorted(x for x, _ in points)


def test_far_off_says_in_which_direction() -> None:
    right = np.arange(200) % 2 == 0  # 50 % everywhere
    assert describe_sureness(np.full(200, 0.55), right) == ""
    assert describe_sureness(np.full(200, 0.8), right) == (
        "Confidences are too sure, by 30.0 points: 80.0 % confidence on average, and 50.0 % of the "
        "boxes are right."
    )
    assert "not sure enough, by 30.0 points" in describe_sureness(np.full(200, 0.2), right)
    both = np.repeat([0.2, 0.8], 100)
    assert describe_sureness(both, right) == (
        "Confidences are too sure of some boxes and not sure enough of others, by 30.0 points on "
        "average."
    )
