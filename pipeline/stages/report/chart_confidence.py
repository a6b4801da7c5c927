"""Charts of confidences: their histogram, whether they are probabilities, and what review gains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.results.table import to_percent
from pipeline.stages.report.chart_parts import (
    Axis,
    Chart,
    Reference,
    Series,
    Table,
    describe_counts,
    method_toggle,
    percent_axis,
    round_points,
)
from pipeline.stages.report.words import MethodResult

BINS = 20  # of confidence
OF_BOXES = "boxes, the best of each image and class"


def draw_confidence(results: Sequence[MethodResult]) -> list[Chart]:
    """Return the charts that there is enough for: histogram, reliability, coverage."""
    charts = [draw_confidence_histogram(results)]
    known = [result for result in results if result.confidence is not None]
    if known:
        charts += [draw_reliability(known), draw_coverage(known)]
    return [chart for chart in charts if chart is not None]


def draw_confidence_histogram(results: Sequence[MethodResult]) -> Chart | None:
    """Return how many boxes have a confidence in each of 20 bins; None without confidences."""
    of_method = {
        result.method: np.array([r["confidence"] for r in result.images if "confidence" in r])
        for result in results
    }
    of_method = {name: values for name, values in of_method.items() if len(values)}
    if not of_method:
        return None
    names = list(of_method)
    lower, ends = np.arange(BINS) / BINS, np.arange(1, BINS) / BINS
    counts = [
        np.bincount(np.searchsorted(ends, values, side="right"), minlength=BINS)
        for values in of_method.values()
    ]
    high = max(int(each.max()) for each in counts)
    count = describe_counts(map(len, of_method.values()), OF_BOXES)
    return Chart(
        key="confidence_histogram",
        kind="steps",
        title="Histogram of confidence",
        sentence=f"{count}. {results[0].confidence_kind}",
        x=Axis(label="confidence, in 20 bins of 0.05", low=0, high=1, format="fraction"),
        y=Axis(label="number of boxes", low=0, high=high, format="integer"),
        toggles=[method_toggle(names)],
        series=[
            Series(name=name, keys=[n], points=round_points(zip(lower, each, strict=True)))
            for n, (name, each) in enumerate(zip(names, counts, strict=True))
        ],
        table=Table(
            head=["confidence", *names],
            rows=[
                [f"{low:.2f} to {low + 1 / BINS:.2f}", *(str(each[n]) for each in counts)]
                for n, low in enumerate(lower)
            ],
        ),
    )


def draw_reliability(results: Sequence[MethodResult]) -> Chart:
    """Return the share of right boxes in groups by confidence; each result has confidences."""
    names, described = (
        [result.method for result in results],
        [_confidence(each) for each in results],
    )
    series = [
        Series(
            name=name,
            keys=[n],
            points=round_points((bin["confidence"], bin["right"]) for bin in each["bins"]),
            bounds=round_points((bin["low"], bin["high"]) for bin in each["bins"]),
            counts=[bin["count"] for bin in each["bins"]],
        )
        for n, (name, each) in enumerate(zip(names, described, strict=True))
    ]
    sizes = sorted({bin["count"] for each in described for bin in each["bins"]})
    group = " to ".join(str(size) for size in dict.fromkeys((sizes[0], sizes[-1])))
    errors = "; ".join(
        _describe_error(name, each, len(names)) for name, each in zip(names, described, strict=True)
    )
    return Chart(
        key="reliability",
        kind="dots",
        title="Reliability of confidence",
        sentence=(
            f"{_count(described)}, in groups of {group} by confidence: how many are right (IoU at "
            f"least 0.5), with 95 % intervals (Wilson). Dashed: perfect. {errors}. "
            f"{described[0]['kind']}"
        ),
        x=percent_axis("mean confidence of a group"),
        y=percent_axis("right boxes"),
        toggles=[method_toggle(names)],
        series=series,
        references=[Reference(name="perfect", points=[(0, 0), (1, 1)])],
        table=_tabulate_bins(names, described),
    )


def draw_coverage(results: Sequence[MethodResult]) -> Chart:
    """Return the share of right boxes among the surest; each result has confidences."""
    names, described = (
        [result.method for result in results],
        [_confidence(each) for each in results],
    )
    series = [
        Series(name=name, keys=[n], points=round_points(each["points"]))
        for n, (name, each) in enumerate(zip(names, described, strict=True))
    ]
    share = described[0]["coverage"]
    references = [Reference(name=f"surest {100 * share:.0f} %", points=[(share, 0), (share, 1)])]
    references += [
        Reference(name="all boxes", points=[(0, each["overall"]), (1, each["overall"])], keys=[n])
        for n, each in enumerate(described)
    ]
    review = " ".join(
        each["sentence"] if len(names) == 1 else f"{name}: {each['sentence']}"
        for name, each in zip(names, described, strict=True)
    )
    return Chart(
        key="coverage",
        kind="lines",
        title="Right boxes among the surest",
        sentence=(
            f"{_count(described)}: how many are right (IoU at least 0.5) where only the surest are "
            f"kept. Dashed: all boxes, which a random choice would keep, and the surest "
            f"{100 * share:.0f} %. {review}"
        ),
        x=percent_axis("boxes kept, the surest first"),
        y=percent_axis("right boxes of those kept"),
        toggles=[method_toggle(names)],
        series=series,
        references=references,
        table=_tabulate_coverage(series),
    )


def _confidence(result: MethodResult) -> dict[str, Any]:
    """Return what is known of the confidences of a method that has enough of them."""
    assert result.confidence is not None
    return result.confidence


def _count(described: Sequence[dict[str, Any]]) -> str:
    """Return over how many scored boxes the numbers are."""
    counts = (sum(bin["count"] for bin in each["bins"]) for each in described)
    return describe_counts(counts, f"scored {OF_BOXES}")


def _describe_error(name: str, each: dict[str, Any], count: int) -> str:
    """Return calibration error and AUC of a method as a text."""
    auc = "" if each["auc"] is None else f", AUC {each['auc']} %"
    of = "" if count == 1 else f"{name}: "
    return f"{of}Expected calibration error {each['error']} %{auc}"


def _tabulate_bins(names: Sequence[str], described: Sequence[dict[str, Any]]) -> Table:
    """Return a row for each group of boxes of each method."""
    rows = [
        [
            name,
            f"{to_percent(bin['confidence'])} %",
            f"{to_percent(bin['right'])} %",
            f"{to_percent(bin['low'])} to {to_percent(bin['high'])}",
            str(bin["count"]),
        ]
        for name, each in zip(names, described, strict=True)
        for bin in each["bins"]
    ]
    return Table(head=["method", "mean confidence", "right", "95 %", "n"], rows=rows)


def _tabulate_coverage(series: Sequence[Series]) -> Table:
    """Return of each line the first point at or above each tenth of the boxes."""
    rows = []
    for tenth in range(1, 11):
        near = [next(p for p in line.points if p[0] >= tenth / 10 - 1e-9) for line in series]
        rows.append([f"{10 * tenth} %", *(f"{to_percent(y)} %" for _, y in near)])
    return Table(head=["boxes kept", *(line.name for line in series)], rows=rows)
