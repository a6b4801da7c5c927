"""What a run measured of each image, and paired comparisons of two such measurements."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.formats.arrays import read_arrays
from pipeline.metric.box_counts import f1_of
from pipeline.metric.components import THRESHOLDS
from pipeline.metric.max_box_acc import MaxBoxAcc, MaxBoxAccV2
from pipeline.ops.bootstrap import BitRows, Comparison, Rows, compare, first
from pipeline.results.table import to_percent
from pipeline.types import Score

if TYPE_CHECKING:
    from jaxtyping import Bool
from typing import TYPE_CHECKING

from pipeline.ops.bootstrap import Statistic

if TYPE_CHECKING:
    from jaxtyping import Bool

SIGNIFICANCE_LEVEL = 0.05  # below this p a difference is called one
TEST = "randomization test of paired images, 2000 swaps; 95 % percentile bootstrap"
FILE = "rows.safetensors"


# -- what a run measured -------------------------------------------------------------------------


@dataclass(frozen=True)
class Measurement:
    """Stage evaluate's rows.safetensors: a row for each image, read where it is used."""

    path: Path
    called: str
    arrays: Mapping[str, np.ndarray]
    notes: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path, called: str) -> Measurement:
        arrays, notes = read_arrays(path)
        return cls(path, called, arrays, notes)

    @property
    def ids(self) -> list[str]:
        return list(self.notes["ids"])

    @property
    def protocol(self) -> str:
        return str(self.notes["protocol"])

    @property
    def reached(self) -> float:
        """GT-known Loc at IoU 0.5 and the threshold used."""
        return float((self.arrays["iou"] >= 0.5).mean()) if len(self.ids) else 0.0

    def shared(self, other: Measurement) -> tuple[list[str], list[str]]:
        """The images that both scored against the same boxes, and what to say about the rest."""
        true = dict(zip(other.ids, other.notes["true"], strict=True))
        both = [(id, box) for id, box in zip(self.ids, self.notes["true"], strict=True)
                if id in true]  # fmt: skip
        same = [id for id, box in both if true[id] == box]
        notes = []
        if changed := len(both) - len(same):
            notes.append(
                f"{changed} images have other annotated boxes in {other.called} than in "
                f"{self.called}: not compared"
            )
        alone = len(self.ids) + len(other.ids) - 2 * len(both)
        if alone:
            notes.append(f"{alone} images were scored in one of {self.called} and {other.called} "
                         "alone: not compared")  # fmt: skip
        return same, notes

    def pairs(self, ids: Sequence[str]) -> dict[Place, Pairs]:
        """By name, IoU and threshold; of these images, in this order."""
        position = {id: n for n, id in enumerate(self.ids)}
        rows = np.array([position[id] for id in ids], int)
        return dict(self._pairs({name: values[rows] for name, values in self.arrays.items()}, ids))

    def _pairs(
        self, arrays: Mapping[str, np.ndarray], ids: Sequence[str]
    ) -> Iterator[tuple[Place, Pairs]]:
        ious = [float(iou) for iou in self.notes["ious"]]
        used = str((self.notes["threshold"] or {"kind": ""})["kind"])
        iou, first_right = arrays["iou"], arrays["rank"] == 0
        for delta in by_interest(ious):
            yield ("gt_known_loc", delta, ""), Pairs(iou >= delta, first, ids, used)
        if "validation_iou" in arrays:
            for delta in by_interest(ious):
                right = arrays["validation_iou"][:, ious.index(delta)] >= delta
                place = ("gt_known_loc", delta, "validation")
                yield place, Pairs(right, first, ids, "validation")
        for metric in (MaxBoxAccV2(), MaxBoxAcc()):
            at = None if len(metric.ious) > 1 else metric.ious[0]
            bits = BitRows.of(arrays[metric.name], len(metric.ious) * len(THRESHOLDS))
            yield (metric.name, at, "oracle"), Pairs(bits, metric.statistic, ids, "oracle")
        for delta in by_interest(ious):
            yield ("top1_loc", delta, ""), Pairs((iou >= delta) & first_right, first, ids, used)
        yield ("mean_iou", None, ""), Pairs(iou, first, ids, used)
        for delta in by_interest(ious):
            counts = arrays["counts"][:, ious.index(delta)]
            yield ("box_f1", delta, ""), Pairs(counts, f1_of, ids, used)
        yield ("pointing_game", None, ""), Pairs(arrays["hit"], first, ids)
        yield ("energy_pointing_game", None, ""), Pairs(arrays["energy"], first, ids)


def by_interest(ious: Sequence[float]) -> list[float]:
    """The one nearest to 0.5 first: it is what a sentence is about."""
    return sorted(ious, key=lambda iou: (abs(iou - 0.5), iou))


# -- two of them, compared -----------------------------------------------------------------------

TITLES = {
    "gt_known_loc": "GT-known Loc",
    "top1_loc": "Top-1 Loc",
    "mean_iou": "mean IoU",
    "box_f1": "box F1",
    "max_box_acc": "MaxBoxAcc",
    "max_box_acc_v2": "MaxBoxAccV2",
    "pointing_game": "pointing game",
    "energy_pointing_game": "energy pointing game",
    "pxap": "PxAP",
}


def differences(
    mine: Mapping[Place, Pairs],
    other: Mapping[Place, Pairs],
    called: Sequence[str],
    unit: str,
    seed: int,
    times: int = 1,
) -> list[dict[str, Any]]:
    """Each number that both have, on the images that both have: record, sentence, and whether it
    is one of the few to show first."""
    found: list[dict[str, Any]] = []
    told: set[tuple[str, str]] = set()
    for place, pair in mine.items():
        if place not in other:
            continue
        name, iou, kind = place
        rows_a, rows_b = _same_images(pair, other[place])
        if not len(rows_a):
            continue
        result = compare(rows_a, rows_b, pair.statistic, seed=seed)
        result = replace(result, p_value=min(1.0, times * result.p_value))
        what = TITLES[name] + (f" at IoU {iou:g}" if iou is not None else "")
        what += {"oracle": " (oracle)", "validation": " (validation threshold)"}.get(kind, "")
        record = {
            **Score(
                f"difference:{name}",
                result.difference,
                result.n,
                iou,
                {"kind": pair.threshold, "value": None} if pair.threshold else None,
                None,
                result.interval,
                f"{called[1]} - {called[0]}",
            ).record(),
            "group": None,
            "p_value": result.p_value,
        }
        found.append({
            "headline": name in HEADLINE and (name, kind) not in told,
            "sentence": sentence_of(result, what, called, unit),
            "record": record,
        })  # fmt: skip
        told.add((name, kind))
    return found


HEADLINE = ("gt_known_loc", "max_box_acc_v2")


def _same_images(a: Pairs, b: Pairs) -> tuple[Rows, Rows]:
    if a.ids == b.ids:
        return a.rows, b.rows
    both = set(a.ids) & set(b.ids)
    return tuple(  # type: ignore[return-value]
        _chosen(one.rows, np.array([image in both for image in one.ids], bool)) for one in (a, b)
    )


def _chosen(rows: Any, select: Bool[np.ndarray, n]) -> Rows:
    picked: Rows = rows[select] if isinstance(rows, np.ndarray) else rows.chosen(select)
    return picked


def sentence_of(told: Comparison, what: str, called: Sequence[str], unit: str) -> str:
    """`B is better by 2.1 points ...`, or that these images cannot tell."""
    low, high = told.interval
    points = f"95 %: {to_percent(low)} to {to_percent(high)}, p = {told.p_value:.2g}"
    if told.p_value < SIGNIFICANCE_LEVEL and (low > 0 or high < 0):
        better, worse = (called[1], called[0]) if told.difference > 0 else (called[0], called[1])
        if told.difference < 0:
            points = f"95 %: {to_percent(-high)} to {to_percent(-low)}, p = {told.p_value:.2g}"
        by = to_percent(abs(told.difference))
        return f"{better} is better than {worse} by {by} points in {what} ({points})"
    return (
        f"no difference that {told.n} {unit} could tell between {called[0]} and {called[1]} in "
        f"{what}: {to_percent(told.difference)} points ({points})"
    )


Place = tuple[str, float | None, str]
"""Name, IoU, and which threshold where a number is given at several: "validation", "oracle"."""


@dataclass(frozen=True)
class Pairs:
    """What a paired comparison takes: a row for each image, and the metric of their means."""

    rows: Rows
    statistic: Statistic
    ids: Sequence[Any]  # of the rows, in order
    threshold: str = ""
