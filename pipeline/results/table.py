"""The table of a method: the main numbers in percent, a row each, for terminal and report.

table.json   head, rows, cards (the few to look at first), advice on the threshold, classes, what
             the maps were computed with; of an own run, whether any image has annotations
table.txt    the rows as a terminal shows them

Which numbers there are, how they are titled and in which order they come is for the metrics to say.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.ops.wilson import wilson_interval
from pipeline.types import Card, MetricNumber, Score

CHOSEN = ("validation", "oracle")  # thresholds that differ from number to number
GIVEN = "oracle, given"  # chosen by looking at scored images (segmenter.threshold_source=oracle)
FAR_BEHIND = 0.05  # of the oracle: then the threshold is worth a word
COLUMNS = "gt_known_loc"  # the table has a column for each IoU that this is given at

Place = tuple[str, float | None, str]  # name, IoU, kind of threshold; "own": that of the boxes
Numbers = Mapping[str, MetricNumber]
"""What the metrics say of their numbers, by name."""


@dataclass(frozen=True)
class Scored:
    """What the numbers of a table are of.

    Attributes:
        unit: a piece of evidence, in the plural.
        total: how many there are, scored or not; None: not counted.
        computed: what the maps were computed with, a line.
    """

    unit: str = "images"
    total: int | None = None
    computed: str = ""

    def describe(self, n: int) -> str:
        """Return over how many a number is: `over 20 of 24 images`."""
        return f"over {n}" + (f" of {self.total}" * (self.total not in (None, n))) + f" {self.unit}"


def build_table(
    scores: Sequence[Score], classes: Sequence[str], numbers: Numbers, scored: Scored = Scored()
) -> dict[str, Any]:
    """Return table.json: the main numbers, a row each, a column for each IoU.

    The head says over how many images they are; a row over another number of them says so itself.

    `scores`: over all images and of classes; others are left out.
    """
    headline = [s for s in scores if s.label is None
                and len(classes) >= numbers[s.name].min_classes]  # fmt: skip
    ious = sorted({s.iou for s in headline if s.iou is not None and s.name == COLUMNS})
    if not ious:  # without boxes all numbers are of whole images, not of classes in them
        scored = Scored(computed=scored.computed) if scored.unit != "images" else scored
    n = _main_count(headline, numbers)
    rows = [
        row
        for number in sorted(numbers.values(), key=lambda number: (number.order, number.name))
        if number.in_table
        for row in _rows(number, headline, ious, numbers, n)
    ]
    head = [
        f"percent {scored.describe(n)}",
        *(f"IoU {iou:g}" for iou in ious),
        "mean" if ious else "value",
    ]
    cards = [(number, card) for number in numbers.values() for card in number.cards]
    cards.sort(key=lambda one: (one[1].order, one[0].name))
    return {"head": head, "rows": rows, "cards": _cards(headline, cards, numbers),
            "advice": _advice(headline),
            "classes": _per_class(scores, classes, cards, _used(headline), numbers),
            "computed": scored.computed}  # fmt: skip


def _main_count(headline: Sequence[Score], numbers: Numbers) -> int:
    """Return over how many images GT-known Loc is, or what comes first where there is none."""
    order = sorted(headline, key=lambda s: (s.name != COLUMNS, numbers[s.name].order))
    return order[0].n if order else 0


def _rows(
    number: MetricNumber,
    headline: Sequence[Score],
    ious: Sequence[float],
    numbers: Numbers,
    main_count: int,
) -> list[dict[str, Any]]:
    """Return the rows of a number, one for each kind of threshold."""
    own = [s for s in headline if s.name == number.name and _kind(s) not in number.hidden_kinds]
    rows = []
    for kind in dict.fromkeys(_kind(s) for s in own):
        by_iou = {s.iou: s for s in own if _kind(s) == kind}
        cells = [
            _cell(by_iou.get(iou), kind in CHOSEN, number)
            + _beside(by_iou.get(iou), headline, numbers)
            for iou in (*ious, None)
        ]
        title = number.title if number.row is None else number.row
        title += "" if number.unit == "percent" else f", {number.unit}"
        title += _threshold_text(by_iou.values(), kind) if number.names_threshold else ""
        counts = sorted({s.n for s in by_iou.values()})
        if counts != [main_count]:
            title += f", n = {' to '.join(str(n) for n in dict.fromkeys((counts[0], counts[-1])))}"
        rows.append({"cells": [title, *cells], "baseline": number.is_baseline})
    return rows


def _used(headline: Sequence[Score]) -> str:
    """Name the kind of threshold that the boxes were segmented at."""
    return next((_kind(s) for s in headline if s.name == "gt_known_loc"), "")


def _place(score: Score, used: str) -> Place:
    return score.name, score.iou, "own" if _kind(score) in ("", used) else _kind(score)


def _kind(score: Score) -> str:
    if score.threshold is None:
        return ""
    return GIVEN if score.threshold.get("source") == "given" else str(score.threshold["kind"])


def _threshold_text(scores: Iterable[Score], kind: str) -> str:
    """Return ` (fixed 0.2)`: the kind of threshold, and its value where it is one for all."""
    words = [kind]
    if kind not in CHOSEN:
        infos = [s.threshold for s in scores if s.threshold]
        values = dict.fromkeys(info["value"] for info in infos)
        words += [f"{value:g}" for value in values if value is not None]
        words += dict.fromkeys(info["rule"] for info in infos if "rule" in info)
    return kind and f" ({' '.join(words)})"


def to_percent(value: float) -> str:
    """Equal shares are written alike, however they were added up; nothing has no sign."""
    return f"{round(100 * value, 9):z.1f}"


def _beside(score: Score | None, headline: Sequence[Score], numbers: Numbers) -> str:
    """Return ` (66.7/50.0)`: the numbers that are shown in the same cell; at IoU 0.5 or none."""
    if score is None or score.iou not in (0.5, None):
        return ""
    near = {s.name: s for s in headline if s.iou == score.iou}
    names = [name for name in numbers[score.name].beside if name in near]
    values = [_cell(near[name], False, numbers[name]) for name in names]
    return f" ({'/'.join(values)})" if values else ""


def _cell(score: Score | None, with_threshold: bool, number: MetricNumber) -> str:
    if score is None:
        return ""
    value = to_percent(score.value) if number.unit == "percent" else f"{score.value:.3g}"
    at = ""
    if (
        with_threshold
        and score.threshold is not None
        and not isinstance(score.threshold["value"], list)
    ):
        at = f" @{score.threshold['value']:.2f}"
    return f"{value}{at}"


def _cards(
    headline: Sequence[Score], cards: Sequence[tuple[MetricNumber, Card]], numbers: Numbers
) -> list[dict[str, Any]]:
    """Return the few numbers to look at first, each with its baseline."""
    used = _used(headline)
    found = {_place(s, used): s for s in headline}
    return [
        {
            "title": number.title,
            "at": _stands_on(score),
            "number": score.value,
            "value": _cell(score, False, number),
            "threshold": _cell(score, _kind(score) in CHOSEN, number).partition(" ")[2],
            "spread": _spread(score),
            "n": score.n,
            "of_boxes": card.of_method,
            "baseline": _baseline(card, found, numbers),
        }
        for number, card in cards
        if number.unit == "percent"
        and (score := found.get((number.name, card.iou, card.kind))) is not None
    ]


def _baseline(card: Card, found: Mapping[Place, Score], numbers: Numbers) -> list[str] | None:
    """Return title and value of the number that a card is shown with."""
    if card.baseline is None:
        return None
    name, kind = card.baseline
    score = found.get((name, card.iou, kind))
    return None if score is None else [numbers[name].title, _cell(score, False, numbers[name])]


def _stands_on(score: Score) -> str:
    at = "" if score.iou is None else f"IoU {score.iou:g}"
    return ", ".join(filter(None, [at, _threshold_text([score], _kind(score)).strip(" ()")]))


def _spread(score: Score) -> str:
    """Describe the 95 % interval in words.

    Where all images agree the bootstrap has no width, which would be read as certainty: there it is
    Wilson's bound (JASA 1927), n / (n + z^2) for a share of 1. Numbers without an interval, such as
    an average precision, are no share of images.
    """
    if score.interval is None:
        return ""
    if score.value in (0, 1):
        bound, _ = wilson_interval(score.n, score.n)
        return (f"at least {to_percent(bound)} (Wilson)" if score.value else
                f"at most {to_percent(1 - bound)} (Wilson)")  # fmt: skip
    return f"{to_percent(score.interval[0])} to {to_percent(score.interval[1])}"


def _advice(headline: Sequence[Score]) -> str | None:
    """Where the boxes' threshold is far from the best: what is better, and may be used."""
    used = _used(headline)
    found = {_kind(s): s for s in headline
             if s.name == "gt_known_loc" and s.iou == 0.5 and s.threshold}  # fmt: skip
    if used == GIVEN:
        return (
            "The boxes' threshold was chosen by looking at scored images "
            "(segmenter.threshold_source=oracle): what it reaches here is optimistic."
        )
    if used not in ("fixed", "auto") or "oracle" not in found:
        return None
    reached = {kind: to_percent(s.value) for kind, s in found.items()}
    at = {kind: s.threshold["value"] for kind, s in found.items() if s.threshold}
    if found["oracle"].value - found[used].value < FAR_BEHIND:
        return None
    own = f"the fixed {at['fixed']:g}" if used == "fixed" else "each map's own"
    advice = (
        f"At IoU 0.5 a threshold of {at['oracle']:.2f} is best ({reached['oracle']} %; {own}: "
        f"{reached[used]} %); it was chosen on the images that are scored, so what it reaches here "
        "is optimistic."
    )
    better = {
        "validation": "chosen on other images",
        "auto": "chosen for each map by a rule, without boxes",
    }
    told = [
        f"segmenter.threshold={kind}, {how}, reaches {reached[kind]} %"
        for kind, how in better.items()
        if kind in found and kind != used and found[kind].value > found[used].value
    ]
    if told:
        return f"{advice} {'; '.join(told)}."
    return f"{advice} segmenter.threshold={at['oracle']:.2f} would use it."


def _per_class(
    scores: Sequence[Score],
    classes: Sequence[str],
    cards: Sequence[tuple[MetricNumber, Card]],
    used: str,
    numbers: Numbers,
) -> dict[str, Any] | None:
    """Return the table of classes, a column for each card that has one; None without classes."""
    found = {(s.label, _place(s, used)): s for s in scores if s.label is not None}
    there = {place for _, place in found}
    columns = {
        card.column: (number.name, card.iou, card.kind)
        for number, card in cards
        if card.column and (number.name, card.iou, card.kind) in there
    }
    rows = []
    for name in classes:
        own = [found.get((name, place)) for place in columns.values()]
        counted = next((s.n for s in own if s is not None), 0)
        cells = [_cell(s, False, numbers[place[0]])
                 for s, place in zip(own, columns.values(), strict=True)]  # fmt: skip
        rows.append([name, str(counted), *cells])
    return {"head": ["class", "n", *columns], "rows": rows} if found else None


def format_table(method: str, table: Mapping[str, Any]) -> str:
    """Format the table as a terminal shows it."""
    lines = [[f"{method}, {table['head'][0]}", *table["head"][1:]]]
    lines += [row["cells"] for row in table["rows"]]
    widths = [max(len(line[n]) for line in lines) for n in range(len(lines[0]))]
    text = [
        "  ".join([line[0].ljust(widths[0]),
                   *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))]).rstrip()
        for line in lines
    ]  # fmt: skip
    text.insert(1, "-" * max(map(len, text)))
    text += [str(table["computed"])] if table["computed"] else []
    return "\n".join(text) + "\n"
