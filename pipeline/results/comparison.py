"""What was measured of each image, and paired comparisons of two such measurements.

Which rows are compared and by which statistic is for the metrics to say; here are the file that
keeps the rows of a run, the images that two measurements share, and the sentences.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.formats.arrays import read_arrays, read_notes, write_arrays
from pipeline.ops.bootstrap import BitRows, Comparison, compare
from pipeline.ops.text import to_nfc
from pipeline.protocols import Metric
from pipeline.results.table import to_percent
from pipeline.types import (
    EvaluationSettings,
    MetricNumber,
    PairedRows,
    Rows,
    Score,
    Statistic,
)

SIGNIFICANCE_LEVEL = 0.05  # below this p a difference is called one
TEST = "randomization test of paired images, 2000 swaps; 95 % percentile bootstrap"
FILE = "rows.safetensors"
IMAGES = "images"
MAIN_ROWS = "iou"  # of the boxes as they were segmented: their images are those that were scored
AS_SEGMENTED = "as segmented"  # where two runs cut their boxes at different kinds of threshold

Place = tuple[str, float | None, str]
"""Name, IoU, and which threshold where a number is given at several: "validation", "oracle"."""


# -- what was measured ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Pairs:
    """What a paired comparison takes: a row for each image, and the metric of their means."""

    rows: Rows
    statistic: Statistic
    ids: Sequence[str]  # of the rows, in order
    threshold: str = ""


@dataclass(frozen=True)
class RowUnits:
    """What the rows are of, by the name of the array.

    `ids`: unique names; `images`: of which image each is. `true`: what stands for the annotated
    boxes, by id.
    """

    ids: Mapping[str, Sequence[str]]
    images: Mapping[str, Sequence[str]]
    true: Mapping[str, str]


@dataclass(frozen=True)
class Measurement:
    """The rows of all metrics, of one run, results file or folder of maps.

    Attributes:
        called: the name of the run, file or folder.
        arrays: the rows, by name.
        units: what the rows are of.
        protocol: of the evaluation.
        ious: of the evaluation.
        threshold: that boxes were segmented at.
        unit: what a row is of, in the plural.
    """

    called: str
    arrays: Mapping[str, np.ndarray]
    units: RowUnits
    protocol: str
    ious: tuple[float, ...]
    threshold: Mapping[str, Any] | None
    unit: str = IMAGES

    @classmethod
    def read(cls, path: Path, called: str) -> Measurement:
        """Read what stage evaluate wrote of a run."""
        arrays, notes = read_arrays(path)
        # Runs of older versions have ids as the disk spelled them.
        of_array = {name: notes.get("ids_of", {}).get(name, notes["ids"]) for name in arrays}
        ids = {name: list(map(to_nfc, names)) for name, names in of_array.items()}
        true = dict(zip(map(to_nfc, notes["ids"]), notes["true"], strict=True))
        return cls(
            called, arrays, RowUnits(ids, ids, true), str(notes["protocol"]),
            tuple(float(iou) for iou in notes["ious"]), notes["threshold"],
            notes.get("unit", IMAGES),
        )  # fmt: skip

    @classmethod
    def read_scored(cls, path: Path) -> tuple[str, list[str], str]:
        """Read of such a file protocol, ids that were scored and their unit, and no rows."""
        notes = read_notes(path)
        return str(notes["protocol"]), list(map(to_nfc, notes["ids"])), notes.get("unit", IMAGES)

    def write(self, path: Path, method: str) -> None:
        """Write the rows of a run; those of other images than the scored ones name theirs."""
        main = self.ids
        write_arrays(
            path,
            dict(self.arrays),
            method=method,
            protocol=self.protocol,
            ious=self.ious,
            threshold=self.threshold,
            ids=main,
            true=[self.units.true[id] for id in main],
            ids_of={name: ids for name, ids in self.units.ids.items() if list(ids) != main},
            **({} if self.unit == IMAGES else {"unit": self.unit}),
        )

    @property
    def ids(self) -> list[str]:
        """Return what was scored: the names of images, or of images and classes."""
        return list(self.units.ids.get(MAIN_ROWS, ()))

    @property
    def gt_known_loc(self) -> float:
        """Return GT-known Loc at IoU 0.5 of the boxes as they were segmented."""
        return float((self.arrays[MAIN_ROWS] >= 0.5).mean()) if self.ids else 0.0

    def shared(self, other: Measurement) -> tuple[list[str], list[str]]:
        """Return the images that both scored against the same boxes, and notes about the rest."""
        there, ours = set(other.ids), self.units.true
        both = [id for id in self.ids if id in there]
        same = [id for id in both if ours[id] == other.units.true[id]]
        notes = []
        if changed := len(both) - len(same):
            notes.append(
                f"{changed} {self.unit} have other annotated boxes in {other.called} than in "
                f"{self.called}: not compared"
            )
        alone = len(self.ids) + len(there) - 2 * len(both)
        if alone:
            notes.append(f"{alone} {self.unit} were scored in one of {self.called} and "
                         f"{other.called} alone: not compared")  # fmt: skip
        return same, notes

    def pairs(
        self, metrics: Iterable[Metric], ids: Sequence[str] | None = None
    ) -> dict[Place, Pairs]:
        """Return what is compared, by name, IoU and threshold; of these images alone, if given."""
        settings = EvaluationSettings(ious=self.ious, threshold=self.threshold)
        found: dict[Place, Pairs] = {}
        for metric in metrics:
            names = metric.row_names
            if not names or not set(names) <= self.arrays.keys():
                continue
            for pair in metric.with_settings(settings).pairs(self.arrays):
                whole = self._with_ids(pair, names[0])
                kept = whole if ids is None else take(whole, ids)
                found[pair.name, pair.iou, pair.kind] = kept
        return found

    def _with_ids(self, pair: PairedRows, array: str) -> Pairs:
        ids = self.units.images[array] if pair.by_image else self.units.ids[array]
        if not pair.by_image or len(set(ids)) == len(ids):
            return Pairs(pair.rows, pair.statistic, ids, pair.threshold)
        place = {id: n for n, id in enumerate(dict.fromkeys(ids))}
        rows = np.asarray(pair.rows[:])
        total = np.zeros((len(place), *rows.shape[1:]), rows.dtype)
        np.add.at(total, [place[id] for id in ids], rows)
        return Pairs(total, pair.statistic, list(place), pair.threshold)


def take(pairs: Pairs, ids: Sequence[str]) -> Pairs:
    """Return the rows of these ids, in this order; ids without a row are left out."""
    position = {id: n for n, id in enumerate(pairs.ids)}
    kept = [id for id in ids if id in position]
    if kept == list(pairs.ids):
        return pairs
    wanted = np.array([position[id] for id in kept], int)
    rows = pairs.rows
    if isinstance(rows, BitRows):
        return replace(pairs, rows=BitRows.of(rows.packed[wanted], rows.width), ids=kept)
    return replace(pairs, rows=np.asarray(rows[:])[wanted], ids=kept)


# -- two of them, compared -----------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ComparisonSettings:
    """How a and b are compared.

    Attributes:
        called: what a and b are called.
        numbers: what the metrics say of their numbers, by name.
        unit: what a row is of, in the plural.
        seed: of the randomization test and the bootstrap.
        times: how many comparisons are made; p is multiplied by it (Bonferroni).
        first: names of numbers that come before all others.
    """

    called: tuple[str, str]
    numbers: Mapping[str, MetricNumber]
    unit: str = IMAGES
    seed: int = 0
    times: int = 1
    first: Sequence[str] = ()


def differences(
    a: Mapping[Place, Pairs], b: Mapping[Place, Pairs], settings: ComparisonSettings
) -> list[dict[str, Any]]:
    """Compare each number that both have, on the images that both have: b - a.

    Returns:
        A dict for each: record, sentence, title, and whether it is one of the few to show first.
    """
    found: list[dict[str, Any]] = []
    shown: set[tuple[str, str]] = set()
    for place in sort_places(a.keys() & b.keys(), settings.numbers, settings.first):
        ids = set(b[place].ids)
        ours = take(a[place], [id for id in a[place].ids if id in ids])
        if not len(ours.ids):
            continue
        name, _, kind = place
        is_first = (name, kind) not in shown
        shown.add((name, kind))
        difference = _difference(place, ours, take(b[place], ours.ids), settings)
        is_headline = settings.numbers[name].is_headline and is_first
        found.append({"headline": is_headline, **difference})
    return found


def _difference(place: Place, a: Pairs, b: Pairs, settings: ComparisonSettings) -> dict[str, Any]:
    """Compare a number on the same images."""
    name, iou, kind = place
    number = settings.numbers[name]
    result = compare(a.rows, b.rows, a.statistic, seed=settings.seed)
    result = replace(result, p_value=min(1.0, settings.times * result.p_value))
    what = number.title + (f" at IoU {iou:g}" if iou is not None else "")
    what += {"oracle": " (oracle)", "validation": " (validation threshold)"}.get(kind, "")
    return {
        "sentence": sentence_of(
            result, what, settings.called, settings.unit, number, times=settings.times
        ),
        "title": number.title,
        "record": _record(result, place, settings.called, a.threshold, b.threshold),
    }


def sort_places(
    places: Iterable[Place], numbers: Mapping[str, MetricNumber], first: Sequence[str] = ()
) -> list[Place]:
    """Return places as a comparison shows them: by number, threshold and IoU.

    IoU 0.5 comes before the others, as a sentence is about it, unless it is about what is `first`.
    """

    def order(place: Place) -> tuple[Any, ...]:
        name, iou, kind = place
        before = first.index(name) if name in first else len(first)
        at = ("", "validation", "oracle").index(kind)
        near = 0.0 if iou is None or first else abs(iou - 0.5)
        return before, numbers[name].comparison_order, name, at, near, iou or 0.0

    return sorted(places, key=order)


def _record(
    result: Comparison, place: Place, called: Sequence[str], kind_a: str, kind_b: str
) -> dict[str, Any]:
    kind = kind_a if kind_a == kind_b else AS_SEGMENTED
    score = Score(
        f"difference:{place[0]}",
        result.difference,
        result.n,
        place[1],
        {"kind": kind, "value": None} if kind else None,
        None,
        result.interval,
        f"{called[1]} - {called[0]}",
    )
    return {**score.record(), "p_value": result.p_value}


PERCENT = MetricNumber(name="", title="")


def sentence_of(
    result: Comparison,
    what: str,
    called: Sequence[str],
    unit: str,
    number: MetricNumber = PERCENT,
    *,
    times: int = 1,
) -> str:
    """Return `B is better by 2.1 points ...`, or that these images cannot tell.

    `times`: how many comparisons p was corrected for.
    """
    low, high = result.interval
    p = f"p = {result.p_value:.2g}" + (f", corrected for {times} comparisons" if times > 1 else "")
    points = f"95 %: {_shown(low, number)} to {_shown(high, number)}, {p}"
    counted = "points" if number.unit == "percent" else number.unit
    is_unlikely, excludes_zero = result.p_value < SIGNIFICANCE_LEVEL, low > 0 or high < 0
    if is_unlikely and excludes_zero:
        b_is_better = (result.difference > 0) != number.lower_is_better
        better, worse = (called[1], called[0]) if b_is_better else (called[0], called[1])
        if result.difference < 0:
            points = f"95 %: {_shown(-high, number)} to {_shown(-low, number)}, {p}"
        by = _shown(abs(result.difference), number)
        over = f"over {result.n} {unit}"
        return f"{better} is better than {worse} by {by} {counted} in {what} {over} ({points})"
    reason = ""
    if excludes_zero:
        reason = (
            f"; the interval excludes 0, but p is not below {SIGNIFICANCE_LEVEL:g}: needed are both"
        )
    elif is_unlikely:
        reason = (
            f"; p is below {SIGNIFICANCE_LEVEL:g}, but the interval includes 0: needed are both"
        )
    return (
        f"no difference that {result.n} {unit} could tell between {called[0]} and {called[1]} in "
        f"{what}: {called[1]} minus {called[0]} is {_shown(result.difference, number)} {counted} "
        f"({points}{reason})"
    )


def _shown(value: float, number: MetricNumber) -> str:
    return to_percent(value) if number.unit == "percent" else f"{value:.3g}"
