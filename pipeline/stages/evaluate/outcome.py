"""The files of stage evaluate: numbers, table, curve, notes, rows, and the comparison of two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.engine.metrics import list_numbers
from pipeline.errors import UserError
from pipeline.formats.coco_writing import dump
from pipeline.formats.files import atomic_write, write_json, write_text
from pipeline.formats.json_records import write_records
from pipeline.protocols import Metric
from pipeline.results.comparison import FILE, TEST, ComparisonSettings, differences
from pipeline.results.computed import Computed
from pipeline.results.expectation import describe_expected
from pipeline.results.notes import write_notes
from pipeline.results.table import Scored, build_table, format_table
from pipeline.stages.evaluate.evaluator import Evaluator, evaluate
from pipeline.stages.evaluate.own_run import OwnRun
from pipeline.stages.evaluate.refined_maps import RefinedMaps
from pipeline.stages.evaluate.source import Source
from pipeline.stages.evaluate.true_masks import FILE as TRUE_MASKS
from pipeline.types import MetricNumber, Score


@dataclass(frozen=True)
class Outcome:
    """A source that was evaluated."""

    source: Source
    evaluator: Evaluator
    scores: list[Score]
    computed: Computed

    def records(self) -> list[dict[str, Any]]:
        """Return the records of metrics.json."""
        return [score.record() for score in self.scores]

    def table(self, numbers: Mapping[str, MetricNumber]) -> dict[str, Any]:
        """Return table.json: all images, and classes; groups by size and number have no row."""
        shown = [score for score in self.scores if score.group in (None, "class")]
        scored = Scored(self.source.unit, self.source.total, self.computed.describe())
        return build_table(shown, self.source.settings.classes, numbers, scored)

    def notes(self) -> list[str]:
        """Return what was left out."""
        return self.source.notes(self.evaluator.notes())


def score_source(
    source: Source, metrics: Mapping[str, Metric], images: Path, computed: Computed
) -> Outcome:
    """Evaluate a source; the records of its images go to a file as they come.

    `computed`: what its maps were computed with.
    """
    evaluator, records = evaluate(source, metrics)
    with atomic_write(images) as temporary:
        dump(temporary, records)
    return Outcome(source, evaluator, evaluator.scores(source.name), computed)


@dataclass(frozen=True)
class RunSettings:
    """What is known of a run of our own beside what is scored.

    Attributes:
        protocol: how its maps are measured.
        computed: what its maps were computed with.
        expected: records of the accuracy that stage calibrate expects of other images.
        delivered: what it records of boxes that are cut at another threshold; None: they are not.
    """

    protocol: str
    computed: Computed
    expected: Sequence[Mapping[str, Any]] = ()
    delivered: Mapping[str, Any] | None = None


def write_run(
    folder: Path,
    source: OwnRun,
    metrics: Mapping[str, Metric],
    refined: RefinedMaps | None,
    settings: RunSettings,
) -> None:
    """Score a run of our own, and the maps that its segmenter made; write all files."""
    outcome = score_source(source, metrics, folder / "images.json", settings.computed)
    if source.true_masks:  # in the order of the names, whichever thread was the first
        write_json(folder / TRUE_MASKS, [mask for _, mask in sorted(source.true_masks.items())])
    if refined is not None:
        outcome.scores.extend(_headline(refined, metrics))
    table = outcome.table(list_numbers(metrics.values()))
    explained = source.explained
    # The report says what is missing: annotations, where others than those are left out as drawn.
    table["has_annotations"] = bool(explained.truth) or (
        bool(explained.scored) and explained.scored <= explained.drawn
    )
    table["expected"] = describe_expected(settings.expected, settings.delivered)
    records = [*outcome.records(), *settings.expected]
    _write_common(folder, outcome, records, table, outcome.notes())
    measured = outcome.evaluator.measurement(source.name, source.true, settings.protocol)
    replace(measured, unit=source.unit).write(folder / FILE, source.name)
    name = f"saliency={source.name}"
    write_text(folder / "table.txt", format_table(name, table) if table["rows"] else "")


def _headline(source: Source, metrics: Mapping[str, Metric]) -> list[Score]:
    """Return the numbers of a source over all its images."""
    evaluator, records = evaluate(source, metrics)
    for _ in records:
        pass
    return evaluator.headline(source.name)


def write_others(
    folder: Path,
    sources: Sequence[Source],
    metrics: Mapping[str, Metric],
    notes: Sequence[str],
    computed: Computed,
) -> None:
    """Score what others made, and compare where there are two; write all files.

    `notes`: about what they are scored against; `computed`: the versions that score it.
    """
    numbers = list_numbers(metrics.values())
    files = ("images.json", "images_against.json")
    outcomes = [
        score_source(source, metrics, folder / file, computed)
        for source, file in zip(sources, files, strict=False)
    ]
    records = [record for outcome in outcomes for record in outcome.records()]
    tables = [outcome.table(numbers) for outcome in outcomes]
    texts = [format_table(one.source.name, table)
             for one, table in zip(outcomes, tables, strict=True)]  # fmt: skip
    every_note = [*notes, *(note for outcome in outcomes for note in outcome.notes())]
    if len(outcomes) == 2:
        comparison = _compare(outcomes[0], outcomes[1], metrics, numbers)
        write_json(folder / "comparison.json", comparison, indent=1)
        records += [each["record"] for each in comparison["differences"]]
        texts.append(comparison["sentence"] + "\n")
    _write_common(folder, outcomes[0], records, tables[0], every_note)
    write_text(folder / "table.txt", "\n".join(texts))


def _write_common(
    folder: Path,
    outcome: Outcome,
    records: Sequence[Mapping[str, Any]],
    table: Mapping[str, Any],
    notes: Sequence[str],
) -> None:
    computed = outcome.computed.record()
    write_records(folder / "metrics.json", ({**each, **computed} for each in records))
    write_json(folder / "table.json", table)
    write_json(folder / "curve.json", outcome.evaluator.curve())
    write_notes(folder, notes)


def _compare(
    a: Outcome, b: Outcome, metrics: Mapping[str, Metric], numbers: Mapping[str, MetricNumber]
) -> dict[str, Any]:
    """Compare each number that both have, on the images that both have."""
    called = (a.source.name, b.source.name)
    pairs = [
        outcome.evaluator.measurement(name, {}, "").pairs(metrics.values())
        for outcome, name in zip((a, b), called, strict=True)
    ]
    settings = ComparisonSettings(
        called=called,
        numbers=numbers,
        unit=a.source.unit,
        seed=a.source.settings.seed,
        first=a.source.first_compared,
    )
    found = differences(pairs[0], pairs[1], settings)
    if not found:
        raise UserError(
            f"against={called[1]}: no image was scored in both, so nothing can be compared"
        )
    return {
        "a": called[0],
        "b": called[1],
        "sentence": found[0]["sentence"],
        "test": TEST,
        "differences": found,
    }
