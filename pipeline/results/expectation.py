"""The accuracy that boxes at a validation threshold are expected to have, by stage calibrate.

It is computed by cross-fitting on the calibration images: each is measured at the threshold that
others choose. metrics.json has it as `expected_loc`; terminal and report as a sentence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.results.table import to_percent
from pipeline.types import Score

EXPECTED = "expected_loc"

# What the expectation is computed on, where an image has one class and where it may have several.
IMAGES = "images with boxes"
PAIRS = "pairs of an image and one of its classes"

# What is said of the images that the expectation is computed on.
SAMPLES = {
    "all": "",
    "random": " that were chosen at random (those chosen by doubt are not counted)",
    "doubt": ", some of them chosen by doubt: this is not the accuracy to expect of the whole set",
}


def expected_records(thresholds: Mapping[str, Any], method: str) -> list[dict[str, Any]]:
    """Return the records of metrics.json; none where no accuracy was estimated.

    Args:
        thresholds: as stage calibrate records them, for plain or for refined maps.
        method: the saliency method.
    """
    records = []
    for iou, expected in (thresholds.get("expected") or {}).items():
        if "n" not in expected:  # of version 0.1.0
            continue
        low, high = expected["interval"]
        score = Score(
            name=EXPECTED,
            value=expected["value"],
            n=expected["n"],
            iou=float(iou),
            threshold={
                "kind": "validation",
                "value": thresholds["elsewhere"][iou],
                "source": thresholds["source"],
            },
            interval=(low, high),
            method=method,
        )
        unit = {"unit": expected["unit"]} if "unit" in expected else {}
        records.append({**score.record(), "sample": expected["sample"], **unit})
    return records


def describe_expected(records: Sequence[Mapping[str, Any]]) -> str | None:
    """Describe the expected accuracy in a sentence.

    Args:
        records: of metrics.json; those of other numbers are left out.

    Returns:
        The sentence; None where no record is of an expected accuracy.
    """
    expected = [record for record in records if record["name"] == EXPECTED]
    if not expected:
        return None
    shares = ", ".join(_describe_share(record) for record in expected)
    first = expected[0]
    return (
        f"expected GT-known Loc of other images at the validation threshold of each IoU: {shares}; "
        f"cross-fitted on {first['n']} {first.get('unit', IMAGES)}{SAMPLES[first['sample']]}"
    )


def _describe_share(record: Mapping[str, Any]) -> str:
    low, high = (to_percent(end) for end in record["interval"])
    return f"{to_percent(record['value'])} % at IoU {record['iou']:g} (95 %: {low} to {high})"
