"""Stage compare: is this better, or luck? Two measurements of the same images, pair by pair.

    python -m pipeline +experiment=cam saliency=cam_positive against=outputs/latest
    python -m pipeline +experiment=cam 'explain.methods=[cam,cam_positive]'
    python -m pipeline +experiment=compare 'runs=[outputs/runs/cam/TIME,outputs/runs/best/TIME]'

    comparison.json   each difference b - a, its interval, p, and a sentence

`against=` is another run: each method of this one is compared with the main method of that one. Of
several methods of one run, or of several `runs=`, the best at GT-known Loc (IoU 0.5, the threshold
used) is compared with each of the others. Compared are the boxes as they were segmented, whatever
chose the threshold, and maps at validation and oracle thresholds; which numbers, the metrics say.
Only images that both scored, against the same boxes, count. The test is in
`ops.bootstrap`: rows of the images are swapped at random. What is chosen as the best of several
wins by luck more often than p says: with more than two methods p is multiplied by the number of
comparisons (Bonferroni).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.engine.compared import name_jobs, open_compared
from pipeline.engine.metrics import load_metrics, metrics_key
from pipeline.engine.stage import Published, Stage
from pipeline.errors import UserError
from pipeline.formats.files import write_json, write_text
from pipeline.ops.hashing import hash_file
from pipeline.results.notes import write_notes

if TYPE_CHECKING:
    from pipeline.engine.run import Run


class Compare(Stage):
    """Paired tests between methods and runs."""

    name = "compare"
    after = ("evaluate",)
    needs = ("evaluate",)
    reads = ("against", "runs")
    publishes = (Published("comparison.json"),)
    prints = "comparison.txt"

    def cache_key(self, run: Run) -> dict[str, Any]:
        """Return all that can change the result."""
        from pipeline.stages.compare.pairs import find_rows

        key = {
            "source": run.sources(__name__),
            "metrics": metrics_key(),
            "evaluate": [[called, job.key("evaluate")] for called, job in name_jobs(run)],
            "seed": run.config["seed"],
            "against": None,
        }
        if run.config["against"] is None:
            return key
        path, name = find_rows(run.config["against"])
        return key | {"against": [name, hash_file(path)]}

    def check(self, run: Run) -> None:
        """Refuse a run with nothing to compare, and an `against=` of other images.

        Raises:
            UserError: there is nothing to compare, or the other run has other images.
        """
        from pipeline.engine.images import is_multi_label
        from pipeline.ops.label_sets import PAIRS
        from pipeline.results.comparison import Measurement
        from pipeline.stages.compare.pairs import find_rows, list_pairs

        given = run.config["against"]
        if run.config["runs"]:
            self._check_runs(run)
        elif given is None and len(run.methods) < 2:
            raise UserError(
                "stages: compare has nothing to compare; give against=RUN, as in "
                "against=outputs/latest, or explain.methods=[a,b]; or +experiment=compare "
                "runs=[A,B]"
            )
        if given is None:
            return
        protocol, scored, unit = Measurement.read_scored(find_rows(given)[0])
        ids = run.images("val").ids
        if (unit == PAIRS) != is_multi_label(run.data):
            raise UserError(
                f"against={given}: it scored {unit}, and this run scores "
                f"{PAIRS if is_multi_label(run.data) else 'images'}; give a run on the same data"
            )
        if unit == PAIRS:
            ids = list_pairs(run.images("val"))
        if protocol != run.config["protocol"]:
            raise UserError(
                f"against={given}: measured with protocol={protocol}, this run with "
                f"protocol={run.config['protocol']}; give the same protocol= to both"
            )
        if not scored:
            raise UserError(
                f"against={given}: that run scored no box, as its data has no annotated boxes, and "
                "against= compares localization; give a run on data with boxes, or leave it away "
                "(classification: metrics.json of both runs)"
            )
        if not set(scored) & set(ids):
            raise UserError(
                f"against={given}: it scored none of the images that this run scores "
                f"({_first(scored)} there, {_first(ids)} here); give a run on the same data"
            )

    def run(self, run: Run, folder: Path) -> None:
        """Compare this run's methods with another run's main one, and with one another."""
        from pipeline.results.comparison import FILE, Measurement
        from pipeline.stages.compare.pairs import compare_pair, find_rows, note_precisions

        measured = [
            Measurement.read(job.folder("evaluate") / FILE, called)
            for called, job in name_jobs(run)
        ]
        metrics, seed = load_metrics(), run.config["seed"]
        comparisons = []
        if run.config["against"] is not None:
            path, called = find_rows(run.config["against"])
            other = Measurement.read(path, called)
            for each in measured:
                name = "this run" if len(measured) == 1 else f"{each.called} of this run"
                pair = compare_pair(other, replace(each, called=name), metrics, seed)
                own = run.for_method(each.called).folder("evaluate")
                pair["notes"] += note_precisions(path.parent, own, (other.called, name))
                comparisons.append(pair)
        if len(measured) > 1:
            best = max(measured, key=lambda each: each.gt_known_loc)
            rest = [each for each in measured if each is not best]
            comparisons += [compare_pair(each, best, metrics, seed, len(rest)) for each in rest]
        compared = [comparison for comparison in comparisons if comparison["differences"]]
        write_json(folder / "comparison.json", compared, indent=1)
        notes = (note for comparison in comparisons for note in comparison["notes"])
        write_notes(folder, [f"compare: {note}" for note in notes])
        lines = [line for comparison in compared for line in comparison["sentences"]]
        write_text(folder / "comparison.txt", "".join(f"{line}\n" for line in lines))

    def _check_runs(self, run: Run) -> None:
        """Refuse runs that cannot be compared.

        Raises:
            UserError: there is one run alone, or one scored no box, other images, or by another
                protocol.
        """
        from pipeline.results.comparison import FILE, Measurement

        given = run.config["runs"]
        if len(given) < 2:
            raise UserError(
                f"runs={given}: expected two runs or more, as in "
                "'runs=[outputs/runs/cam/TIME,outputs/runs/best/TIME]'"
            )
        first: tuple[str, set[str], str] | None = None
        for folder, each in zip(given, open_compared(run), strict=True):
            path = each.folder("evaluate") / FILE
            if each.classes != run.classes:
                raise UserError(
                    f"runs: {folder} and {given[0]} know other classes, or in another order; "
                    "compare runs on the same data"
                )
            protocol, scored, unit = Measurement.read_scored(path)
            if not scored:
                raise UserError(
                    f"runs: {folder} scored no box, as its data has no annotated boxes; compare "
                    "runs on data with boxes"
                )
            if first is None:
                first = protocol, set(scored), unit
            elif protocol != first[0]:
                raise UserError(
                    f"runs: {folder} is measured with protocol={protocol}, {given[0]} with "
                    f"protocol={first[0]}; compare runs of one protocol"
                )
            elif unit != first[2]:
                raise UserError(
                    f"runs: {folder} scored {unit}, {given[0]} {first[2]}; compare runs of one kind"
                )
            elif first[1].isdisjoint(scored):
                raise UserError(
                    f"runs: {folder} and {given[0]} scored no image in common; compare runs on the "
                    "same data"
                )

    def becomes_latest(self, run: Run) -> bool:
        """Return whether the run made something: one that puts others side by side did not."""
        return not run.config["runs"]


def _first(ids: Sequence[str]) -> str:
    return repr(ids[0]) if ids else "none"
