"""What to change: what the threshold and the most frequent causes of the best method suggest.

A threshold moves all boxes at once. It is advised in the direction in which the validation or the
oracle threshold does better, and in none where neither does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.stages.report.causes import CAUSES, Direction
from pipeline.stages.report.measured import Measured
from pipeline.stages.report.verdict import LOC, find_record, rank_methods

GAIN = 0.02  # of another threshold; below it a threshold is not worth a word
SOME = 0.1  # of the wrong boxes: then a fault is one to mend
MAX_CAUSES = 3
WORDS: Mapping[Direction, str] = {"raise": "A higher threshold", "lower": "A lower threshold"}


def list_advice(
    methods: Sequence[Measured],
    given: Mapping[str, str | None],
    causes: Sequence[Mapping[str, Any]],
) -> list[dict[str, str]]:
    """List what to change, the best method first, as `text` and as `note` on what it is for.

    Args:
        methods: what was measured of each.
        given: the advice of stage evaluate on the threshold of each method.
        causes: as the page has them, with a count for each method.
    """
    ranked = rank_methods(methods)
    several = len(methods) > 1
    names = [each.method for each in ranked]
    names += [each.method for each in methods if each.method not in names]
    advice = [
        {"text": text, "note": f"For {name}." if several else ""}
        for name in names[:1]
        if (text := given.get(name))
    ]
    if ranked:
        advice += _advise_on_causes(ranked[0], causes, several)
    return advice + [
        {"text": text, "note": f"For {name}."} for name in names[1:] if (text := given.get(name))
    ]


def _advise_on_causes(
    best: Measured, causes: Sequence[Mapping[str, Any]], several: bool
) -> list[dict[str, str]]:
    """Return what helps against the most frequent causes of a method."""
    name = best.method
    causes_here = sorted(
        (cause for cause in causes if cause["count"].get(name)),
        key=lambda cause: -cause["count"][name],
    )
    wrong = [cause for cause in causes_here if cause["is_box_wrong"]]
    direction = find_direction(best, causes)
    advice: list[dict[str, str]] = []
    faults = _opposite_faults(wrong, name)
    if direction is None and faults:
        advice.append(
            {"text": _describe_opposite(faults, name), "note": _note(faults, name, several)}
        )
        wrong = [cause for cause in wrong if cause not in faults]
    others = [cause for cause in causes_here if not cause["is_box_wrong"]]
    return advice + [
        {"text": _advise(cause, direction), "note": _note([cause], name, several)}
        for cause in [*wrong[: MAX_CAUSES - len(advice)], *others]
    ]


def find_direction(method: Measured, causes: Sequence[Mapping[str, Any]]) -> Direction | None:
    """Return in which direction another threshold does better; None: in neither.

    The validation threshold decides, and where it gains nothing or is not there, the oracle's. A
    threshold that each map has of its own is compared by what its wrong boxes are: mostly too
    large or mostly too small.

    Args:
        method: what was measured.
        causes: as the page has them.
    """
    used = find_record(method, LOC, "used")
    if used is None:
        return None
    others = (find_record(method, LOC, kind) for kind in ("validation", "oracle"))
    better = [
        other for other in others if other is not None and other["value"] >= used["value"] + GAIN
    ]
    if not better:
        return None
    at, value = (used["threshold"] or {}).get("value"), better[0]["threshold"]["value"]
    if isinstance(at, (int, float)) and isinstance(value, (int, float)) and at != value:
        return "raise" if value > at else "lower"
    counts: dict[Direction, int] = {"raise": 0, "lower": 0}
    for cause in causes:
        step = CAUSES[cause["key"]].threshold
        if step is not None:
            counts[step] += cause["count"].get(method.method, 0)
    if counts["raise"] == counts["lower"]:
        return None
    return "raise" if counts["raise"] > counts["lower"] else "lower"


def _opposite_faults(wrong: Sequence[Mapping[str, Any]], name: str) -> list[Mapping[str, Any]]:
    """Return the causes that ask for opposite thresholds, where both occur; else none."""
    total = sum(cause["count"][name] for cause in wrong)
    records = [
        cause
        for cause in wrong
        if cause["key"] in ("part", "context") and cause["count"][name] >= SOME * total
    ]
    return records if len(records) > 1 else []


def _describe_opposite(faults: Sequence[Mapping[str, Any]], name: str) -> str:
    """Return what helps where boxes are too large and too small."""
    counts = {cause["key"]: cause["count"][name] for cause in faults}
    return (
        f"{counts['context']} boxes hold too much and {counts['part']} too little, so that no "
        "threshold mends both. segmenter=grabcut fits boxes to the colours of the object; "
        "+experiment=best trains a localizer that learns whole objects."
    )


def _advise(cause: Mapping[str, Any], direction: Direction | None) -> str:
    """Return what helps against a cause, with the threshold only where it helps."""
    text = CAUSES[cause["key"]]
    if text.threshold is None or text.threshold != direction:
        return text.beside
    return f"{WORDS[direction]} helps here. Or: {text.beside}"


def _note(causes: Sequence[Mapping[str, Any]], name: str, several: bool) -> str:
    """Return what an advice is for."""
    faults = " and ".join(f"{cause['title'].lower()} ({cause['told'][name]})" for cause in causes)
    return f"For {faults}{f', {name}' if several else ''}."
