"""Apply the tests of an audit to the maps of a few images, and write the results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from pipeline.engine import shard_parts, shards
from pipeline.formats.files import atomic_write, write_json, write_text
from pipeline.ops.sampling import spread_evenly
from pipeline.protocols import AuditTest
from pipeline.results.audit_table import format_audit
from pipeline.results.computed import Computed
from pipeline.stages.audit.batches import SplitBatches
from pipeline.stages.audit.records import (
    ArraysOfTests,
    average_numbers,
)
from pipeline.types import AuditBatch, AuditSubject

PIECE = 4  # images in a batch of a test
SHOWN, SHARDS_SHOWN = 2, 2  # images of a batch kept as pictures, and in how many first batches


def select_positions(count: int, images: int, few: int | None) -> list[int]:
    """Select positions of images, evenly over a split.

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
    batches: SplitBatches,
    first: Sequence[int],
    examples: shards.PositionedExamples,
) -> shards.Arrays:
    """Apply a test to a batch of images.

    Args:
        test: The test.
        subject: The method and network under test.
        batches: Builds the batch.
        first: Positions of the first images; if the batch is among them, some are kept as pictures.
        examples: The images with their positions.

    Returns:
        The test's arrays, with `image`, the positions, and `class`, the classes explained.
    """
    built = batches.build(examples, SHOWN if examples[0][0] in first else 0)
    parts = [measure_batch(test, subject, batch) for batch in built]
    return shard_parts.concatenate_parts([(arrays, []) for arrays in parts])[0]


def measure_batch(test: AuditTest, subject: AuditSubject, batch: AuditBatch) -> shards.Arrays:
    """Return the arrays of a test, with `image`, the positions, and `class`, what is explained.

    Args:
        test: The test.
        subject: The method and network under test.
        batch: Images, and how they are explained.
    """
    named = {
        "image": np.array(batch.positions, np.int32),
        "class": batch.classes.cpu().numpy().astype(np.int32),
    }
    return {**named, **test(subject, batch)}


def write_test(
    folder: Path,
    title: str,
    positions: Sequence[int],
    flow: Callable[[Iterator[Sequence[int]]], Iterator[tuple[shards.Arrays, shards.Skipped]]],
) -> None:
    """Write the shards of a test that do not exist.

    Args:
        folder: Of the test.
        title: Of the progress bar.
        positions: Of the images that the test sees.
        flow: From positions of images to the arrays of the test, batch by batch.
    """
    shards.write_shards(
        folder,
        title,
        shards.ShardPlan(count=len(positions), size=PIECE, piece=PIECE, source=list(positions)),
        lambda pieces: flow([positions[n] for n in piece] for piece in pieces),
        shard_parts.concatenate_parts,
    )


def write_results(
    folder: Path,
    tests: Mapping[str, AuditTest],
    subject: AuditSubject,
    arrays: ArraysOfTests,
    notes: Sequence[str],
    computed: Computed,
) -> None:
    """Write audit.json, the table and the picture of each test.

    Args:
        folder: The stage's result.
        tests: By name.
        subject: The method and network under test.
        arrays: The arrays of each test; empty where it read no image.
        notes: Lines for audit.json.
        computed: Precision of the run, device and versions.
    """
    records = average_numbers(tests, subject, arrays)
    contents = {
        "method": subject.method, "numbers": records, "notes": notes, "computed": computed.record()
    }  # fmt: skip
    write_json(folder / "audit.json", contents, indent=1)
    numbers = [number for test in tests.values() for number in test.numbers]
    write_text(folder / "audit.txt", format_audit([(subject.method, records)], numbers, computed))
    for name, values in arrays.items():
        if values:
            picture = tests[name].draw(subject, values)
            with atomic_write(folder / "pictures" / f"{name}.png") as path:
                picture.save(path, "png")
