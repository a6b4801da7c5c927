"""What the page says first, and what it advises: from records as stage evaluate writes them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipeline.stages.report.advice import find_direction, list_advice
from pipeline.stages.report.causes import CAUSES
from pipeline.stages.report.measured import Measured
from pipeline.stages.report.verdict import compare_with, describe_verdict
from pipeline.stages.report.view_model import describe_cut
from pipeline.stages.report.words import judge_card

FIXED = {"kind": "fixed", "value": 0.2}
AUTO = {"kind": "auto", "value": None}


def record(
    name: str, value: float, threshold: Any = None, iou: float | None = 0.5, **more: Any
) -> dict[str, Any]:
    low, high = max(0.0, value - 0.03), min(1.0, value + 0.03)
    return {"name": name, "value": value, "n": 200, "iou": iou, "threshold": threshold,
            "class": None, "interval": [low, high], "method": "cam", "group": None,
            **more}  # fmt: skip


def oracle(at: float) -> dict[str, Any]:
    return {"kind": "oracle", "value": at}


def measured(
    name: str = "cam", used: float = 0.6, threshold: Any = None, *more: dict[str, Any]
) -> Measured:
    threshold = threshold or FIXED
    records = [
        record("gt_known_loc", used, threshold),
        record("full_image_loc", 0.1),
        *more,
    ]
    return Measured(method=name, saliency="cam", ious=(0.5,), iou=np.zeros(200),
                    threshold=threshold, records=records, curve={}, classes=None)  # fmt: skip


def causes(method: str = "cam", **counts: int) -> list[dict[str, Any]]:
    return [
        {"key": key, "title": text.title, "is_box_wrong": text.is_box_wrong,
         "count": {method: counts[key]}, "told": {method: f"{counts[key]} of 200 images"}}
        for key, text in CAUSES.items()
        if key in counts
    ]  # fmt: skip


def difference(p: float, interval: tuple[float, float]) -> dict[str, Any]:
    of = {"name": "difference:gt_known_loc", "iou": 0.5, "threshold": FIXED, "p_value": p,
          "interval": interval, "value": 0.1, "n": 200}  # fmt: skip
    return {"a": "cam", "b": "gradcam", "differences": [{"record": of}]}


def test_the_answer_of_one_method() -> None:
    first, against = describe_verdict([measured()], causes(context=50, part=30, wrong_class=90))
    assert first == (
        "120 of 200 images have a right box, 60.0 % (IoU at least 0.5 with an annotated box; 57.0 "
        "to 63.0 with 95 % confidence). Main fault: too much around the object (50 of 80 wrong "
        "boxes)."
    )
    assert against == "Against a box of the whole image (10.0 %): 60.0 %, far above."


def test_all_right_has_a_bound_and_no_fault() -> None:
    first, _ = describe_verdict([measured(used=1.0)], [])
    assert "98.1 to 100.0" in first
    assert "fault" not in first


def test_nothing_measured_says_nothing() -> None:
    none = Measured(method="cam", saliency="cam", ious=(), iou=np.zeros(0), threshold=None,
                    records=[record("classification_top1", 0.9, iou=None)], curve={},
                    classes=None)  # fmt: skip
    assert describe_verdict([none], []) == []
    assert list_advice([none], {"cam": None}, []) == []


@pytest.mark.parametrize(
    ("p", "interval", "word"),
    [(0.01, (0.02, 0.2), "tells this from chance (p = 0.01)"),
     (0.3, (-0.1, 0.2), "does not tell this from chance (p = 0.3)"),
     (0.01, (-0.1, 0.2), "does not tell this from chance (p = 0.01)")],
)  # fmt: skip
def test_of_several_the_best_and_whether_it_is_chance(
    p: float, interval: tuple[float, float], word: str
) -> None:
    methods = [measured(), measured("gradcam", 0.7)]
    told = describe_verdict(methods, [], [difference(p, interval)])
    assert told[0].startswith("gradcam is best: 140 of 200 images have a right box, 70.0 %")
    assert f"10.0 points above cam, the second; the paired test {word}" in told[0]
    assert told[1] == (
        "Against a box of the whole image (10.0 %): cam 60.0 %, far above; gradcam 70.0 %, far "
        "above."
    )
    assert "no paired test" in describe_verdict(methods, [])[0]


def test_below_a_baseline_is_said() -> None:
    below = measured(
        "cam", 0.5, FIXED, record("gt_known_loc", 0.52, oracle(0.4)),
        record("centre_box_loc", 0.57, oracle(0.6)),
        record("max_box_acc_v2", 0.5, oracle(0.4), None),
        record("pyramid_max_box_acc_v2", 0.51, oracle(0.4), None),
    )  # fmt: skip
    told = describe_verdict([below], [])
    assert told[2:] == [
        "Against the best centre box (57.0 %, both at the oracle threshold): 52.0 %, below.",
        "Against the centred pyramid (V2) (51.0 %, both at the oracle threshold): 50.0 %, below, "
        "within its 95 % interval.",
    ]
    assert compare_with(record("x", 0.3), 0.2) == "above"


def test_groups_that_are_far_worse_are_named() -> None:
    def of(group: str, name: str, value: float, n: int) -> dict[str, Any]:
        more: dict[str, Any] = {"group": group, "class": name, "n": n}
        return record("gt_known_loc", value, FIXED, **more)

    bad = measured("cam", 0.6, FIXED, of("size", "size: small", 0.1, 50),
                   of("size", "size: large", 0.7, 50),
                   of("class", "crow", 0.0, 9), of("class", "gull", 0.1, 30))  # fmt: skip
    told = describe_verdict([bad], [])
    assert told[2:] == [
        "Far worse: small objects, 5 of 50 right.", "The worst class: gull, 3 of 30 right.",
    ]  # fmt: skip
    alike = measured("cam", 0.6, FIXED, of("size", "small", 0.55, 50))
    assert len(describe_verdict([alike], [])) == 2


def test_the_threshold_goes_where_another_one_does_better() -> None:
    both = causes(context=40, part=30)
    higher = measured("cam", 0.5, FIXED, record("gt_known_loc", 0.6, oracle(0.4)))
    assert find_direction(higher, both) == "raise"
    lower = measured("cam", 0.5, FIXED, record("gt_known_loc", 0.6, oracle(0.1)))
    assert find_direction(lower, both) == "lower"
    alike = measured("cam", 0.5, FIXED, record("gt_known_loc", 0.51, oracle(0.4)))
    assert find_direction(alike, both) is None
    own = measured("cam", 0.5, AUTO, record("gt_known_loc", 0.6, oracle(0.4)))
    assert find_direction(own, both) == "raise"
    assert find_direction(own, causes(context=10, part=30)) == "lower"
    chosen = record("gt_known_loc", 0.55, {"kind": "validation", "value": 0.1})
    first = measured("cam", 0.5, FIXED, record("gt_known_loc", 0.6, oracle(0.4)), chosen)
    assert find_direction(first, both) == "lower", "validation decides"


def test_a_threshold_is_not_advised_both_ways() -> None:
    both = causes(context=40, part=30, wrong_class=20)
    higher = measured("cam", 0.5, FIXED, record("gt_known_loc", 0.6, oracle(0.4)))
    told = list_advice([higher], {"cam": "At 0.4 it is best."}, both)
    assert told[0] == {"text": "At 0.4 it is best.", "note": ""}
    texts = " ".join(one["text"] for one in told)
    assert "A higher threshold helps here" in texts
    assert "lower threshold" not in texts
    assert any("right box, wrong class (20 of 200 images)" in one["note"] for one in told)
    told = list_advice([measured()], {"cam": None}, both)
    assert told[0]["text"].startswith(
        "40 boxes hold too much and 30 too little, so that no threshold mends both."
    )
    assert not any("threshold helps" in one["text"] for one in told)
    assert len(told) == 2


def test_advice_is_for_the_best_method_first() -> None:
    methods = [measured(), measured("gradcam", 0.7)]
    told = list_advice(methods, {"cam": "one", "gradcam": "two"}, causes("gradcam", shifted=5))
    assert [one["text"] for one in told] == ["two", CAUSES["shifted"].beside, "one"]
    assert [one["note"] for one in told] == [
        "For gradcam.", "For beside the object (5 of 200 images), gradcam.", "For cam.",
    ]  # fmt: skip


def test_cards_know_their_baseline() -> None:
    card = {"value": "52.1", "baseline": ["best centre box", "56.8 @0.65"]}
    assert judge_card(card) == {**card, "is_above": False, "mark": 56.8}
    assert judge_card({**card, "value": "56.9"})["is_above"]
    assert judge_card({**card, "baseline": None})["is_above"] is None


@pytest.mark.parametrize(
    ("kind", "value", "told"),
    [("fixed", 0.2, "0.20 (fixed)"), ("validation", 0.391, "0.391 (validation)"),
     ("auto", None, "each map's own (auto)"),
     ("validation", [0.41, 0.473], "0.41 or 0.473 (validation, by half of the images)")],
)  # fmt: skip
def test_where_boxes_are_cut(kind: str, value: Any, told: str) -> None:
    assert describe_cut({"kind": kind, "value": value}) == told
