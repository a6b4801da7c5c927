"""Why boxes are wrong: each cause by drawn boxes, and that every wrong box has one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from pipeline.ops.iou import pairwise_iou
from pipeline.stages.report.causes import (
    CAUSES,
    describe_links,
    find_cause,
    find_causes,
    list_causes,
)

OBJECT = [20, 20, 60, 60]


def boxes(*rows: Sequence[float]) -> np.ndarray:
    return np.array(rows, np.float64).reshape(-1, 4)


@pytest.mark.parametrize(
    ("found", "true", "cause"),
    [
        ([OBJECT], [OBJECT], None),
        ([[30, 30, 45, 45]], [OBJECT], "part"),
        ([[0, 0, 100, 100]], [OBJECT], "context"),
        ([[0, 0, 100, 100]], [OBJECT, [70, 70, 90, 90]], "several_merged"),
        ([[70, 70, 90, 90]], [OBJECT], "wrong_object"),
        ([[45, 20, 85, 60]], [OBJECT], "shifted"),
        ([], [OBJECT], "no_box"),
        ([OBJECT], [OBJECT, [70, 70, 90, 90]], "one_of_several"),
        ([OBJECT, [70, 70, 90, 90]], [OBJECT, [70, 70, 90, 90]], None),
    ],
)
def test_each_cause(found: list[list[float]], true: list[list[float]], cause: str | None) -> None:
    assert find_cause(boxes(*found), boxes(*true), is_class_right=True) == cause


def test_a_right_box_of_the_wrong_class_is_told_apart() -> None:
    assert find_cause(boxes(OBJECT), boxes(OBJECT), is_class_right=False) == "wrong_class"
    assert find_cause(boxes([0, 0, 5, 5]), boxes(OBJECT), is_class_right=False) == "wrong_object"


def test_every_wrong_box_has_a_cause_and_no_right_one_has() -> None:
    rng = np.random.default_rng(0)
    for _ in range(2000):
        corners = np.sort(rng.integers(0, 50, (3, 2, 2)), axis=1).reshape(3, 4)
        corners[:, 2:] += 1
        found, true = corners[:1].astype(float), corners[1:].astype(float)
        cause = find_cause(found, true, is_class_right=True)
        is_right = pairwise_iou(found, true).max() >= 0.5
        assert (cause is None or not CAUSES[cause].is_box_wrong) == is_right


def test_counts_are_of_all_scored_images() -> None:
    record = {"class": 1, "predicted": 1, "true": [OBJECT]}
    records = [
        {**record, "position": 0, "iou": 0.1, "found": [[30, 30, 45, 45]]},
        {**record, "position": 1, "iou": 1.0, "found": [OBJECT]},
        {**record, "position": 2, "iou": None, "found": []},
        {**record, "position": 3, "iou": 1.0, "found": [OBJECT], "predicted": 0},
    ]
    causes = find_causes(records, is_multi_label=False)
    assert causes == {(0, 1): "part", (3, 1): "wrong_class"}
    listed = list_causes({"cam": causes, "gradcam": {}}, {"cam": 3, "gradcam": 3})
    assert listed[0]["told"]["cam"] == "1 of 3 images"
    assert listed[0]["percent"] == {"cam": "33.3 %", "gradcam": "0.0 %"}
    assert listed[0]["share"]["cam"] == 1 / 3
    assert [(one["key"], one["count"]) for one in listed] == [
        ("part", {"cam": 1, "gradcam": 0}), ("wrong_class", {"cam": 1, "gradcam": 0}),
    ]  # fmt: skip
    assert find_causes(records, is_multi_label=True) == {(0, 1): "part"}


def test_links_say_how_many_of_a_cause_are_shown() -> None:
    def image(cause: str | None) -> dict[str, list[list[dict[str, str | None]]]]:
        return {"results": [[{"cause": cause}], []]}

    causes = [{"key": "part", "count": {"cam": 3, "gradcam": 2}}]
    shown = [image("part"), image("part"), image(None)]
    (told,) = describe_links(causes, ["cam", "gradcam"], shown, 5)
    assert told["link"] == {"cam": "Show 2 of 3: 3 of 5 images are shown", "gradcam": ""}
    (told,) = describe_links(causes, ["cam", "gradcam"], [image("part")] * 3, 3)
    assert told["link"]["cam"] == "Show them"


def test_advice_of_an_image_names_the_direction() -> None:
    assert CAUSES["part"].advice.startswith("Lower the threshold. Or: ")
    assert CAUSES["context"].advice.startswith("Raise the threshold. Or: ")
    assert CAUSES["shifted"].advice == CAUSES["shifted"].beside
