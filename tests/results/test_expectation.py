"""The expected accuracy as records and as a sentence."""

from __future__ import annotations

from typing import Any

from pipeline.results.expectation import PAIRS, describe_expected, expected_records


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
