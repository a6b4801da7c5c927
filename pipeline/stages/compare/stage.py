"""Compare: is this better, or luck? Two measurements of the same images, pair by pair.

    python -m pipeline +experiment=cam saliency=cam_positive against=outputs/latest
    python -m pipeline +experiment=cam 'explain.methods=[cam,cam_positive]'

    comparison.json   each difference b - a, its interval, p, and a sentence

`against=` is another run: each method of this one is compared with the main method of that one. Of
several methods of one run, the best at GT-known Loc (IoU 0.5, the threshold used) is compared with
each of the others. Compared are the boxes as they were segmented, whatever chose the threshold, and
maps at validation and oracle thresholds; which numbers, the metrics say. Only images that both
scored, against the same boxes, count. The test is in
`ops.bootstrap`: rows of the images are swapped at random. What is chosen as the best of several
wins by luck more often than p says: with more than two methods p is multiplied by the number of
comparisons (Bonferroni).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.engine.metrics import list_numbers, load_metrics, metrics_key
from pipeline.engine.run import Run
from pipeline.errors import UserError
from pipeline.formats.files import write_json, write_text
from pipeline.ops.hashing import hash_file
from pipeline.protocols import Metric
from pipeline.results.comparison import FILE, TEST, ComparisonSettings, Measurement, differences

# -- the stage -----------------------------------------------------------------------------------


def check(run: Run) -> None:
    """Raises UserError where there is nothing to compare, or what is named is no run."""
    if run.config["against"] is None:
        if len(run.methods) < 2:
            raise UserError(
                "stages: compare has nothing to compare; give against=RUN, as in "
                "against=outputs/latest, or explain.methods=[a,b]"
            )
        return
    other = against(run.config["against"])
    if other.protocol != run.config["protocol"]:
        raise UserError(
            f"against={run.config['against']}: measured with protocol={other.protocol}, this run "
            f"with protocol={run.config['protocol']}; give the same protocol= to both"
        )
    if not set(other.ids) & set(run.data.ids("val")):
        raise UserError(
            f"against={run.config['against']}: it scored none of the images that this run scores "
            f"({_example(other.ids)} there, {_example(run.data.ids('val'))} here); give a run on "
            "the same data"
        )


def _example(ids: Sequence[str]) -> str:
    return repr(ids[0]) if ids else "none"


def cache_key(run: Run) -> dict[str, Any]:
    key = {
        "source": run.sources(__name__),
        "metrics": metrics_key(),
        "evaluate": [[name, run.for_method(name).key("evaluate")] for name in run.methods],
        "seed": run.config["seed"],
        "against": None,
    }
    if run.config["against"] is None:
        return key
    path, name = against_path(run.config["against"])
    return key | {"against": [name, hash_file(path)]}


def make(run: Run, folder: Path) -> None:
    """Compare this run's methods with another run's main one, and with one another."""
    own = [
        Measurement.read(run.for_method(name).folder("evaluate") / FILE, name)
        for name in run.methods
    ]
    metrics, seed = load_metrics(), run.config["seed"]
    comparisons = []
    if run.config["against"] is not None:
        other = against(run.config["against"])
        for each in own:
            name = "this run" if len(own) == 1 else f"{each.called} of this run"
            comparisons.append(compared(other, replace(each, called=name), metrics, seed))
    if len(own) > 1:
        best = max(own, key=lambda each: each.gt_known_loc)
        rest = [each for each in own if each is not best]
        comparisons += [compared(each, best, metrics, seed, len(rest)) for each in rest]
    found = [comparison for comparison in comparisons if comparison["differences"]]
    write_json(folder / "comparison.json", found, indent=1)
    lines = [line for comparison in found for line in comparison["sentences"]]
    lines += [f"note: {note}" for comparison in comparisons for note in comparison["notes"]]
    write_text(folder / "comparison.txt", "".join(f"{line}\n" for line in lines))


def compared(
    a: Measurement, b: Measurement, metrics: Mapping[str, Metric], seed: int, times: int = 1
) -> dict[str, Any]:
    """Return comparison.json's record of a pair; p is multiplied by `times`."""
    same, notes = a.shared(b)
    if not a.ids and not b.ids:  # nothing is annotated: the report says so
        return {"differences": [], "notes": []}
    called = (a.called, b.called)
    settings = ComparisonSettings(
        called=called, numbers=list_numbers(metrics.values()), seed=seed, times=times
    )
    ours, theirs = (each.pairs(metrics.values(), same) for each in (a, b))
    found = differences(ours, theirs, settings)
    if not found:
        notes.append(f"{a.called} and {b.called}: no image was scored in both")
    headline = [each["sentence"] for each in found if each["headline"]]
    return {"a": a.called, "b": b.called, "sentences": headline, "test": TEST,
            "corrected_for": times, "notes": notes, "differences": found}  # fmt: skip


def against(given: str) -> Measurement:
    """Return the rows of the run that `against=` names."""
    path, name = against_path(given)
    return Measurement.read(path, name)


def against_path(given: str) -> tuple[Path, str]:
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
    raise UserError(
        f"against={given}: it holds no {inside.relative_to(folder)}/{FILE}, so it is no run that "
        "measured boxes, or one of an older version; expected the folder of a run with stage "
        "evaluate, as in against=outputs/latest; +experiment=evaluate compares results files and "
        "folders of maps"
    )
