"""The table of a method: the main numbers in percent, a row each, for terminal and report.

table.json   head, rows, cards (the few to look at first), advice on the threshold, classes
table.txt    the rows as a terminal shows them
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.types import Score

# A row each, in this order, for each kind of threshold where `True`: a number at each IoU.
ROWS = {
    "gt_known_loc": ("GT-known Loc", True),
    "top1_loc": ("Top-1 Loc", True),
    "top5_loc": ("Top-5 Loc", True),
    "ilsvrc_loc_error": ("ILSVRC localization error", True),
    "corloc": ("CorLoc", True),
    "mean_iou": ("mean IoU", True),
    "box_f1": ("box F1, precision/recall", True),
    "coco_box_ap": ("COCO AP, boxes", False),
    "coco_mask_ap": ("COCO AP, masks", False),
    "full_image_loc": ("full image", True),
    "centre_box_loc": ("best centre box", True),
    # MaxBoxAcc is no row: it is GT-known Loc (oracle) at IoU 0.5 by definition.
    "max_box_acc_v2": ("MaxBoxAccV2", True),
    "pyramid_max_box_acc_v2": ("centred pyramid, V2", True),
    "pointing_game": ("pointing game, energy-based", False),
    "pxap": ("PxAP", False),
    "pxiou": ("PxIoU", True),
    "pyramid_pxap": ("centred pyramid, PxAP", False),
    "classification_top1": ("classification, top-1", False),
    "classification_top5": ("classification, top-5", False),
}
BASELINES = ("full_image_loc", "centre_box_loc", "pyramid_max_box_acc_v2", "pyramid_pxap")
# In metrics.json alone. PxIoU at a threshold for all: its oracle stands beside PxAP.
LEFT_OUT = (("pxiou", "fixed"), ("pxiou", "auto"), ("pxiou", "validation"))
BESIDE = {"box_f1": ("box_precision", "box_recall"), "pointing_game": ("energy_pointing_game",)}
# What is told at several thresholds; the boxes' own, the one used, comes first in metrics.json.
CHOSEN = ("validation", "oracle")  # thresholds that differ from number to number
FAR_BEHIND = 0.05  # of the oracle: then the threshold is worth a word


def build_table(scores: Sequence[Score], classes: Sequence[str]) -> dict[str, Any]:
    """The main numbers in percent, a row each, a column for each IoU."""
    # Among five classes the true one is always within the first five.
    headline = [s for s in scores if s.label is None and (len(classes) > 5 or "top5" not in s.name)]
    ious = sorted({s.iou for s in headline if s.iou is not None and s.name == "gt_known_loc"})
    rows: list[dict[str, Any]] = []
    for name, (title, by_kind) in ROWS.items():
        every = [s for s in headline if s.name == name and (s.name, _kind(s)) not in LEFT_OUT]
        for kind in dict.fromkeys(_kind(s) for s in every):
            own = {s.iou: s for s in every if _kind(s) == kind}
            cells = [_cell(own.get(iou), kind in CHOSEN) for iou in ious]
            cells.append(_cell(own.get(None), kind in CHOSEN))
            for n, iou in enumerate((*ious, None)):
                cells[n] += _beside(own.get(iou), headline)
            named = f"{title}{_named(own, kind) if by_kind else ''}"
            rows.append({"cells": [named, *cells], "baseline": name in BASELINES})
    head = ["percent", *(f"IoU {iou:g}" for iou in ious), "mean" if ious else "all images"]
    return {"head": head, "rows": rows, "cards": _cards(headline), "advice": _advice(headline),
            "classes": _per_class(scores, classes, _used(headline))}  # fmt: skip


Place = tuple[str, float | None, str]  # name, IoU, kind of threshold; "own": that of the boxes


def _used(headline: Sequence[Score]) -> str:
    """The kind of threshold that the boxes were cut at."""
    return next((_kind(s) for s in headline if s.name == "gt_known_loc"), "")


def _place(score: Score, used: str) -> Place:
    return score.name, score.iou, "own" if _kind(score) in ("", used) else _kind(score)


def _kind(score: Score) -> str:
    return "" if score.threshold is None else str(score.threshold["kind"])


def _named(own: Mapping[float | None, Score], kind: str) -> str:
    told = [kind]
    if kind not in CHOSEN:
        values = dict.fromkeys(s.threshold["value"] for s in own.values() if s.threshold)
        told += [f"{value:g}" for value in values if value is not None]
        told += dict.fromkeys(s.threshold["rule"] for s in own.values()
                              if s.threshold and "rule" in s.threshold)  # fmt: skip
    return kind and f" ({' '.join(told)})"


def to_percent(value: float) -> str:
    """Equal shares are written alike, however they were added up; nothing has no sign."""
    return f"{round(100 * value, 9):z.1f}"


def _beside(score: Score | None, headline: Sequence[Score]) -> str:
    """` (66.7/50.0)`: what a number is made of, or its kin, in the same cell; at IoU 0.5."""
    names = () if score is None or score.iou not in (0.5, None) else BESIDE.get(score.name, ())
    kin = {s.name: s for s in headline if score is not None and s.iou == score.iou}
    values = [to_percent(kin[name].value) for name in names if name in kin]
    return f" ({'/'.join(values)})" if values else ""


def _cell(score: Score | None, with_threshold: bool) -> str:
    if score is None:
        return ""
    at = ""
    if (
        with_threshold
        and score.threshold is not None
        and not isinstance(score.threshold["value"], list)
    ):
        at = f" @{score.threshold['value']:.2f}"
    return f"{to_percent(score.value)}{at}"


CARDS: dict[Place, tuple[str, str, Place | None]] = {
    ("gt_known_loc", 0.5, "own"): (
        "GT-known Loc", "full image", ("full_image_loc", 0.5, "own")),
    ("gt_known_loc", 0.5, "auto"): (
        "GT-known Loc", "full image", ("full_image_loc", 0.5, "own")),
    ("gt_known_loc", 0.5, "validation"): (
        "GT-known Loc", "full image", ("full_image_loc", 0.5, "own")),
    ("gt_known_loc", 0.5, "oracle"): (
        "GT-known Loc", "best centre box", ("centre_box_loc", 0.5, "oracle")),
    ("max_box_acc_v2", None, "oracle"): (
        "MaxBoxAccV2", "centred pyramid", ("pyramid_max_box_acc_v2", None, "oracle")),
    ("top1_loc", 0.5, "own"): ("Top-1 Loc", "", None),
    ("classification_top1", None, "own"): ("classification, top-1", "", None),
}  # fmt: skip


def _cards(headline: Sequence[Score]) -> list[dict[str, Any]]:
    """The few numbers to look at first, each beside what knows nothing of the image."""
    used = _used(headline)
    found = {_place(s, used): s for s in headline}
    return [
        {
            "title": title,
            "at": _stands_on(found[place]),
            "number": found[place].value,
            "value": _cell(found[place], False),
            "threshold": _cell(found[place], _kind(found[place]) in CHOSEN).partition(" ")[2],
            "spread": _spread(found[place]),
            "n": found[place].n,
            "of_boxes": not place[0].startswith("classification"),
            "baseline": [baseline, to_percent(found[beside].value)] if beside in found else None,
        }
        for place, (title, baseline, beside) in CARDS.items()
        if place in found
    ]


def _stands_on(score: Score) -> str:
    at = "" if score.iou is None else f"IoU {score.iou:g}"
    return ", ".join(filter(None, [at, _named({score.iou: score}, _kind(score)).strip(" ()")]))


def _spread(score: Score) -> str:
    """The 95 % interval in words. Where all images agree the bootstrap has no width, which would be
    read as certainty: there it is Wilson's bound (JASA 1927), n / (n + z^2) for a share of 1."""
    if score.value in (0, 1):
        bound = score.n / (score.n + 1.96**2)
        return (f"at least {to_percent(bound)} (Wilson)" if score.value else
                f"at most {to_percent(1 - bound)} (Wilson)")  # fmt: skip
    if score.interval is None:
        return ""
    return f"{to_percent(score.interval[0])} to {to_percent(score.interval[1])}"


def _advice(headline: Sequence[Score]) -> str | None:
    """Where the boxes' threshold is far from the best: what is better, and may be used."""
    used = _used(headline)
    found = {s.threshold["kind"]: s for s in headline
             if s.name == "gt_known_loc" and s.iou == 0.5 and s.threshold}  # fmt: skip
    if used not in ("fixed", "auto") or "oracle" not in found:
        return None
    reached = {kind: to_percent(s.value) for kind, s in found.items()}
    at = {kind: s.threshold["value"] for kind, s in found.items() if s.threshold}
    if found["oracle"].value - found[used].value < FAR_BEHIND:
        return None
    own = f"the fixed {at['fixed']:g}" if used == "fixed" else "each map's own"
    advice = (
        f"At IoU 0.5 the curve prefers a threshold of {at['oracle']:.2f} ({reached['oracle']} %) "
        f"to {own} ({reached[used]} %); it was chosen on the very images that are scored, so what "
        "it reaches here is optimistic."
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


def _per_class(scores: Sequence[Score], classes: Sequence[str], used: str) -> dict[str, Any] | None:
    columns: dict[str, Place] = {
        "GT-known @0.5": ("gt_known_loc", 0.5, "own"),
        "auto": ("gt_known_loc", 0.5, "auto"),
        "validation": ("gt_known_loc", 0.5, "validation"),
        "oracle": ("gt_known_loc", 0.5, "oracle"),
        "MaxBoxAccV2": ("max_box_acc_v2", None, "oracle"),
        "top-1": ("classification_top1", None, "own"),
    }
    found = {(s.label, _place(s, used)): s for s in scores if s.label is not None}
    there = {place for _, place in found}
    columns = {title: place for title, place in columns.items() if place in there}
    rows = []
    for name in classes:
        own = [found.get((name, place)) for place in columns.values()]
        counted = next((s.n for s in own if s is not None), 0)
        rows.append([name, str(counted), *(_cell(s, False) for s in own)])
    return {"head": ["class", "n", *columns], "rows": rows} if found else None


def format_table(method: str, table: Mapping[str, Any]) -> str:
    """The table as a terminal shows it."""
    lines = [[f"{method}, {table['head'][0]}", *table["head"][1:]]]
    lines += [row["cells"] for row in table["rows"]]
    widths = [max(len(line[n]) for line in lines) for n in range(len(lines[0]))]
    text = [
        "  ".join([line[0].ljust(widths[0]),
                   *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))]).rstrip()
        for line in lines
    ]  # fmt: skip
    text.insert(1, "-" * max(map(len, text)))
    return "\n".join(text) + "\n"
