"""The numbers of stage audit, and the table that shows them: a row a number, a column a method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Number:
    """A number of the table: where its values are, and which way is good."""

    name: str
    title: str
    good: str  # low | high | "" where neither is: how alike two maps are


NUMBERS: dict[str, tuple[Number, ...]] = {
    "faithfulness": (
        Number("deletion", "deletion, area", "low"),
        Number("insertion", "insertion, area", "high"),
        Number("road_morf", "ROAD, most relevant first", "low"),
        Number("road_lerf", "ROAD, least relevant first", "high"),
        Number("road", "ROAD, (LeRF - MoRF) / 2", "high"),
        Number("average_drop", "average drop", "low"),
        Number("increase", "increase in confidence", "high"),
    ),
    "sanity": (
        Number("head_ssim", "head random: SSIM", "low"),
        Number("head_rank", "head random: rank correlation", "low"),
        Number("cascading_ssim", "cascading, mean: SSIM", "low"),
        Number("cascading_rank", "cascading, mean: rank correlation", "low"),
        Number("independent_ssim", "independent, mean: SSIM", "low"),
        Number("independent_rank", "independent, mean: rank correlation", "low"),
    ),
    "input_shift": (
        Number("shift_moved", "input shift: the map moves by", "low"),
        Number("shift_rank", "input shift: rank correlation", "high"),
    ),
    "fragility": (
        Number("random_top_k", "random signs: top pixels kept", "high"),
        Number("random_iou", "random signs: IoU of the boxes", "high"),
        Number("attack_top_k", "attack: top pixels kept", "high"),
        Number("attack_rank", "attack: rank correlation", "high"),
        Number("attack_iou", "attack: IoU of the boxes", "high"),
    ),
}


LOCALIZATION = {
    ("gt_known_loc", "fixed"): "GT-known Loc @0.5, fixed",
    ("gt_known_loc", "oracle"): "GT-known Loc @0.5, oracle",
    ("max_box_acc_v2", "oracle"): "MaxBoxAccV2",
}


def format_audits(audits: Sequence[Mapping[str, Any]], metrics: Sequence[Mapping[str, Any]]) -> str:
    """The table over all methods of a run, with what their boxes are worth where that is known."""
    found = {
        (r["name"], r["threshold"]["kind"], r["method"]): r
        for r in metrics
        if r["class"] is None and r["threshold"] and r["iou"] in (0.5, None)
    }
    names = [one["method"] for one in audits]
    rows = {}
    for (name, kind), title in LOCALIZATION.items():
        every = [found.get((name, kind, method)) for method in names]
        if any(every):
            rows[title] = [_cell(one) if one and one["interval"] else "" for one in every]
    return format_audit([(one["method"], one["numbers"]) for one in audits], rows)


def format_audit(
    methods: Sequence[tuple[str, Sequence[Mapping[str, Any]]]],
    localization: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """A row a number, a column a method: the mean and its interval. `localization`: further rows,
    a cell a method, of what the boxes are worth."""
    titles = {number.name: number for some in NUMBERS.values() for number in some}
    found = [{r["name"]: r for r in records if r["part"] is None} for _, records in methods]
    names = [name for name in titles if any(name in one for one in found)]
    rows = [["", "good", *(name for name, _ in methods), "n"]]
    for name in names:
        cells = [_cell(one.get(name)) for one in found]
        counts = {one[name]["n"] for one in found if name in one}
        rows.append([titles[name].title, titles[name].good, *cells,
                     "-".join(map(str, sorted(counts)))])  # fmt: skip
    for title, cells_of in (localization or {}).items():
        rows.append([title, "high", *cells_of])
    return _align(rows)


def _cell(record: Mapping[str, Any] | None) -> str:
    if record is None:
        return ""
    low, high = record["interval"]
    return f"{record['value']:z.2f} ({low:z.2f} to {high:z.2f})"


def _align(rows: Sequence[Sequence[str]]) -> str:
    width = max(len(row) for row in rows)
    filled = [[*row, *[""] * (width - len(row))] for row in rows]
    widths = [max(len(row[n]) for row in filled) for n in range(width)]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
             for row in filled]  # fmt: skip
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join(lines) + "\n"
