"""The answer at the top of the page: how many boxes are right, against what, and the main fault.

Shares are GT-known Loc at IoU 0.5, with their 95 % interval. A baseline is passed where the whole
interval lies above it; of two methods the paired test of stage compare decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.ops.wilson import wilson_interval
from pipeline.results.comparison import SIGNIFICANCE_LEVEL
from pipeline.results.table import to_percent
from pipeline.stages.report.causes import RIGHT_IOU
from pipeline.stages.report.measured import Measured

Record = Mapping[str, Any]

LOC = "gt_known_loc"
FAR = 0.2  # above a baseline
FAR_WORSE = 0.1  # than all, of a group whose interval lies below this
MIN_GROUP = 10  # scored; fewer tell nothing
# Number, kind of threshold, baseline and its title, IoU. Kind "used": that of the boxes.
BASELINES = (
    (LOC, "used", "full_image_loc", "a box of the whole image", RIGHT_IOU),
    (LOC, "oracle", "centre_box_loc", "the best centre box", RIGHT_IOU),
    ("max_box_acc_v2", "oracle", "pyramid_max_box_acc_v2", "the centred pyramid (V2)", None),
)


def describe_verdict(
    methods: Sequence[Measured],
    causes: Sequence[Mapping[str, Any]],
    comparisons: Sequence[Mapping[str, Any]] = (),
    unit: str = "images",
) -> list[str]:
    """Describe what the run came to, in sentences, the first of which is the answer.

    Args:
        methods: what was measured of each.
        causes: as the page has them, with a count for each method.
        comparisons: of comparison.json.
        unit: what is scored, in the plural.

    Returns:
        The sentences; none where nothing was measured at IoU 0.5.
    """
    ranked = rank_methods(methods)
    if not ranked:
        return []
    best = ranked[0]
    answer = [_describe_best(ranked, comparisons, unit), _describe_fault(best, causes)]
    sentences = [" ".join(filter(None, answer))]
    sentences += [line for row in BASELINES for line in _describe_baseline(methods, *row)]
    sentences += [_describe_worst_size(best), _describe_worst_class(best)]
    return [sentence for sentence in sentences if sentence]


def rank_methods(methods: Sequence[Measured]) -> list[Measured]:
    """Return the methods of which boxes were scored at IoU 0.5, the best first."""
    scored = [each for each in methods if find_record(each, LOC, "used") is not None]
    return sorted(scored, key=lambda each: -_used(each)["value"])


def find_record(
    method: Measured, name: str, kind: str, iou: float | None = RIGHT_IOU
) -> Record | None:
    """Return a number over all images, at a kind of threshold; None: it was not measured.

    Args:
        method: what was measured.
        name: of the number.
        kind: of the threshold; `used` is that of the boxes.
        iou: that boxes must reach; None: the number has none, or is a mean over several.
    """
    of_iou = [record for record in method.overall(name) if record["iou"] == iou]
    if kind == "used":  # stage evaluate writes the threshold of the boxes first
        return of_iou[0] if of_iou else None
    return next(
        (
            record
            for record in of_iou
            if (threshold := record["threshold"] or {}).get("kind") == kind
            and threshold.get("source") != "given"
        ),
        None,
    )


def _used(method: Measured) -> Record:
    """Return the accuracy of the boxes, which `rank_methods` found to be there."""
    record = find_record(method, LOC, "used")
    assert record is not None
    return record


def _describe_best(
    ranked: Sequence[Measured], comparisons: Sequence[Mapping[str, Any]], unit: str
) -> str:
    """Return how many boxes of the best method are right, and its lead over the second."""
    record = _used(ranked[0])
    value, n = record["value"], record["n"]
    low, high = interval_of(record)
    right = round(value * n)
    bounds = f"{to_percent(low)} to {to_percent(high)} with 95 % confidence"
    text = (
        f"{right} of {n} {unit} have a right box, {to_percent(value)} % (IoU at least "
        f"{RIGHT_IOU:g} with an annotated box; {bounds})"
    )
    if len(ranked) > 1:
        lead = _describe_lead(ranked[0], ranked[1], comparisons)
        text = f"{ranked[0].method} is best: {text}, {lead}"
    if (record["threshold"] or {}).get("kind") == "oracle":
        text += ". The threshold was chosen by looking at these images, so this is optimistic"
    return f"{text}."


def interval_of(record: Record) -> tuple[float, float]:
    """Return the 95 % interval of a share; Wilson's where all agree and a bootstrap has none."""
    if record["interval"] is not None and record["value"] not in (0, 1):
        low, high = record["interval"]
        return float(low), float(high)
    return wilson_interval(round(record["value"] * record["n"]), record["n"])


def _describe_lead(
    best: Measured, second: Measured, comparisons: Sequence[Mapping[str, Any]]
) -> str:
    """Return by how much the best is ahead, and whether a paired test tells it from chance."""
    lead = _used(best)["value"] - _used(second)["value"]
    ahead = f"{to_percent(lead)} points above {second.method}, the second"
    difference = _find_difference(best, second, comparisons)
    if difference is None:
        return f"{ahead} (no paired test of the two)"
    low, high = difference["interval"]
    p = f"p = {difference['p_value']:.2g}"
    if difference["p_value"] < SIGNIFICANCE_LEVEL and (low > 0 or high < 0):
        return f"{ahead}; the paired test tells this from chance ({p})"
    return f"{ahead}; the paired test does not tell this from chance ({p})"


def _find_difference(
    best: Measured, second: Measured, comparisons: Sequence[Mapping[str, Any]]
) -> Record | None:
    """Return the tested difference of two methods at the threshold of the boxes."""
    pair = {best.method, second.method}
    kinds = {(_used(each)["threshold"] or {}).get("kind") for each in (best, second)}
    for comparison in comparisons:
        if {comparison["a"], comparison["b"]} != pair:
            continue
        for difference in comparison["differences"]:
            record: Record = difference["record"]
            is_used = record["threshold"] is None or record["threshold"].get("kind") in kinds
            if record["name"] == f"difference:{LOC}" and record["iou"] == RIGHT_IOU and is_used:
                return record
    return None


def _describe_fault(best: Measured, causes: Sequence[Mapping[str, Any]]) -> str:
    """Return why most of the wrong boxes of a method are wrong."""
    counts = {
        cause["title"]: cause["count"].get(best.method, 0)
        for cause in causes
        if cause["is_box_wrong"]
    }
    wrong = sum(counts.values())
    if not wrong:
        return ""
    title = max(counts, key=lambda each: counts[each])
    boxes = "box" if wrong == 1 else "boxes"
    return f"Main fault: {title.lower()} ({counts[title]} of {wrong} wrong {boxes})."


def _describe_baseline(
    methods: Sequence[Measured], name: str, kind: str, baseline: str, title: str, iou: float | None
) -> list[str]:
    """Return where each method stands against a baseline, a sentence for each value of it."""
    by_value: dict[str, list[str]] = {}
    for method in methods:
        record = find_record(method, name, kind, iou)
        # A baseline is at its own best threshold, or at none.
        other = next(iter(r for r in method.overall(baseline) if r["iou"] == iou), None)
        if record is None or other is None:
            continue
        called = f"{method.method} " if len(methods) > 1 else ""
        word = compare_with(record, other["value"])
        by_value.setdefault(to_percent(other["value"]), []).append(
            f"{called}{to_percent(record['value'])} %, {word}"
        )
    at = ", both at the oracle threshold" if kind == "oracle" else ""
    return [
        f"Against {title} ({value} %{at}): {'; '.join(each)}." for value, each in by_value.items()
    ]


def compare_with(record: Record, baseline: float) -> str:
    """Return in words where a share stands to a baseline.

    Args:
        record: of the share, with its interval.
        baseline: a share.
    """
    value, (low, high) = record["value"], interval_of(record)
    if low > baseline:
        return "far above" if value - baseline >= FAR else "above"
    if high < baseline:
        return "below"
    if value == baseline:
        return "the same"
    return f"{'above' if value > baseline else 'below'}, within its 95 % interval"


def _describe_worst_size(best: Measured) -> str:
    """Return the group of sizes that is far worse than all images; empty where none is."""
    worst = _find_worst(best, "size")
    if worst is None:
        return ""
    name = worst["class"].removeprefix("size: ")
    return f"Far worse: {name} objects, {_describe_group(worst)}."


def _describe_worst_class(best: Measured) -> str:
    """Return the class that is far worse than all images; empty where none is."""
    worst = _find_worst(best, "class")
    if worst is None:
        return ""
    return f"The worst class: {worst['class']}, {_describe_group(worst)}."


def _find_worst(best: Measured, group: str) -> Record | None:
    """Return the worst group where it is far worse than all, and its interval is too."""
    limit = _used(best)["value"] - FAR_WORSE
    records = [
        record
        for record in best.of_groups(LOC, group)
        if record["iou"] == RIGHT_IOU
        and record["n"] >= MIN_GROUP
        and record["method"] == best.saliency
        and wilson_interval(round(record["value"] * record["n"]), record["n"])[1] < limit
    ]
    return min(records, key=lambda record: record["value"], default=None)


def _describe_group(record: Record) -> str:
    """Return how many of a group are right."""
    right = round(record["value"] * record["n"])
    return f"{right} of {record['n']} right"
