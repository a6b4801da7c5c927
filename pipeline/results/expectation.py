"""The accuracy that boxes at a validation threshold are expected to have, by stage calibrate.

It is computed by cross-fitting on the calibration images: each is measured at the threshold that
others choose. metrics.json has it as `expected_loc`; terminal and report as a sentence. Where a run
cuts its boxes at another threshold, the sentence begins with the accuracy of these.
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


def describe_expected(
    records: Sequence[Mapping[str, Any]], delivered: Mapping[str, Any] | None = None
) -> str | None:
    """Describe the expected accuracy, with that of the run's own boxes before it.

    Args:
        records: of metrics.json; those of other numbers are left out.
        delivered: what stage calibrate records in thresholds.json of boxes that are cut at another
            threshold than the validation threshold; None: the run's boxes are cut at this.

    Returns:
        A sentence or two; None where no record is of an expected accuracy.
    """
    expected = [record for record in records if record["name"] == EXPECTED]
    if not expected:
        return None
    shares = ", ".join(_describe_share(record) for record in expected)
    first = expected[0]
    before = "" if delivered is None else _describe_delivered(delivered)
    return (
        f"{before}expected GT-known Loc of other images at the validation threshold of each IoU: "
        f"{shares}; cross-fitted on {first['n']} {first.get('unit', IMAGES)}"
        f"{SAMPLES[first['sample']]}"
    )


def _describe_delivered(delivered: Mapping[str, Any]) -> str:
    """Return the sentence on boxes at another threshold, and the begin of the next one."""
    info, then = delivered["threshold"], "At segmenter.threshold=validation:"
    rule = info.get("rule", info["kind"]) if info["value"] is None else f"{info['value']:g}"
    name = "threshold" if info["value"] is not None or rule in ("auto", "size") else "at"
    cut = f"segmenter.{name}={rule}"
    if not delivered.get("n"):
        return f"this is not of boxes at {cut}. {then} "
    right, count = delivered["right"], delivered["n"]
    low, high = (to_percent(end) for end in delivered["interval"])
    whose = f"boxes{' of a person' * (delivered['source'] == 'user')}"
    unit = delivered.get("unit", IMAGES).replace("image and", "image with boxes and")
    return (
        f"expected of other images at {cut}, as in this calibration: {to_percent(right / count)} % "
        f"of the boxes right at IoU {delivered['iou']:g} (95 %: {low} to {high}), as {right} of "
        f"{count} are in {unit.replace('boxes', whose)}{SAMPLES[delivered['sample']]}. {then} "
    )


# Why other images may do better or worse than what was expected, by the source of the boxes.
DIFFERENCES = {
    "held_back": "the calibration images are held back from the training part, and need not be "
    "like the scored ones",
    "two_fold": "the expectation is of halves of these images, each at the threshold of the other",
}
OTHER_SAMPLE = "the calibration images are another sample, and need not be like the scored ones"


def describe_apart(records: Sequence[Mapping[str, Any]], method: str) -> str:
    """Describe where the accuracy at the validation threshold lies outside its expected interval.

    Args:
        records: of metrics.json.
        method: the saliency method.

    Returns:
        Sentences that follow the expectation; empty where all lie inside.
    """
    measured = {
        record["iou"]: record
        for record in records
        if record["name"] == "gt_known_loc"
        and record["group"] is None
        and record["method"] == method
        and (record["threshold"] or {}).get("kind") == "validation"
    }
    outside, n, source = [], 0, ""
    for record in records:
        if record["name"] != EXPECTED or record["iou"] not in measured:
            continue
        value, (low, high) = measured[record["iou"]]["value"], record["interval"]
        if low <= value <= high:
            continue
        side = "below" if value < low else "above"
        outside.append(f"{to_percent(value)} % at IoU {record['iou']:g}, {side} this interval")
        n, source = measured[record["iou"]]["n"], record["threshold"]["source"]
    if not outside:
        return ""
    reason = DIFFERENCES.get(source, OTHER_SAMPLE)
    return (
        f" Measured on the {n} scored here: {'; '.join(outside)}. A likely reason: {reason}. Of "
        "images like these, rely on what was measured."
    )


def _describe_share(record: Mapping[str, Any]) -> str:
    low, high = (to_percent(end) for end in record["interval"])
    return f"{to_percent(record['value'])} % at IoU {record['iou']:g} (95 %: {low} to {high})"
