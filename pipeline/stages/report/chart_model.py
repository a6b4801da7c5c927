"""The charts of the page as data: what stages evaluate, rank, train and refine left, for charts.js.

    charts   {"list": [chart, ...], "absent": [{"title", "why"}], "methods": [...], "unit": ...}

A chart that needs annotated boxes is there where some were scored; one that has too little to draw
is absent, and the page says why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.results.maps import load_classification
from pipeline.stages.report.chart_accuracy import (
    draw_iou_histogram,
    draw_precision_recall,
    draw_threshold,
)
from pipeline.stages.report.chart_classifier import Confusion, draw_confusion
from pipeline.stages.report.chart_confidence import draw_confidence
from pipeline.stages.report.chart_groups import draw_groups, list_classes
from pipeline.stages.report.chart_parts import Absent, as_record
from pipeline.stages.report.chart_training import draw_object_class, draw_refine, draw_training
from pipeline.stages.report.words import MethodResult

UNITS = "pairs (image, class)"


def chart_model(
    results: Sequence[MethodResult],
    *,
    classes: Sequence[str],
    labels: Sequence[int],
    is_multi_label: bool,
    card: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]] = (),
    held_back: int | None = None,
) -> dict[str, Any]:
    """Return the charts of the page.

    Args:
        results: of the methods, the first is the main one.
        classes: the names of the classes.
        labels: the class of each image of the run, by position; -1 where it has none.
        is_multi_label: whether an image may have several classes.
        card: of the network's checkpoint.
        history: of history.json of stage train; empty where nothing was trained.
        held_back: how many held-back images the accuracy of an epoch is over; None: not known.
    """
    unit = UNITS if is_multi_label else "images"
    charts, absent = _draw_scored(results, unit)
    confidence = draw_confidence(results)
    absent += _explain_confidence(results, {chart.key for chart in confidence})
    confusion: list[Confusion] = []
    if is_multi_label:
        why = "an image may have several classes, so none is taken for another"
        absent.append(Absent(title="Confusion of the classifier", why=why))
    else:
        confusion = _draw_confusions(results, labels, classes)
    training = draw_training(history, card.get("best"), held_back)
    if not training:
        absent.append(Absent(title="Training", why="this run trained no network"))
    charts += [*confidence, *confusion, *training, *_draw_refined(card)]
    return {
        "methods": [result.method for result in results],
        "unit": unit,
        "list": [as_record(chart) for chart in charts],
        "absent": [as_record(each) for each in absent],
    }


def _draw_scored(results: Sequence[MethodResult], unit: str) -> tuple[list[Any], list[Absent]]:
    """Return the charts that need annotated boxes, and those that are absent."""
    measured = [result.measured for result in results]
    scored = [each for each in measured if each.count]
    if not scored:
        why = "no box was scored, as no image has an annotated box of its class"
        return [], [Absent(title="Charts of localization", why=why)]
    absent = [
        Absent(title=f"Charts of localization of {each.method}", why="none of its boxes was scored")
        for each in measured
        if not each.count
    ]
    charts: list[Any] = [draw_iou_histogram(scored, unit)]
    if with_curve := [each for each in scored if each.curve["lines"]]:
        charts.insert(0, draw_threshold(with_curve, unit))
    else:
        why = "no map was measured over the threshold"
        absent.append(Absent(title="GT-known Loc over the threshold", why=why))
    if (precision := draw_precision_recall(scored, unit)) is not None:
        charts.append(precision)
    else:
        absent.append(Absent(title="Precision over recall", why="no box was found"))
    charts += [draw_groups(scored, unit), list_classes(scored, unit)]
    return [chart for chart in charts if chart is not None], absent


def _explain_confidence(results: Sequence[MethodResult], there: set[str]) -> list[Absent]:
    """Return why charts of confidence are absent."""
    if "reliability" in there:
        return []
    title = "Reliability of confidence"
    if all(result.ranking is None for result in results):
        return [Absent(title=title, why="stage rank did not run, so boxes have no confidence")]
    return [Absent(title=title, why="fewer than 20 boxes are scored")]


def _draw_confusions(
    results: Sequence[MethodResult], labels: Sequence[int], classes: Sequence[str]
) -> list[Confusion]:
    """Return the confusions of the classifier, once for all methods that predict the same."""
    seen: list[tuple[str, dict[int, int]]] = []
    for result in results:
        classification = load_classification(result.maps)
        predicted = dict(
            zip(classification.image.tolist(), classification.top[:, 0].tolist(), strict=True)
        )
        if all(predicted != other for _, other in seen):
            seen.append((result.method, predicted))
    drawn = [
        draw_confusion(labels, predicted, classes, method if len(seen) > 1 else "", number)
        for number, (method, predicted) in enumerate(seen)
    ]
    return [confusion for confusion in drawn if confusion is not None]


def _draw_refined(card: Mapping[str, Any]) -> list[Any]:
    """Return the charts of stage refine, where the checkpoint is one of it."""
    if "refine" not in card:
        return []
    charts: list[Any] = draw_refine(card["refine"], card["branches"]["foreground"]["alone"])
    if card["refine"].get("object_class"):
        charts.append(draw_object_class(card["refine"]["object_class"]))
    return charts
