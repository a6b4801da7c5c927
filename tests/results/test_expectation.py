"""The expected accuracy as records and as a sentence."""

from __future__ import annotations

from typing import Any

from pipeline.results.expectation import (
    PAIRS,
    describe_apart,
    describe_expected,
    expected_records,
)


def thresholds(sample: str) -> dict[str, Any]:
    """What stage calibrate records, of two IoUs."""
    shares = {"0.5": (0.75, [0.53, 0.888]), "0.7": (0.25, [0.112, 0.469])}
    return {
        "source": "user", "n": 20, "elsewhere": {"0.5": 0.1, "0.7": 0.2},
        "expected": {iou: {"value": value, "interval": interval, "n": 20, "sample": sample}
                     for iou, (value, interval) in shares.items()},
    }  # fmt: skip


def test_records_have_value_interval_count_and_threshold() -> None:
    first, second = expected_records(thresholds("all"), "cam")
    assert first == {
        "name": "expected_loc", "value": 0.75, "n": 20, "iou": 0.5, "class": None, "group": None,
        "threshold": {"kind": "validation", "value": 0.1, "source": "user"},
        "interval": [0.53, 0.888], "method": "cam", "sample": "all",
    }  # fmt: skip
    assert (second["iou"], second["value"], second["threshold"]["value"]) == (0.7, 0.25, 0.2)


def test_the_sentence_says_what_it_is_of() -> None:
    assert describe_expected(expected_records(thresholds("all"), "cam")) == (
        "expected GT-known Loc of other images at the validation threshold of each IoU: 75.0 % at "
        "IoU 0.5 (95 %: 53.0 to 88.8), 25.0 % at IoU 0.7 (95 %: 11.2 to 46.9); cross-fitted on 20 "
        "images with boxes"
    )
    random = describe_expected(expected_records(thresholds("random"), "cam")) or ""
    assert "20 images with boxes that were chosen at random" in random
    doubt = describe_expected(expected_records(thresholds("doubt"), "cam")) or ""
    assert doubt.endswith("this is not the accuracy to expect of the whole set")


def test_boxes_that_are_cut_at_another_threshold_are_said_first() -> None:
    delivered = {"threshold": {"kind": "auto", "value": None, "rule": "size"}, "right": 16, "n": 21,
                 "interval": [0.549, 0.894], "iou": 0.5, "sample": "all",
                 "source": "user"}  # fmt: skip
    records = expected_records(thresholds("all"), "cam")
    said = describe_expected(records, delivered) or ""
    assert said.startswith(
        "expected of other images at segmenter.threshold=size, as in this calibration: 76.2 % of "
        "the boxes right at IoU 0.5 (95 %: 54.9 to 89.4), as 16 of 21 are in images with boxes of "
        "a person. At segmenter.threshold=validation: expected GT-known Loc of other images"
    )
    fixed = {"threshold": {"kind": "fixed", "value": 0.3}}  # the boxes are scored themselves
    said = describe_expected(records, fixed) or ""
    assert said.startswith("this is not of boxes at segmenter.threshold=0.3. At segmenter.thresh")
    assert describe_expected([], delivered) is None
    pairs = describe_expected(records, {**delivered, "unit": PAIRS, "source": "held_back"}) or ""
    assert "16 of 21 are in pairs of an image with boxes and one of its classes. At" in pairs
    otsu = {"threshold": {"kind": "auto", "value": None, "rule": "otsu"}}
    assert "boxes at segmenter.at=otsu. At" in (describe_expected(records, otsu) or "")


def test_of_images_with_several_classes_it_counts_pairs() -> None:
    several = thresholds("all")
    for expected in several["expected"].values():
        expected["unit"] = PAIRS
    said = describe_expected(expected_records(several, "cam")) or ""
    assert said.endswith("cross-fitted on 20 pairs of an image and one of its classes")


def test_nothing_is_expected_where_nothing_was_estimated() -> None:
    assert expected_records({"source": None, "n": 3}, "cam") == []
    assert expected_records({"expected": None}, "cam") == []
    older = {"expected": {"0.5": {"value": 0.5, "interval": [0.3, 0.7]}}}
    assert expected_records(older, "cam") == []
    assert describe_expected([{"name": "gt_known_loc"}]) is None


def test_what_was_measured_outside_the_interval_is_said() -> None:
    def measured(value: float, kind: str = "validation") -> dict[str, Any]:
        return {"name": "gt_known_loc", "value": value, "iou": 0.5, "n": 80, "group": None,
                "method": "cam", "threshold": {"kind": kind, "value": 0.1}}  # fmt: skip

    expected = expected_records(thresholds("all"), "cam")
    assert describe_apart([*expected, measured(0.6)], "cam") == ""
    assert describe_apart([*expected, measured(0.5, "oracle")], "cam") == ""
    assert describe_apart([*expected, measured(0.5)], "gradcam") == ""
    below = describe_apart([*expected, measured(0.5)], "cam")
    assert below.startswith(
        " Measured on the 80 scored here: 50.0 % at IoU 0.5, below this interval. A likely reason: "
        "the calibration images are another sample"
    )
    assert "above this interval" in describe_apart([*expected, measured(0.95)], "cam")
    held_back = expected_records({**thresholds("all"), "source": "held_back"}, "cam")
    assert "held back from the training part" in describe_apart([*held_back, measured(0.5)], "cam")
