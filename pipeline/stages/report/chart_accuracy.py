"""Charts of how good the boxes are: over the threshold, by IoU, and precision over recall.

    threshold          share of units whose box of the largest component has IoU >= d, at each
                       threshold of the map
    IoU histogram      how many units have an IoU in [k/20, (k+1)/20) of box and annotated box
    precision, recall  of all boxes with at least a score, for each score that occurs

A unit is an image, or a pair of an image and one of its classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pipeline.results.table import to_percent
from pipeline.stages.report.chart_parts import (
    Axis,
    Chart,
    Mark,
    Reference,
    Series,
    Table,
    describe_counts,
    iou_toggle,
    method_toggle,
    name_series,
    percent_axis,
    round_points,
    short_unit,
)
from pipeline.stages.report.measured import Measured

if TYPE_CHECKING:
    from jaxtyping import Float, Int

BINS = 20  # of IoU
TABLE_STEP = 5  # each fifth point of a curve has a row in its table
KINDS = ("fixed", "auto", "validation", "oracle")


def count_ious(ious: Float[np.ndarray, n]) -> Int[np.ndarray, 20]:
    """Count IoUs in 20 bins of equal width; each holds its lower end, the last also 1.

    Examples:
        >>> count_ious(np.array([0.0, 0.3, 0.5, 1.0])).nonzero()[0].tolist()
        [0, 6, 10, 19]
    """
    ends = np.arange(1, BINS) / BINS
    return np.bincount(np.searchsorted(ends, ious, side="right"), minlength=BINS)


def draw_threshold(methods: Sequence[Measured], unit: str) -> Chart:
    """Return GT-known Loc over the threshold, a line for each method and IoU, thresholds marked."""
    ious, names = methods[0].ious, [each.method for each in methods]
    series, marks = [], []
    for number, each in enumerate(methods):
        for line in each.curve["lines"]:
            keys = [number, ious.index(line["iou"])]
            name = name_series(each.method, line["iou"], names)
            series.append(Series(name=name, keys=keys, points=round_points(line["points"])))
        marks += list_marks(each, number)
    count = describe_counts([each.count for each in methods], unit)
    return Chart(
        key="threshold",
        kind="lines",
        title="GT-known Loc over the threshold",
        sentence=(
            f"Percent of {count} whose box fits. The box is that of the map's largest component "
            "at this threshold; it fits where its IoU with an annotated box is at least that of "
            f"the line. {describe_kinds(marks, methods)}"
        ),
        x=Axis(label="threshold, fraction of the map's maximum", low=0, high=1, format="fraction"),
        y=percent_axis(f"{short_unit(unit)} localized"),
        toggles=[method_toggle(names), iou_toggle(ious, len(names) > 1)],
        series=series,
        marks=marks,
        table=tabulate_lines("threshold", series),
    )


def list_marks(measured: Measured, number: int) -> list[Mark]:
    """Return GT-known Loc at each kind of threshold, for each IoU of a line.

    Args:
        measured: a method.
        number: its number among the methods.
    """
    marks = []
    for record in measured.overall("gt_known_loc"):
        if record["threshold"] is None or record["iou"] not in measured.ious:
            continue
        value = record["threshold"].get("value")
        at = "" if value is None else f" at {describe_value(value)}"
        marks.append(
            Mark(
                kind=record["threshold"]["kind"],
                keys=[number, measured.ious.index(record["iou"])],
                x=None if value is None else round(float(np.mean(value)), 4),
                y=round(record["value"], 5),
                text=f"{to_percent(record['value'])} %{at}",
            )
        )
    return sorted(marks, key=lambda mark: (mark.keys, KINDS.index(mark.kind)))


def describe_value(value: float | Sequence[float]) -> str:
    """Return a threshold as a text; of thresholds of several halves, all."""
    each = value if isinstance(value, Sequence) else [value]
    return " and ".join(f"{number:.2f}" for number in each)


def describe_kinds(marks: Sequence[Mark], methods: Sequence[Measured]) -> str:
    """Describe in a sentence the kinds of threshold that are marked, and which the boxes have."""
    sources = {
        record["threshold"].get("source", "")
        for each in methods
        for record in each.overall("gt_known_loc")
        if record["threshold"] and record["threshold"]["kind"] == "validation"
    }
    source = ", ".join(sorted(filter(None, sources))).replace("_", "-")
    meanings = {
        "fixed": "fixed, a number that was given",
        "auto": "auto, chosen for each map by a rule without boxes (no single threshold: a "
        "horizontal line)",
        "validation": "validation, chosen on images that are not scored"
        + (f" ({source})" if source else ""),
        "oracle": "oracle, chosen on the scored images themselves and so optimistic",
    }
    there = {mark.kind for mark in marks}
    refined = (
        " Lines are of the maps as the method made them; the boxes of this run are cut from those "
        "that the segmenter made of map and image."
    )
    more = refined if any(each.has_refined_maps for each in methods) else ""
    marked = "; ".join(meanings[kind] for kind in KINDS if kind in there)
    return f"Marked: {marked}. {describe_used(methods)}{more}"


def describe_used(methods: Sequence[Measured]) -> str:
    """Return at which threshold the boxes were cut, in a sentence; empty where it has no kind."""
    kinds = dict.fromkeys(each.threshold_text for each in methods if each.threshold_text)
    return f"The boxes of this run are of threshold kind {', '.join(kinds)}." if kinds else ""


def draw_iou_histogram(methods: Sequence[Measured], unit: str) -> Chart:
    """Return how many units have an IoU in each of 20 bins, for each method."""
    names = [each.method for each in methods]
    counts = [count_ious(each.iou) for each in methods]
    lower = np.arange(BINS) / BINS
    series = [
        Series(name=name, keys=[n], points=round_points(zip(lower, of_bins, strict=True)))
        for n, (name, of_bins) in enumerate(zip(names, counts, strict=True))
    ]
    high = max(int(of_bins.max()) for of_bins in counts)
    nothing = [f"{int((each.iou == 0).sum())}" for each in methods]
    means = [f"{float(each.iou.mean()):.3f}" for each in methods]
    return Chart(
        key="iou_histogram",
        kind="steps",
        title="Histogram of IoU",
        sentence=(
            f"IoU of the best-scored box of each of {_count(methods, unit)} with the annotated "
            f"box that it fits best; {', '.join(nothing)} of them touch none, and the mean is "
            f"{', '.join(means)}{_in_order(names)}. Dashed: IoU 0.5. {describe_used(methods)}"
        ),
        x=Axis(label="IoU, in 20 bins of 0.05", low=0, high=1, format="fraction"),
        y=Axis(label=f"number of {unit}", low=0, high=high, format="integer"),
        toggles=[method_toggle(names)],
        series=series,
        references=[Reference(name="IoU 0.5", points=[(0.5, 0), (0.5, high)])],
        table=Table(
            head=["IoU", *names],
            rows=[
                [f"{low:.2f} to {low + 1 / BINS:.2f}", *(str(of_bins[n]) for of_bins in counts)]
                for n, low in enumerate(lower)
            ],
        ),
    )


def draw_precision_recall(methods: Sequence[Measured], unit: str) -> Chart | None:
    """Return precision over recall of all boxes; None where no box was found."""
    ious, names = methods[0].ious, [each.method for each in methods]
    series = [
        Series(
            name=name_series(each.method, line["iou"], names),
            keys=[number, ious.index(line["iou"])],
            points=round_points(line["points"]),
        )
        for number, each in enumerate(methods)
        for line in each.curve["precision_recall"]
    ]
    if not series:
        return None
    return Chart(
        key="precision_recall",
        kind="lines",
        title="Precision over recall of all boxes",
        sentence=(
            f"All boxes of {_count(methods, unit)}, best score first: what share of them fits an "
            "annotated box of the class with the IoU of the line, each annotated box once, over "
            f"the share of annotated boxes found. The right end is all boxes. "
            f"{describe_used(methods)}"
        ),
        x=percent_axis("recall: annotated boxes found"),
        y=percent_axis("precision: boxes that fit"),
        toggles=[method_toggle(names), iou_toggle(ious, len(names) > 1)],
        series=series,
        table=tabulate_ends(series),
    )


def tabulate_lines(title: str, series: Sequence[Series]) -> Table:
    """Return each fifth point of lines that share their x, a column for each line."""
    places = range(0, len(series[0].points), TABLE_STEP)
    rows = [
        [f"{series[0].points[n][0]:.2f}", *(f"{to_percent(s.points[n][1])} %" for s in series)]
        for n in places
    ]
    return Table(head=[title, *(line.name for line in series)], rows=rows)


def tabulate_ends(series: Sequence[Series]) -> Table:
    """Return of each curve of precision over recall the precision at recalls of 0, 0.1 .. 1.

    It is the highest precision from this recall on; nothing where it is not reached.
    """
    tenths = [n / 10 for n in range(11)]
    rows = []
    for tenth in tenths:
        reached = [[y for x, y in line.points if x >= tenth - 1e-9] for line in series]
        cells = [f"{to_percent(max(values))} %" if values else "" for values in reached]
        rows.append([f"at least {to_percent(tenth)} %", *cells])
    return Table(head=["recall", *(line.name for line in series)], rows=rows)


def _count(methods: Sequence[Measured], unit: str) -> str:
    """Return over how many the numbers of methods are."""
    return describe_counts([each.count for each in methods], unit)


def _in_order(names: Sequence[str]) -> str:
    """Return which methods numbers are of, in order; nothing for a method alone."""
    return f" (in order: {', '.join(names)})" if len(names) > 1 else ""
