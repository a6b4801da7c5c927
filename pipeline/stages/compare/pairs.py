"""Two measurements of the same images, compared pair by pair."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.engine.images import SplitImages
from pipeline.engine.latest import find_newest_run
from pipeline.engine.metrics import list_numbers
from pipeline.errors import UserError
from pipeline.formats.files import read_json
from pipeline.ops.label_sets import name_pair
from pipeline.protocols import Metric
from pipeline.results.comparison import FILE, TEST, ComparisonSettings, Measurement, differences


def compare_pair(
    a: Measurement, b: Measurement, metrics: Mapping[str, Metric], seed: int, times: int = 1
) -> dict[str, Any]:
    """Return comparison.json's record of a pair; p is multiplied by `times`."""
    same, notes = a.shared(b)
    if not a.ids and not b.ids:  # nothing is annotated: the report says so
        return {"differences": [], "notes": []}
    called = (a.called, b.called)
    settings = ComparisonSettings(
        called=called, numbers=list_numbers(metrics.values()), unit=a.unit, seed=seed, times=times
    )
    ours, theirs = (each.pairs(metrics.values(), same) for each in (a, b))
    found = differences(ours, theirs, settings)
    if not found:
        boxless = [each.called for each in (a, b) if not each.ids]
        why = f"; {boxless[0]} scored no box, and localization is compared" if boxless else ""
        notes.append(f"{a.called} and {b.called}: no image was scored in both{why}")
    headline = [each["sentence"] for each in found if each["headline"]]
    return {"a": a.called, "b": b.called, "sentences": headline, "test": TEST,
            "corrected_for": times, "notes": notes, "differences": found}  # fmt: skip


def list_pairs(images: SplitImages) -> list[str]:
    """Return the names of the pairs of an image and one of its classes, as they are scored.

    Args:
        images: that may have several classes each.
    """
    classes = images.data.classes
    return [
        name_pair(id, classes[label])
        for position, id in enumerate(images.ids)
        for label in images.classes_of(position)
    ]


def note_precisions(a: Path, b: Path, called: tuple[str, str]) -> list[str]:
    """Return a note where the maps of two runs were not computed alike.

    `a`, `b`: results of stage evaluate.
    """
    first, second = (_describe_precision(folder / "metrics.json") for folder in (a, b))
    if first == second:
        return []
    return [
        f"{called[0]} was computed {first}, {called[1]} {second}: a part of the difference may be "
        "that; run both with the same precision= and runtime.device="
    ]


def _describe_precision(metrics: Path) -> str:
    """Return in which precision and on what the maps of a metrics.json were computed."""
    records = read_json(metrics) if metrics.is_file() else []
    if not records or not records[0].get("precision"):  # as up to version 0.2.0
        return "in a precision that is not recorded"
    return f"in {records[0]['precision']} on {records[0]['device']}"


def find_rows(given: str) -> tuple[Path, str]:
    """Return the file of the rows of the run that `against=` names, and what to call that run.

    Raises UserError where it is not a run that measured boxes.
    """
    place = Path(given)
    if not place.exists():
        raise UserError(
            f"against={given}: no such folder; expected a run of label2box, as in "
            "against=outputs/latest or against=outputs/runs/cam/TIME"
        )
    folder = place.resolve()  # outputs/latest is another one once this run has ended
    inside = folder / "stages/evaluate"
    name = "/".join(folder.parts[-2:])
    for path in (inside / FILE, folder / FILE):
        if path.is_file():
            return path, name
    newest = find_newest_run(place, (f"stages/evaluate/{FILE}",))
    remedy = "against=outputs/runs/NAME/TIME" if newest is None else f"against={newest}"
    raise UserError(
        f"against={given}: it holds no {inside.relative_to(folder)}/{FILE}, so it is no run that "
        "measured boxes, or one of an older version; expected the folder of a run with stage "
        f"evaluate, as in {remedy}; +experiment=evaluate compares results files and folders of maps"
    )
