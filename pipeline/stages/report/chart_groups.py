"""Charts of groups of images: by class, by the size and by the number of their objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.metric.groups import LARGE, NUMBERS, SIZES, SMALL
from pipeline.ops.wilson import wilson_interval
from pipeline.results.table import to_percent
from pipeline.stages.report.chart_accuracy import describe_used
from pipeline.stages.report.chart_parts import (
    Axis,
    Chart,
    Series,
    Table,
    iou_toggle,
    method_toggle,
    name_series,
    percent_axis,
    short_unit,
)
from pipeline.stages.report.measured import Measured

GROUPS: tuple[tuple[Literal["size", "number"], tuple[str, ...]], ...] = (
    ("size", SIZES),
    ("number", NUMBERS),
)


@dataclass(frozen=True, kw_only=True)
class ClassRow:
    """A class in the table of classes.

    Attributes:
        name: of the class.
        count: how many units it has.
        values: of each method and column, in percent; None: not measured.
    """

    name: str
    count: int
    values: Sequence[Sequence[float | None]]


@dataclass(frozen=True, kw_only=True)
class ClassTable:
    """The numbers of each class, a table that can be sorted.

    Attributes:
        key, title, sentence: as those of a chart.
        unit: what `count` counts.
        methods: the names of the methods.
        columns: the titles of the numbers.
        rows: a class each.
    """

    key: str
    title: str
    sentence: str
    unit: str
    methods: Sequence[str]
    columns: Sequence[str]
    rows: Sequence[ClassRow]
    kind: str = "classes"


def list_classes(methods: Sequence[Measured], unit: str) -> ClassTable | None:
    """Return the table of classes, from the tables of the methods; None where there is none.

    Numbers are those that the metrics show for classes, as stage evaluate rounded them.
    """
    tables = [each.classes for each in methods if each.classes and each.classes["rows"]]
    if len(tables) < len(methods) or not tables:
        return None
    columns = list(dict.fromkeys(name for table in tables for name in table["head"][2:]))
    cells = [_cells_by_class(table) for table in tables]
    rows = [
        ClassRow(
            name=name,
            count=int(count),
            values=[[of_class[name].get(column) for column in columns] for of_class in cells],
        )
        for name, count, *_ in tables[0]["rows"]
    ]
    return ClassTable(
        key="classes",
        title="Per class",
        sentence=(
            f"Percent of the {unit} of a class; n is their number. {describe_used(methods)} Of few "
            f"{unit} a difference may be chance."
        ),
        unit=unit,
        methods=[each.method for each in methods],
        columns=columns,
        rows=rows,
    )


def _cells_by_class(table: Mapping[str, Any]) -> dict[str, dict[str, float | None]]:
    """Return the numbers of each class by their columns."""
    columns = table["head"][2:]
    return {
        name: {
            column: float(cell) if cell else None
            for column, cell in zip(columns, cells, strict=True)
        }
        for name, _, *cells in table["rows"]
    }


def draw_groups(methods: Sequence[Measured], unit: str) -> Chart | None:
    """Return GT-known Loc by the size and the number of objects; None where it has no groups."""
    records = [_records_of_groups(each) for each in methods]
    categories = [
        label
        for group, names in GROUPS
        for label in (f"{group}: {name}" for name in names)
        if any(label in of_method for of_method in records)
    ]
    if not categories:
        return None
    names, ious = [each.method for each in methods], methods[0].ious
    series = [
        _series_of_groups(of_method, categories, iou, name_series(each.method, iou, names), keys)
        for number, (each, of_method) in enumerate(zip(methods, records, strict=True))
        for keys, iou in (([number, place], iou) for place, iou in enumerate(ious))
    ]
    return Chart(
        key="groups",
        kind="categories",
        title="GT-known Loc by size and number of objects",
        sentence=(
            f"Percent of the {unit} of a group, with 95 % intervals (bootstrap; Wilson's for 0 "
            "and 100 %); n is their number. Size is the share of the image that the largest "
            f"annotated box of the class covers: small below {100 * SMALL:.0f} %, medium below "
            f"{100 * LARGE:.0f} %. {describe_used(methods)}"
        ),
        x=Axis(label="group of images", low=-0.5, high=len(categories) - 0.5, format="integer"),
        y=percent_axis(f"{short_unit(unit)} localized"),
        toggles=[method_toggle(names), iou_toggle(ious, len(names) > 1)],
        series=series,
        categories=[_title(label, records) for label in categories],
        table=_tabulate(categories, series),
    )


def _records_of_groups(measured: Measured) -> dict[str, dict[float, Mapping[str, Any]]]:
    """Return the records of GT-known Loc by group and IoU."""
    by_group: dict[str, dict[float, Mapping[str, Any]]] = {}
    for group, _ in GROUPS:
        for record in measured.of_groups("gt_known_loc", group):
            by_group.setdefault(record["class"], {})[record["iou"]] = record
    return by_group


def _series_of_groups(
    records: Mapping[str, Mapping[float, Mapping[str, Any]]],
    categories: Sequence[str],
    iou: float,
    name: str,
    keys: Sequence[int],
) -> Series:
    """Return the values of a method at an IoU, a point for each group that it has."""
    there = [
        (place, record)
        for place, label in enumerate(categories)
        if (record := records.get(label, {}).get(iou)) is not None
    ]
    return Series(
        name=name,
        keys=keys,
        points=[(place, round(record["value"], 5)) for place, record in there],
        bounds=[find_bounds(record) for _, record in there],
        counts=[record["n"] for _, record in there],
    )


def find_bounds(record: Mapping[str, Any]) -> tuple[float, float] | None:
    """Return the 95 % interval of a share; None where it has none.

    Where all images agree, the bootstrap has no width, which would be read as certainty: there it
    is Wilson's.

    Args:
        record: of metrics.json.
    """
    if record["interval"] is None:
        return None
    low, high = record["interval"]
    if record["value"] in (0, 1):
        low, high = wilson_interval(round(record["value"] * record["n"]), record["n"])
    return round(low, 5), round(high, 5)


def _title(label: str, records: Sequence[Mapping[str, Mapping[float, Mapping[str, Any]]]]) -> str:
    """Return the name of a group with over how many its values are."""
    counts = {r["n"] for of_method in records for r in of_method.get(label, {}).values()}
    ends = dict.fromkeys((min(counts), max(counts)))
    return f"{label.partition(': ')[2]}, n {' to '.join(map(str, ends))}"


def _tabulate(categories: Sequence[str], series: Sequence[Series]) -> Table:
    """Return values with their intervals and numbers, a row for each group."""
    cells: list[dict[int, str]] = []
    for line in series:
        assert line.bounds is not None
        assert line.counts is not None
        cells.append(
            {
                int(place): f"{to_percent(value)} %{_describe_bounds(bounds)}, n {count}"
                for (place, value), bounds, count in zip(
                    line.points, line.bounds, line.counts, strict=True
                )
            }
        )
    rows = [[label, *(of_line.get(n, "") for of_line in cells)]
            for n, label in enumerate(categories)]  # fmt: skip
    return Table(head=["group", *(line.name for line in series)], rows=rows)


def _describe_bounds(bounds: tuple[float, float] | None) -> str:
    """Return an interval in percent as a text."""
    return "" if bounds is None else f" ({to_percent(bounds[0])} to {to_percent(bounds[1])})"
