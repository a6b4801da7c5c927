"""Stage audit: tests of whether the maps of a method on a network can be trusted.

    audit.json   all numbers: mean, interval, whether low or high is good
    images.json  the numbers of each image
    audit.txt    the table
    pictures/    one for each test

A few images are chosen evenly from the split; the results of each test of `audit.tests` (a choice
of conf/audit/) are kept in shards, so that a killed run resumes. Maps are of the first class of
`explain.target`, and computed again in float32, so that nothing but the test changes them;
faithfulness runs the network in the precision of the run. A costly test (sanity, max_sensitivity,
fragility) takes tens of passes per image: it gets `audit.few` of the images.

Where an image may have several classes, each pair of an image and a class that the first target
selects has a map and a number. The probability of a class is then its sigmoid, and it is predicted
where that is at least a half.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.engine import checkpoint
from pipeline.engine.choices import build_choices, complete_choice
from pipeline.engine.images import is_multi_label, refuse_empty
from pipeline.engine.sources import hash_sources
from pipeline.engine.stage import Published, Stage
from pipeline.errors import UserError
from pipeline.formats.files import read_json, write_json, write_text
from pipeline.ops.label_sets import PAIRS
from pipeline.ops.text import count_note
from pipeline.results.notes import skipped_note, write_notes
from pipeline.stages.audit.config import AuditOptions

if TYPE_CHECKING:
    from pipeline.engine.checkpoint import Checkpoint
    from pipeline.engine.run import Run
    from pipeline.protocols import AuditTest
    from pipeline.stages.audit.batches import SplitBatches

PASSES = 16  # of an image in a test, at least


class Audit(Stage):
    """Tests of whether maps can be trusted."""

    name = "audit"
    after = ("explain", "evaluate", "compare", "draw")
    needs = ("train",)
    per_method = True
    options = AuditOptions
    publishes = (Published("audit.json", how="append"),)

    def cache_key(self, run: Run) -> dict[str, Any]:
        """Return everything that can change the result."""
        options = run.config["audit"]
        tests = {name: complete_choice("audit", name, options) for name in options["tests"]}
        targets = [str(node["_target_"]).rpartition(".")[0] for node in tests.values()]
        source = run.sources(__name__, "data", "saliency", "segmenter")
        return {
            "source": source | hash_sources(targets),
            "explain": run.cache_key("explain"),
            "segmenter": run.config["segmenter"],
            "audit": options,
            "tests": tests,
            "seed": run.config["seed"],
        }

    def check(self, run: Run) -> None:
        """Raise UserError for impossible targets and methods, and for arguments of tests."""
        if "explain" not in run.config["stages"]:
            run.check_methods()
        build_choices("audit", run.config["audit"]["tests"], run.config["audit"])

    def run(self, run: Run, folder: Path) -> None:
        """Apply all tests to the maps of a method, and write the results.

        Raises:
            UserError: the split has no image.
        """
        from pipeline.engine import shards
        from pipeline.engine.backends import compiled, read_used
        from pipeline.engine.store import list_versions
        from pipeline.results.computed import Computed
        from pipeline.stages.audit import auditing, records
        from pipeline.types import AuditSubject

        options, images = run.config["audit"], run.images()
        tested, notes = self._list_tested(run)
        tests: dict[str, AuditTest] = build_choices("audit", options["tests"], options)
        trained = checkpoint.load(run.checkpoint, run.device)
        batches = self._batches(run, trained)
        subject = AuditSubject(
            trained=trained,
            network_name=checkpoint.network_name(run.checkpoint),
            method=run.method,
            seed=run.config["seed"],
            unit=PAIRS if batches.is_of_pairs else "images",
        )
        if batches.is_of_pairs:
            notes.append(f"each number is a mean over {PAIRS}")
        for name, test in tests.items():
            if reason := test.refusal(subject):
                notes.append(f"{name}: not done; {reason}")
                continue
            few = options["few"] if test.is_costly else None
            chosen = auditing.select_positions(len(tested), options["images"], few)
            positions = [tested[n] for n in chosen]
            shown = positions[: auditing.PIECE * auditing.SHARDS_SHOWN]
            work = partial(auditing.apply_test, test, subject, batches, shown)
            flow = shards.network_flow(images, run.compute, work, shards.concatenate_arrays)
            passes = PASSES * len(positions)
            with compiled([trained.network], run.compute, passes, run.size, folder):
                auditing.write_test(folder / name, f"audit: {name}", positions, flow)
        arrays = {n: records.read_test(folder / n) for n in tests if (folder / n).is_dir()}
        if not any(arrays.values()):
            raise UserError(f"audit: no image could be read; {'; '.join(notes)}")
        ids = images.ids
        skipped = dict(pair for name in arrays for pair in records.list_skipped(folder / name))
        reasons = [reason for _, reason in sorted(skipped.items())]
        supervision = checkpoint.read_supervision(run.checkpoint)
        versions, backend = list_versions(), read_used(folder)
        computed = Computed(run.precision, run.device.type, versions, supervision, backend)
        auditing.write_results(folder, tests, subject, arrays, [*notes, *reasons], computed)
        of_images = records.list_image_records(tests, arrays, ids, run.classes)
        write_json(folder / "images.json", of_images)
        count = len(auditing.select_positions(len(tested), options["images"], None))
        unread = skipped_note("audit", reasons, count, "were not tested")
        write_notes(folder, [*(f"audit: {note}" for note in notes), *unread])

    def _list_tested(self, run: Run) -> tuple[list[int], list[str]]:
        """Return the positions of the images that may be tested, and a note on the others.

        Raises:
            UserError: the split has no image with a class to explain.
        """
        images = run.images()
        refuse_empty(images, self.name)
        without = images.list_backgrounds() if run.targets()[0] == "true" else frozenset[int]()
        tested = [n for n in range(len(images)) if n not in without]
        if not tested:
            raise UserError(
                f"audit: explain.split={run.split}: no image of it shows a class; "
                "explain.split=all takes all images, and data.* say which images are in which split"
            )
        if not without:
            return tested, []
        ids = [images.ids[n] for n in sorted(without)]
        why = f"of {len(images)} labelled as showing no class: not tested, as they have no map"
        return tested, [count_note(ids, "image", why)]

    def _batches(self, run: Run, trained: Checkpoint) -> SplitBatches:
        """Return the builder of the tests' batches."""
        from pipeline.engine.images import segment_map
        from pipeline.ops.probabilities import to_least_logit
        from pipeline.stages.audit.batches import BatchBuilder, SplitBatches

        builder = BatchBuilder(
            network=trained.network,
            method=run.prepared_method(trained),
            segment=partial(segment_map, run.images(), run.segmenter()),
            seed=run.config["seed"],
            is_independent=trained.network.answers == "independent",
        )
        least = run.config["explain"]["min_probability"]
        return SplitBatches(
            builder=builder,
            trained=trained,
            targets=run.targets(),
            negatives=run.negatives,
            has_sets=is_multi_label(run.data),
            least_logit=to_least_logit(trained.network.answers, least),
        )

    def finish(self, run: Run, run_folder: Path) -> Sequence[str]:
        """Write the table over methods, with the metrics of their boxes beside it."""
        from pipeline.results.audit_table import format_audits

        options, metrics = run.config["audit"], run_folder / "metrics.json"
        tests: dict[str, AuditTest] = build_choices("audit", options["tests"], options)
        text = format_audits(
            read_json(run_folder / "audit.json"),
            read_json(metrics) if metrics.is_file() else [],
            [number for test in tests.values() for number in test.numbers],
        )
        write_text(run_folder / "audit.txt", text)
        pictures = sorted(run_folder.glob("stages/audit*"))
        return [text.rstrip("\n"), *(f"pictures   {link / 'pictures'}" for link in pictures)]
