"""Charts of confidences: how many boxes of a confidence are right, and what review gains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.metric.confidence import (
    COVERAGE,
    RIGHT_IOU,
    area_under_roc,
    calibration_error,
    keep_surest,
    split_into_bins,
)
from pipeline.ops.wilson import wilson_interval
from pipeline.results.table import to_percent

MIN_SHOWN = 20  # scored boxes; fewer tell nothing
FAR_OFF = 0.1  # calibration error above which the page says in which direction
MAX_POINTS = 100  # of the risk-coverage curve


def describe_confidences(
    records: Sequence[Mapping[str, Any]], kind: str, examples: int
) -> dict[str, Any] | None:
    """Describe confidences in sentences and two charts; None where too few boxes are scored.

    Args:
        records: of images.json.
        kind: `calibrated` or `default`.
        examples: how many boxes they were calibrated on.
    """
    scored = [
        (record["confidence"], record["iou"] >= RIGHT_IOU)
        for record in records
        if record["iou"] is not None and "confidence" in record
    ]
    if len(scored) < MIN_SHOWN:
        return None
    confidences = np.array([sure for sure, _ in scored])
    right = np.array([is_right for _, is_right in scored])
    auc = area_under_roc(confidences, right)
    return {
        "sentence": describe_review(confidences, right),
        "kind": " ".join(
            filter(None, [describe_kind(kind, examples), describe_sureness(confidences, right)])
        ),
        "bins": list_bins(confidences, right),
        "points": list_coverages(confidences, right),
        "coverage": COVERAGE,
        "overall": float(right.mean()),
        "error": to_percent(calibration_error(confidences, right)),
        "auc": None if auc is None else to_percent(auc),
    }


def describe_review(confidences: np.ndarray, right: np.ndarray) -> str:
    """Return what remains right where the least sure boxes are looked at."""
    kept = right[keep_surest(confidences, COVERAGE)]
    low, high = wilson_interval(int(kept.sum()), len(kept))
    share = f"{100 * (1 - COVERAGE):.0f} %"
    return (
        f"Look at the least sure {share}: of the rest {to_percent(kept.mean())} % are right "
        f"({to_percent(low)} to {to_percent(high)}), of all boxes {to_percent(right.mean())} %."
    )


def describe_kind(kind: str, examples: int) -> str:
    """Return whether the confidences are probabilities, in a sentence."""
    if kind == "calibrated":
        return (
            f"Confidences are calibrated on {examples} annotated images; an image's own is fitted "
            "without it."
        )
    return (
        "Confidences are not calibrated: they rank boxes, and are no probabilities of these images."
    )


def describe_sureness(confidences: np.ndarray, right: np.ndarray) -> str:
    """Describe in which direction confidences are far off; empty where they are not.

    Args:
        confidences: of the boxes.
        right: whether each is.
    """
    error = calibration_error(confidences, right)
    if error <= FAR_OFF:
        return ""
    gap = float(confidences.mean() - right.mean())
    means = (
        f"{to_percent(confidences.mean())} % confidence on average, and {to_percent(right.mean())} "
        "% of the boxes are right"
    )
    if abs(gap) < error / 2:  # the groups err in both directions
        return (
            f"Confidences are too sure of some boxes and not sure enough of others, by "
            f"{to_percent(error)} points on average."
        )
    word = "too sure" if gap > 0 else "not sure enough"
    return f"Confidences are {word}, by {to_percent(abs(gap))} points: {means}."


def list_bins(confidences: np.ndarray, right: np.ndarray) -> list[dict[str, float]]:
    """Return mean confidence, share of right boxes, its interval and the count of each bin."""
    bins = []
    for box in split_into_bins(confidences):
        low, high = wilson_interval(int(right[box].sum()), len(box))
        bins.append(
            {
                "confidence": float(confidences[box].mean()),
                "right": float(right[box].mean()),
                "low": low,
                "high": high,
                "count": len(box),
            }
        )
    return bins


def list_coverages(confidences: np.ndarray, right: np.ndarray) -> list[tuple[float, float]]:
    """Return the share of right boxes among the surest, for rising shares that are kept."""
    order = keep_surest(confidences, 1)
    shares = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    first = max(1, len(order) // 20)  # a few boxes alone would draw a zigzag
    counts = np.unique(np.linspace(first, len(order), MAX_POINTS).round().astype(int))
    return [(float(count / len(order)), float(shares[count - 1])) for count in counts]
