"""The sentences and charts of confidences in the report."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.stages.report.confidence import describe_confidences, list_coverages


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
