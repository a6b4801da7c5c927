"""The evaluator: evidence from any source to a list of metrics, and their numbers in order."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from pipeline.errors import UserError
from pipeline.metric.groups import NUMBERS, SIZES, number_group, size_group
from pipeline.protocols import Metric
from pipeline.results.comparison import Measurement, RowUnits
from pipeline.stages.evaluate.source import Blocks, Source
from pipeline.types import EvaluationSettings, Evidence, EvidenceKind, Group, Score

if TYPE_CHECKING:
    from jaxtyping import Bool


@dataclass(frozen=True)
class Part:
    """A group of images that numbers are also given for."""

    group: Group
    value: int | str
    label: str


def list_parts(classes: Sequence[str]) -> list[Part]:
    """Return the classes, the sizes of objects and the numbers of objects."""
    return [
        *(Part("class", n, name) for n, name in enumerate(classes)),
        *(Part("size", name, f"size: {name}") for name in SIZES),
        *(Part("number", name, f"number: {name}") for name in NUMBERS),
    ]


@dataclass
class Units:
    """The evidence that came, in order, by name and by the groups that it belongs to."""

    ids: list[str] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    classes: array[int] = field(default_factory=lambda: array("i"))
    sizes: list[str] = field(default_factory=list)
    numbers: list[str] = field(default_factory=list)
    extra: list[bool] = field(default_factory=list)

    def add(self, evidence: Evidence) -> None:
        """Add a piece of evidence; without annotated boxes it is of no size and number."""
        true = evidence.true
        is_annotated = true is not None and len(true) > 0 and evidence.size is not None
        self.ids.append(evidence.id)
        self.images.append(evidence.image)
        self.classes.append(evidence.label)
        self.sizes.append(size_group(true, evidence.size) if is_annotated else "")  # type: ignore[arg-type]
        self.numbers.append(number_group(true) if is_annotated else "")  # type: ignore[arg-type]
        self.extra.append(evidence.is_extra)

    def select(self, part: Part) -> Bool[np.ndarray, n]:
        """Return which of the units belong to a group."""
        if part.group == "class":
            return np.asarray(np.array(self.classes) == part.value, bool)
        values = self.sizes if part.group == "size" else self.numbers
        return np.asarray(np.array(values, object) == part.value, bool)


@dataclass(frozen=True)
class Entry:
    """A metric at work: its accumulator, the block of its numbers and the groups they are for."""

    name: str
    metric: Metric
    block: int
    groups: frozenset[Group]
    positions: array[int]  # of its evidence among the units

    @property
    def needs(self) -> frozenset[EvidenceKind]:
        """Return what evidence the metric needs; those that need the same have the same units."""
        return self.metric.needs


class Evaluator:
    """Accumulates evidence in all metrics whose needs a source meets."""

    def __init__(
        self, metrics: Mapping[str, Metric], blocks: Blocks, settings: EvaluationSettings
    ) -> None:
        self.settings = settings
        self.units = Units()
        shared: dict[frozenset[EvidenceKind], array[int]] = {}  # positions by what is needed
        places = {
            offer.kind: (number, place)
            for number, block in enumerate(blocks)
            for place, offer in enumerate(block)
        }
        groups = {offer.kind: frozenset(offer.groups) for block in blocks for offer in block}
        usable = [name for name, metric in metrics.items() if metric.needs <= places.keys()]

        def order(name: str) -> tuple[Any, ...]:
            metric = metrics[name]
            return (*max(places[kind] for kind in metric.needs), metric.order, name)

        self.entries = [
            Entry(
                name,
                metrics[name].with_settings(settings),
                order(name)[0],
                frozenset(get_args(Group)).intersection(*(groups[k] for k in metrics[name].needs)),
                shared.setdefault(metrics[name].needs, array("q")),
            )
            for name in sorted(usable, key=order)
        ]
        self._by_needs: dict[frozenset[EvidenceKind], list[Metric]] = {}
        for entry in self.entries:
            self._by_needs.setdefault(entry.metric.needs, []).append(entry.metric)
        self._positions = shared

    def update(self, evidence: Evidence) -> None:
        """Give evidence to all metrics that it is enough for."""
        kinds, position = evidence.kinds(), len(self.units.ids)
        self.units.add(evidence)
        for needs, metrics in self._by_needs.items():
            if needs <= kinds:
                self._positions[needs].append(position)
                for metric in metrics:
                    metric.update(evidence)

    def headline(self, method: str) -> list[Score]:
        """Return all numbers over all images."""
        scores = [score for entry in self.entries for score in entry.metric.compute()]
        return [replace(score, method=method) for score in scores]

    def scores(self, method: str) -> list[Score]:
        """Return all numbers, block by block: over all images, then for each group."""
        parts = list(self._parts_with_images(list_parts(self.settings.classes)))
        scores: list[Score] = []
        for block in dict.fromkeys(entry.block for entry in self.entries):
            entries = [entry for entry in self.entries if entry.block == block]
            scores += [score for entry in entries for score in entry.metric.compute()]
            for part in parts:
                selections = self._select(part, entries)
                for entry in entries:
                    scores += _of_part(entry, part, selections[entry.needs])
            for entry in entries:
                scores += [replace(s, group="class") for s in entry.metric.compute_classes()]
        self._check_declared(scores)
        return [replace(score, method=method) for score in scores]

    def _select(
        self, part: Part, entries: Sequence[Entry]
    ) -> dict[frozenset[EvidenceKind], Bool[np.ndarray, n]]:
        """Return which images of a metric belong to a group, by what the metric needs."""
        select = self.units.select(part)
        positions = {entry.needs: entry.positions for entry in entries}
        return {needs: select[np.frombuffer(places, np.int64)] if places else select[:0]
                for needs, places in positions.items()}  # fmt: skip

    def _check_declared(self, scores: Sequence[Score]) -> None:
        """Raise UserError for a number that no metric declares: nobody could title it."""
        declared = {number.name for entry in self.entries for number in entry.metric.numbers}
        if unknown := sorted({score.name for score in scores} - declared):
            raise UserError(
                f"metrics: {', '.join(unknown)} computed, but in no metric's `numbers`; declare "
                "each as a MetricNumber there"
            )

    def _parts_with_images(self, parts: Sequence[Part]) -> Iterator[Part]:
        """Yield the groups that have a unit; boxes of a class that no image has are none."""
        units = self.units
        real = {c for c, extra in zip(units.classes, units.extra, strict=True) if not extra}
        present: dict[str, set[Any]] = {
            "class": real,
            "size": {*units.sizes},
            "number": {*units.numbers},
        }
        yield from (part for part in parts if part.value in present[part.group])

    def measurement(self, name: str, true: Mapping[str, str], protocol: str) -> Measurement:
        """Return the rows of all metrics, for a paired comparison with another measurement.

        `true`: what stands for the annotated boxes, by id. Raises UserError where two metrics name
        their rows alike.
        """
        arrays: dict[str, np.ndarray] = {}
        ids: dict[str, Sequence[str]] = {}
        images: dict[str, Sequence[str]] = {}
        for entry in self.entries:
            rows = entry.metric.rows()
            if both := rows.keys() & arrays.keys():
                raise UserError(
                    f"metric {entry.name}: another metric keeps rows named "
                    f"{', '.join(sorted(both))}, too; give them another name"
                )
            named = [[names[n] for n in entry.positions]
                     for names in (self.units.ids, self.units.images)]  # fmt: skip
            for row, values in rows.items():
                arrays[row] = np.ascontiguousarray(values)
                ids[row], images[row] = named
        return Measurement(
            name, arrays, RowUnits(ids, images, true), protocol, self.settings.ious,
            self.settings.threshold,
        )  # fmt: skip

    def curve(self) -> dict[str, Any]:
        """Return the curves for the report, over the threshold and over recall: curve.json."""
        curves = [dict(line) for entry in self.entries for line in entry.metric.curve()]
        of_axis: dict[str, list[dict[str, Any]]] = {"threshold": [], "recall": []}
        for line in curves:
            of_axis[line.pop("axis", "threshold")].append(line)
        lines = of_axis["threshold"]
        value = (self.settings.threshold or {}).get("value")
        fixed = None if not lines or isinstance(value, list) else value
        return {"fixed": fixed, "lines": lines, "precision_recall": of_axis["recall"]}

    def notes(self) -> list[str]:
        """Return what the metrics have to say."""
        return [note for entry in self.entries for note in entry.metric.notes()]


def _of_part(entry: Entry, part: Part, selected: Bool[np.ndarray, n]) -> list[Score]:
    """Return the numbers of a metric over a group of images; none where it has no image of it.

    `selected`: which of the metric's images belong to the group.
    """
    if part.group not in entry.groups or not selected.any():
        return []
    return [
        replace(score, group=part.group) for score in entry.metric.compute(selected, part.label)
    ]


def evaluate(source: Source, metrics: Mapping[str, Metric]) -> tuple[Evaluator, Iterator[Any]]:
    """Return an evaluator, and the records of images.json, which fill it as they are drawn."""
    evaluator = Evaluator(metrics, source.blocks, source.settings)

    def records() -> Iterator[Any]:
        for item in source.items():
            evaluator.update(item.evidence)
            yield from item.records

    return evaluator, records()
