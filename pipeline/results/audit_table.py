"""The table of stage audit: a row for each number, a column for each saliency method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.results.computed import Computed
from pipeline.types import AuditNumber

LOCALIZATION = {
    ("gt_known_loc", "fixed"): "GT-known Loc @0.5, fixed",
    ("gt_known_loc", "oracle"): "GT-known Loc @0.5, oracle",
    ("max_box_acc_v2", "oracle"): "MaxBoxAccV2",
}


def format_audits(
    audits: Sequence[Mapping[str, Any]],
    metrics: Sequence[Mapping[str, Any]],
    numbers: Sequence[AuditNumber],
) -> str:
    """Format the table of all methods of a run, with their localization metrics where available.

    Args:
        audits: The content of audit.json of each method.
        metrics: The records of metrics.json; empty where boxes were not evaluated.
        numbers: The numbers of the tests, in the order of the rows.
    """
    records = {
        (r["name"], r["threshold"]["kind"], r["method"]): r
        for r in metrics
        if r["class"] is None and r["threshold"] and r["iou"] in (0.5, None)
    }
    methods = [audit["method"] for audit in audits]
    rows = {}
    for (name, kind), title in LOCALIZATION.items():
        scores = [records.get((name, kind, method)) for method in methods]
        if any(scores):
            rows[title] = [_cell(score) if score and score["interval"] else "" for score in scores]
    columns = [(audit["method"], audit["numbers"]) for audit in audits]
    return format_audit(columns, numbers, Computed(**audits[0]["computed"]), rows)


def format_audit(
    methods: Sequence[tuple[str, Sequence[Mapping[str, Any]]]],
    numbers: Sequence[AuditNumber],
    computed: Computed,
    localization: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """Format a table of means and confidence intervals, and what they were computed with.

    Args:
        methods: The name of each method, and its records of audit.json.
        numbers: The numbers of the tests, in the order of the rows.
        computed: Precision, device and versions.
        localization: Further rows by title: a localization metric, with a cell for each method.
    """
    by_name = [{r["name"]: r for r in records if r["part"] is None} for _, records in methods]
    rows = [["", "good", *(method for method, _ in methods), "n"]]
    for number in numbers:
        records = [column[number.name] for column in by_name if number.name in column]
        if records:
            cells = [_cell(column.get(number.name)) for column in by_name]
            counts = sorted({record["n"] for record in records})
            rows.append([number.title, number.good, *cells, "-".join(map(str, counts))])
    for title, scores in (localization or {}).items():
        rows.append([title, "high", *scores])
    return f"{_align(rows)}{computed.describe()}\n"


def _cell(record: Mapping[str, Any] | None) -> str:
    """Format the mean and the interval of a record; empty where there is none."""
    if record is None:
        return ""
    low, high = record["interval"]
    return f"{record['value']:z.2f} ({low:z.2f} to {high:z.2f})"


def _align(rows: Sequence[Sequence[str]]) -> str:
    """Align the columns of rows, the first of which is the header."""
    width = max(len(row) for row in rows)
    filled = [[*row, *[""] * (width - len(row))] for row in rows]
    widths = [max(len(row[n]) for row in filled) for n in range(width)]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
             for row in filled]  # fmt: skip
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join(lines) + "\n"
