"""The labels of the images of a COCO file, read once and kept: its categories in each image.

A file of 450 MB is read in some seconds. What it says of labels, a megabyte, is kept in
`$XDG_CACHE_HOME/label2box/` or ~/.cache/label2box/ where the file is large, and read again where
size and time of the file are the same.
"""

from __future__ import annotations

import hashlib
import json
import os
from array import array
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np

from pipeline.formats.coco_values import parse_key
from pipeline.formats.files import atomic_write
from pipeline.formats.json_stream import iterate_lists
from pipeline.formats.odd_records import OddRecords
from pipeline.types.notes import from_plain, to_plain

if TYPE_CHECKING:
    from jaxtyping import Bool, Int64

VERSION = 2  # of the kept file
MIN_KEPT_BYTES = 10_000_000  # of a file whose labels are kept
LISTS = ("images", "annotations", "categories")


@dataclass(frozen=True)
class CocoLabels:
    """The images of a file and the categories that are annotated in each.

    Attributes:
        names: The file name of each image.
        numbers: The id of each image.
        sets: Whether an image has an annotation of a category, crowds among them.
        unclear: Whether an image has annotations that are of no category of the file.
        categories: Ids of the categories, in the order of the file.
        category_names: Their names.
        notes: What was left out, a line each.
    """

    names: Sequence[str]
    numbers: Int64[np.ndarray, n]
    sets: Bool[np.ndarray, "n C"]
    unclear: Bool[np.ndarray, n]
    categories: Sequence[int]
    category_names: Sequence[str]
    notes: Sequence[str]


def read_labels(path: Path, cache: Path | None) -> CocoLabels:
    """Read the labels of a file, or what is kept of them.

    Args:
        path: The file.
        cache: The folder of what is kept; None: nothing is.

    Raises:
        UserError: The file cannot be read, or has no image or no category that can be used.
    """
    kept = None if cache is None else cache / f"coco-{_key(path)}.npz"
    stamp = _stamp(path)
    if kept is not None and stamp is not None and (known := _load(kept, stamp)) is not None:
        return known
    labels = _parse(path)
    if kept is not None and stamp is not None and stamp[0] >= MIN_KEPT_BYTES:
        with suppress(OSError):  # without it the file is read again, which costs time alone
            _save(kept, stamp, labels)
    return labels


def _key(path: Path) -> str:
    return hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()[:16]


def _stamp(path: Path) -> list[int] | None:
    """Return size and time of a file; None where there is none."""
    with suppress(OSError):
        stat = path.stat()
        return [stat.st_size, stat.st_mtime_ns]
    return None


# -- what is kept


def _load(path: Path, stamp: Sequence[int]) -> CocoLabels | None:
    """Return what is kept of a file; None where there is nothing, or the file is another."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            head = json.loads(arrays["head"].tobytes())
            if (head["version"], head["stamp"]) != (VERSION, [*stamp]):
                return None
            names = arrays["names"].tobytes().decode().split("\0")
            numbers, packed, unclear = arrays["numbers"], arrays["sets"], arrays["unclear"]
    except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile):
        return None
    notes = [from_plain(note) for note in head["notes"]]
    sets = np.unpackbits(packed, axis=1, count=len(head["categories"])).astype(bool)
    return CocoLabels(names, numbers, sets, unclear, head["categories"], head["names"], notes)


def _save(path: Path, stamp: Sequence[int], labels: CocoLabels) -> None:
    """Keep what was read of a file."""
    head = {
        "version": VERSION, "stamp": [*stamp], "categories": [*labels.categories],
        "names": [*labels.category_names],
        "notes": [to_plain(note) for note in labels.notes],
    }  # fmt: skip
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        np.savez(
            file,
            head=np.frombuffer(json.dumps(head).encode(), np.uint8),
            names=np.frombuffer("\0".join(labels.names).encode(), np.uint8),
            numbers=labels.numbers,
            sets=np.packbits(labels.sets, axis=1),
            unclear=labels.unclear,
        )


# -- the file


def _parse(path: Path) -> CocoLabels:
    """Read the labels of a file."""
    images, categories = dict[int, str](), dict[int, str]()
    triples = array("q")  # position, image and category of each annotation
    unclear = list[int]()  # images of annotations without a category
    odd = {name: OddRecords(path.name, singular) for name, singular in
           zip(LISTS, ("image record", "annotation", "category record"), strict=True)}  # fmt: skip
    counts = dict.fromkeys(LISTS, 0)
    for name, position, record in iterate_lists(path, LISTS):
        counts[name] += 1
        where = f"{name}[{position}]"
        if not isinstance(record, dict):
            odd[name].leave_out(where, "that are no objects")
        elif name == "annotations":
            image, category = (parse_key(record.get(key)) for key in ("image_id", "category_id"))
            if isinstance(image, int) and isinstance(category, int):
                triples.extend((position, image, category))
            else:
                unclear += [image] if isinstance(image, int) else []
                odd[name].leave_out(where, "without a number as image_id and category_id")
        else:
            field, known = ("file_name", images) if name == "images" else ("name", categories)
            _add(record, field, known, odd[name], where)
    odd["images"].check_usable(path, counts["images"] or 1, len(images))
    odd["categories"].check_usable(path, counts["categories"] or 1, len(categories))
    sets, of_none = _mark(triples, images, categories, odd["annotations"])
    of_none |= np.isin([*images], unclear)
    notes = [note for each in odd.values() for note in each.notes()]
    return CocoLabels(
        [*images.values()], np.array([*images], np.int64), sets, of_none, [*categories],
        [*categories.values()], notes,
    )  # fmt: skip


def _add(
    record: dict[str, Any], field: str, known: dict[int, str], odd: OddRecords, where: str
) -> None:
    """Add an image or a category by its number; count it where it cannot be used."""
    number, text = parse_key(record.get("id")), record.get(field)
    if not isinstance(number, int):
        odd.leave_out(where, "without a number as id")
    elif not isinstance(text, str) or not text:
        odd.leave_out(f"{where} (id {number})", f"without a {field}")
    elif number in known:
        odd.leave_out(f"{where} (id {number})", "whose id another has, too")
    else:
        known[number] = text


def _mark(
    triples: array[int], images: dict[int, str], categories: dict[int, str], odd: OddRecords
) -> tuple[Bool[np.ndarray, "n C"], Bool[np.ndarray, n]]:
    """Return which categories each image has, and which have annotations of none; count these.

    Args:
        triples: Position, image and category of each annotation, one after the other.
        images: The images by number.
        categories: The categories by number.
        odd: Where annotations of no image or no category are counted.
    """
    sets = np.zeros((len(images), len(categories)), bool)
    position, image, category = np.array(triples, np.int64).reshape(-1, 3).T
    rows, has_image = _find(image, [*images])
    columns, has_category = _find(category, [*categories])
    known = has_image & has_category
    sets[rows[known], columns[known]] = True
    for missing, what in ((~has_image, "an image"), (has_image & ~has_category, "a category")):
        for n, of, kind in zip(position[missing], image[missing], category[missing], strict=True):
            name = f"annotations[{n}]: image_id {of}, category_id {kind}"
            odd.leave_out(name, f"of {what} that is not in the file")
    unclear = np.zeros(len(images), bool)
    unclear[rows[has_image & ~has_category]] = True
    return sets, unclear


def _find(
    values: Int64[np.ndarray, m], known: Sequence[int]
) -> tuple[Int64[np.ndarray, m], Bool[np.ndarray, m]]:
    """Return where each value stands among those that are known, and whether it does."""
    order = np.argsort(known, kind="stable")
    ordered = np.asarray(known, np.int64)[order]
    places = np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)
    return order[places], ordered[places] == values
