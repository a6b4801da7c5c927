"""Audit: can the maps of a method on this network be believed?

    audit.json   all numbers: mean, interval, whether low or high is good
    images.json  the numbers of each image
    audit.txt    the table
    pictures/    one for each test

A few images are chosen evenly from the split; each test of `audit.tests` (a choice of conf/audit/)
is kept in shards of its own, so that a killed run goes on. Maps are of the first class of
`explain.target`, and made anew in float32, so that only the test moves them; faithfulness asks the
network in the precision of the run. A costly test (sanity, fragility) takes tens of passes an
image: it sees `audit.few` of the images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.engine import checkpoint, shards, terminal
from pipeline.engine.choices import build_choices, complete_choice
from pipeline.engine.images import segment_map
from pipeline.engine.methods import check_methods, parse_targets, prepare_method
from pipeline.engine.run import Run, network_name
from pipeline.engine.sources import hash_sources
from pipeline.errors import UserError
from pipeline.formats.files import atomic_write, write_json, write_text
from pipeline.ops.sampling import spread_evenly
from pipeline.protocols import AuditTest
from pipeline.results.audit_table import format_audit
from pipeline.stages.audit.batches import BatchBuilder
from pipeline.stages.audit.records import (
    ArraysOfTests,
    average_numbers,
    list_image_records,
    list_skipped,
    read_test,
)
from pipeline.types import AuditSubject

PIECE = 4  # images that go through a test together
SEEN, SHARDS_SEEN = 2, 2  # of these, in the first shards, are kept as pictures


def cache_key(run: Run) -> dict[str, Any]:
    """Return all that can change the result."""
    options = run.config["audit"]
    tests = {name: complete_choice("audit", name, options) for name in options["tests"]}
    targets = [str(node["_target_"]).rpartition(".")[0] for node in tests.values()]
    return {
        "source": run.sources(__name__, "data", "saliency", "segmenter") | hash_sources(targets),
        "explain": run.cache_key("explain"),
        "segmenter": run.config["segmenter"],
        "audit": options,
        "tests": tests,
        "seed": run.config["seed"],
    }


def check(run: Run) -> None:
    """Refuse what stage explain would refuse, where it does not itself, and tests' arguments.

    Raises:
        UserError: A method, a target or a test's argument cannot be.
    """
    if "explain" not in run.config["stages"]:
        check_methods(run)
    build_choices("audit", run.config["audit"]["tests"], run.config["audit"])


def make(run: Run, folder: Path) -> None:
    """Put the maps of a method through all tests, and write what comes of it."""
    options, ids = run.config["audit"], run.data.ids(run.split)
    if not len(ids):
        raise UserError(f"audit: the split {run.split} has no image; see data.* and explain.split")
    tests: dict[str, AuditTest] = build_choices("audit", options["tests"], options)
    trained = checkpoint.load(run.checkpoint, run.device)
    subject = AuditSubject(
        trained=trained,
        network_name=network_name(run),
        method=run.method,
        seed=run.config["seed"],
    )
    builder = BatchBuilder(
        trained=trained,
        method=prepare_method(run, trained),
        targets=parse_targets(run),
        segment=partial(segment_map, run, run.segmenter()),
        seed=run.config["seed"],
    )
    notes = []
    for name, test in tests.items():
        if reason := test.refusal(subject):
            notes.append(f"{name}: not done; {reason}")
            continue
        few = options["few"] if test.is_costly else None
        positions = select_positions(len(ids), options["images"], few)
        work = partial(apply_test, test, subject, builder, positions[: PIECE * SHARDS_SEEN])
        flow = shards.network_flow(run, run.split, work)
        write_test(folder / name, f"audit: {name}", positions, flow)
    arrays = {name: read_test(folder / name) for name in tests if (folder / name).is_dir()}
    if not any(arrays.values()):
        raise UserError(f"audit: no image could be read; {'; '.join(notes)}")
    for name in arrays:
        notes += [f"{ids[position]}: {reason}" for position, reason in list_skipped(folder / name)]
    notes = list(dict.fromkeys(notes))
    write_results(folder, tests, subject, arrays, notes)
    write_json(folder / "images.json", list_image_records(tests, arrays, ids, run.classes))
    for note in notes:
        terminal.print_line(f"audit: {note}")


def select_positions(count: int, images: int, few: int | None) -> list[int]:
    """Return positions of images, evenly over a split.

    Args:
        count: Images of the split.
        images: Images that a test sees at most.
        few: Of these, how many a costly test sees at most; None: all.
    """
    chosen = spread_evenly(count, images)
    return chosen if few is None else [chosen[n] for n in spread_evenly(len(chosen), few)]


def apply_test(
    test: AuditTest,
    subject: AuditSubject,
    builder: BatchBuilder,
    first: Sequence[int],
    examples: shards.PositionedExamples,
) -> shards.Arrays:
    """Put some images through a test; keep a few to look at where they are among the `first`."""
    batch = builder.build(examples, SEEN if examples[0][0] in first else 0)
    named = {
        "image": shards.stack_positions(examples),
        "class": batch.classes.cpu().numpy().astype(np.int32),
    }
    return {**named, **test(subject, batch)}


def write_test(
    folder: Path,
    title: str,
    positions: Sequence[int],
    flow: Callable[[Iterator[Sequence[int]]], Iterator[tuple[shards.Arrays, shards.Skipped]]],
) -> None:
    """Write the shards of a test that are not there yet.

    Args:
        folder: Of the test.
        title: Of the progress bar.
        positions: Of the images that the test sees.
        flow: From positions of images to the arrays of the test, a batch at a time.
    """
    shards.write_shards(
        folder,
        title,
        len(positions),
        PIECE,
        PIECE,
        lambda pieces: flow([positions[n] for n in piece] for piece in pieces),
        shards.concatenate_parts,
        list(positions),
    )


def write_results(
    folder: Path,
    tests: Mapping[str, AuditTest],
    subject: AuditSubject,
    arrays: ArraysOfTests,
    notes: Sequence[str],
) -> None:
    """Write audit.json, the table and the picture of each test."""
    records = average_numbers(tests, subject, arrays)
    contents = {"method": subject.method, "numbers": records, "notes": notes}
    write_json(folder / "audit.json", contents, indent=1)
    numbers = [number for test in tests.values() for number in test.numbers]
    write_text(folder / "audit.txt", format_audit([(subject.method, records)], numbers))
    for name, values in arrays.items():
        if values:
            picture = tests[name].draw(subject, values)
            with atomic_write(folder / "pictures" / f"{name}.png") as path:
                picture.save(path, "png")
