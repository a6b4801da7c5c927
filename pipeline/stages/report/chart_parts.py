"""The parts of a chart of the page: what charts.js draws, as data.

Values are shares of 1 where an axis has the format `percent`. The browser formats and draws them;
it computes none.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

DIGITS = 5  # of a value on the page

Format = Literal["percent", "integer", "number", "fraction"]
Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Axis:
    """An axis: its label with the unit, its range and how its values are written.

    Attributes:
        label: what it measures, with the unit.
        low, high: the range.
        format: `percent` of a share, `integer`, `fraction` with two digits, or `number`.
    """

    label: str
    low: float
    high: float
    format: Format


@dataclass(frozen=True, kw_only=True)
class Toggle:
    """A legend that shows and hides series: by method, or by IoU.

    Attributes:
        title: what the names are of.
        names: of the choices.
        shown: which of them are shown at first.
    """

    title: str
    names: Sequence[str]
    shown: Sequence[bool]


@dataclass(frozen=True, kw_only=True)
class Series:
    """Values that belong together.

    Attributes:
        name: for the tooltip and the table.
        keys: the choice of each toggle that it belongs to.
        points: x and y of each value, by rising x where it is a line.
        bounds: low and high end of the 95 % interval of each value; None: there are none.
        counts: over how many each value is; None: over as many as the chart's sentence says.
    """

    name: str
    keys: Sequence[int]
    points: Sequence[Point]
    bounds: Sequence[Point | None] | None = None
    counts: Sequence[int] | None = None


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A value that stands out of a series, with its own shape and a place in the legend.

    Attributes:
        kind: of the threshold, or `best`.
        keys: those of its series.
        x: None where the value has no single x: it is drawn as a horizontal line.
        y: the value.
        text: what the legend says of it.
    """

    kind: str
    keys: Sequence[int]
    x: float | None
    y: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A dashed line to compare with; `keys`: of the series that it is of, None: of all."""

    name: str
    points: Sequence[Point]
    keys: Sequence[int] | None = None


@dataclass(frozen=True, kw_only=True)
class Table:
    """The values of a chart as texts, for who does not see it."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A chart with two axes.

    Attributes:
        key: its name, unique on the page.
        kind: `lines`; `steps`, a histogram; `dots`, values with intervals; `categories`, such
            values side by side by the names of `categories`, of which x is the number.
        title: a few words.
        sentence: over how many the values are, and at which threshold.
        x, y: the axes.
        toggles: the legends.
        series: the values.
        marks: values that stand out.
        references: lines to compare with.
        categories: the names on the axis x.
        table: the values as texts.
    """

    key: str
    kind: Literal["lines", "steps", "dots", "categories"]
    title: str
    sentence: str
    x: Axis
    y: Axis
    toggles: Sequence[Toggle]
    series: Sequence[Series]
    table: Table
    marks: Sequence[Mark] = ()
    references: Sequence[Reference] = ()
    categories: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Absent:
    """A chart that is not there, and why."""

    title: str
    why: str


def percent_axis(label: str) -> Axis:
    """Return an axis of shares of 1, which are written in percent."""
    return Axis(label=f"{label}, percent", low=0, high=1, format="percent")


def method_toggle(methods: Sequence[str]) -> Toggle:
    """Return the legend of the methods, all shown."""
    return Toggle(title="method", names=list(methods), shown=[True] * len(methods))


def iou_toggle(ious: Sequence[float], many_methods: bool) -> Toggle:
    """Return the legend of the IoUs: all shown for a method, else that of 0.5, or the first.

    Args:
        ious: in order.
        many_methods: whether each IoU has a line for each of several methods.
    """
    first = 0.5 if 0.5 in ious else ious[0]
    shown = [not many_methods or iou == first for iou in ious]
    return Toggle(title="IoU", names=[f"IoU {iou:g}" for iou in ious], shown=shown)


def name_series(method: str, iou: float, methods: Sequence[str]) -> str:
    """Return the name of a line: of the IoU, and of the method where there are several."""
    return f"IoU {iou:g}" if len(methods) == 1 else f"{method}, IoU {iou:g}"


def round_points(points: Iterable[Sequence[float]]) -> list[Point]:
    """Return points with as many digits as the page keeps."""
    return [(round(float(x), DIGITS), round(float(y), DIGITS)) for x, y in points]


def describe_counts(counts: Iterable[int], unit: str) -> str:
    """Return over how many values are, in words: `400 images`, `398 to 400 images`.

    Args:
        counts: of each method, at least one.
        unit: what is counted, in the plural.

    Examples:
        >>> describe_counts([400, 398, 400], "images")
        '398 to 400 images'
    """
    ordered = sorted(set(counts))
    ends = dict.fromkeys((ordered[0], ordered[-1]))
    return f"{' to '.join(map(str, ends))} {unit}"


def short_unit(unit: str) -> str:
    """Return a unit without what stands in brackets, for an axis.

    Examples:
        >>> short_unit("pairs (image, class)")
        'pairs'
    """
    return unit.partition(" (")[0]


def as_record(part: Any) -> dict[str, Any]:
    """Return a part and its parts as JSON has them."""
    return asdict(part)
