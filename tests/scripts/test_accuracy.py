"""What scripts/accuracy prints: the numbers of metrics.json, each under a name of its own."""

from __future__ import annotations

from typing import Any

from scripts.measure.accuracy import headline


def record(
    name: str, value: float, iou: float | None, kind: str | None, **more: Any
) -> dict[str, Any]:
    threshold = None if kind is None else {"kind": kind, "value": 0.3}
    return {"name": name, "value": value, "iou": iou, "threshold": threshold, "class": None,
            "method": "ddt", **more}  # fmt: skip


MAPS = [
    record("gt_known_loc", 0.1, 0.5, "fixed"),  # the first: the boxes' own
    record("gt_known_loc", 0.2, 0.5, "auto"),
    record("gt_known_loc", 0.3, 0.5, "oracle"),
    record("gt_known_loc", 0.9, 0.5, "oracle", **{"class": "heart"}),
    record("max_box_acc_v2", 0.4, None, "oracle"),
    record("classification_top1", 0.5, None, None),
    record("mean_iou", 0.6, None, "fixed"),
]


def test_numbers_of_the_main_method_and_all_classes() -> None:
    other = record("gt_known_loc", 0.8, 0.5, "fixed", method="cam")
    assert headline([*MAPS, other]) == {
        "gt_known_loc@0.5:fixed": 0.1,
        "gt_known_loc@0.5:auto": 0.2,
        "gt_known_loc@0.5:oracle": 0.3,
        "max_box_acc_v2": 0.4,
        "classification_top1": 0.5,
    }


def test_a_segmenter_that_refines_has_its_numbers_beside_those_of_the_maps() -> None:
    """At the threshold used they are the boxes' own."""
    refined = [
        record("gt_known_loc", 0.25, 0.5, "auto", method="ddt+grabcut"),
        record("gt_known_loc", 0.35, 0.5, "oracle", method="ddt+grabcut"),
        record("max_box_acc_v2", 0.45, None, "oracle", method="ddt+grabcut"),
    ]
    found = headline([*MAPS, *refined])
    assert {key: value for key, value in found.items() if not key.startswith("refined:")} == (
        headline(MAPS)
    )
    assert {key: value for key, value in found.items() if key.startswith("refined:")} == {
        "refined:gt_known_loc@0.5:fixed": 0.1,
        "refined:gt_known_loc@0.5:auto": 0.25,
        "refined:gt_known_loc@0.5:oracle": 0.35,
        "refined:max_box_acc_v2": 0.45,
    }
