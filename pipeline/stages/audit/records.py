"""Results of the tests of maps: means over the images, and the numbers of each image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.formats.arrays import read_arrays
from pipeline.ops.bootstrap import interval
from pipeline.protocols import AuditTest
from pipeline.results.shards import Arrays, list_shards
from pipeline.types import AuditNumber, AuditSubject

if TYPE_CHECKING:
    from jaxtyping import Float

ArraysOfTests = Mapping[str, Arrays]
"""The arrays of all images, by the name of the test."""


def read_test(folder: Path) -> Arrays:
    """Read the arrays of a test, concatenated over all shards; empty where no image was read."""
    shards = [arrays for path in list_shards(folder) if (arrays := read_arrays(path)[0])]
    names = shards[0] if shards else ()
    return {name: np.concatenate([arrays[name] for arrays in shards]) for name in names}


def list_skipped(folder: Path) -> Iterator[tuple[int, str]]:
    """Yield the position of each image that a test could not read, and why."""
    for path in list_shards(folder):
        yield from read_arrays(path)[1]["set_aside"]


def average_numbers(
    tests: Mapping[str, AuditTest], subject: AuditSubject, arrays: ArraysOfTests
) -> list[dict[str, Any]]:
    """Compute the records of audit.json: those of the table, then those of network parts."""
    measured = [name for name in arrays if arrays[name]]
    records = [
        _record(name, number, arrays[name][number.name], subject)
        for name in measured
        for number in tests[name].numbers
    ]
    for name in measured:
        for number, part, values in tests[name].part_values(subject, arrays[name]):
            records.append({**_record(name, number, values, subject), "part": part})
    return records


def _record(
    test: str, number: AuditNumber, values: Float[np.ndarray, "n"], subject: AuditSubject
) -> dict[str, Any]:
    """Compute a number's mean over the images and its 95 % bootstrap interval."""
    low, high = interval(values.astype(np.float64), seed=subject.seed)
    return {"test": test, "name": number.name, "part": None, "value": float(values.mean()),
            "n": len(values), "interval": [low, high], "good": number.good,
            "method": subject.method}  # fmt: skip


def list_image_records(
    tests: Mapping[str, AuditTest],
    arrays: ArraysOfTests,
    ids: Sequence[str],
    classes: Sequence[str],
) -> list[dict[str, Any]]:
    """Return the records of images.json: the numbers of each image and class, by test.

    Args:
        tests: By name.
        arrays: The arrays of each test.
        ids: The name of each image, by position.
        classes: The names of the classes.

    Returns:
        A record for each image; where images may have several classes, for each of the classes.
    """
    pairs: dict[tuple[int, int], dict[str, Any]] = {}
    for name, values in arrays.items():
        hidden = {"image", "class", *tests[name].picture_arrays}
        shown = {key: rows for key, rows in values.items() if key not in hidden}
        for n, position in enumerate(values["image"].tolist() if values else ()):
            label = int(values["class"][n])
            new = {"id": ids[position], "class": classes[label]}
            record = pairs.setdefault((position, label), new)
            record[name] = {
                key: np.round(rows[n].astype(float), 5).tolist() for key, rows in shown.items()
            }
    order = sorted(pairs, key=lambda pair: pair[0])  # classes of an image: the most probable first
    return [pairs[pair] for pair in order]
