"""Compare: is this better, or luck? Two measurements of the same images, pair by pair.

    python -m pipeline +experiment=cam saliency=cam_positive against=outputs/latest
    python -m pipeline +experiment=cam 'explain.methods=[cam,cam_positive]'

    comparison.json   each difference b - a, its interval, p, and a sentence

`against=` is another run: each method of this one is compared with the main method of that one. Of
several methods of one run, the best at GT-known Loc (IoU 0.5, the threshold used) is compared with
each of the others. Only images that both scored, against the same boxes, count. The test is in
`ops.bootstrap`: rows of the images are swapped at random. What is chosen as the best of several
wins by luck more often than p says: with more than two methods p is multiplied by the number of
comparisons (Bonferroni).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.engine.run import Run
from pipeline.errors import UserError
from pipeline.formats.files import write_json, write_text
from pipeline.ops.hashing import hash_file
from pipeline.results.comparison import FILE, TEST, Measurement, differences

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
    other = against(run)
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
    made = {
        "source": run.sources(__name__),
        "evaluate": [[name, run.for_method(name).key("evaluate")] for name in run.methods],
        "seed": run.config["seed"],
        "against": None,
    }
    if run.config["against"] is None:
        return made
    other = against(run)
    return made | {"against": [other.called, hash_file(other.path)]}


def make(run: Run, folder: Path) -> None:
    own = [
        Measurement.read(run.for_method(name).folder("evaluate") / FILE, name)
        for name in run.methods
    ]
    comparisons = []
    if run.config["against"] is not None:
        for one in own:
            called = "this run" if len(own) == 1 else f"{one.called} of this run"
            comparisons.append(compared(against(run), replace(one, called=called), run))
    if len(own) > 1:
        best = max(own, key=lambda one: one.reached)
        others = [one for one in own if one is not best]
        comparisons += [compared(one, best, run, times=len(others)) for one in others]
    found = [one for one in comparisons if one["differences"]]
    write_json(folder / "comparison.json", found, indent=1)
    lines = [line for one in found for line in one["sentences"]]
    lines += [f"note: {note}" for one in comparisons for note in one["notes"]]
    write_text(folder / "comparison.txt", "".join(f"{line}\n" for line in lines))


def compared(a: Measurement, b: Measurement, run: Run, times: int = 1) -> dict[str, Any]:
    """comparison.json's record of a pair."""
    same, notes = a.shared(b)
    if not a.ids and not b.ids:  # nothing is annotated: the report says so
        return {"differences": [], "notes": []}
    called = (a.called, b.called)
    found = differences(a.pairs(same), b.pairs(same), called, "images", run.config["seed"], times)
    if not found:
        notes.append(f"{a.called} and {b.called}: no image was scored in both")
    headline = [one["sentence"] for one in found if one["headline"]]
    return {"a": a.called, "b": b.called, "sentences": headline, "test": TEST,
            "corrected_for": times, "notes": notes, "differences": found}  # fmt: skip


def against(run: Run) -> Measurement:
    """What `against=` names. Raises UserError where it is not a run that measured boxes."""
    given = run.config["against"]
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
            return Measurement.read(path, name)
    raise UserError(
        f"against={given}: it holds no {inside.relative_to(folder)}/{FILE}, so it is no run that "
        "measured boxes, or one of an older version; expected the folder of a run with stage "
        "evaluate, as in against=outputs/latest; +experiment=evaluate compares results files and "
        "folders of maps"
    )
