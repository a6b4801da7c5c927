"""The splits of a large folder of classes, kept, and read again where no folder changed.

What a search of folders found is kept in `$XDG_CACHE_HOME/label2box/` or ~/.cache/label2box/ where
there are many files: a search of fewer takes less than a second. It is read again where all folders
that were searched, and the folders and tables of the root, have the same times of change. Changes
of a file in place are found when it is read (`folder_index.check_unchanged`).
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from pipeline.data.file_table import FileColumns, FileTable, join_files
from pipeline.data.folder_index import SETTLED_NS, find_cache
from pipeline.data.left_out import LeftOut
from pipeline.data.listing import Listing, Splits
from pipeline.formats.files import atomic_write
from pipeline.types import Note

VERSION = 1  # of the kept file
MIN_KEPT = 100_000  # files
PARTS = ("train", "held_back", "calibration", "val", "test")


@dataclass(frozen=True)
class KeptSplits:
    """What was found in a folder of classes.

    Attributes:
        folders: Names of the class folders.
        classes: The class names.
        splits: The listings.
    """

    folders: Sequence[str]
    classes: tuple[str, ...]
    splits: Splits


def find_file(root: str, options: Sequence[Any]) -> Path | None:
    """Return where the splits of a root are kept; None where the system has no cache folder.

    Args:
        root: Option `data.root`.
        options: The options that the splits depend on, as JSON has them.
    """
    cache = find_cache()
    if cache is None:
        return None
    text = json.dumps([VERSION, os.path.realpath(root), *options], default=list)
    digest = hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]
    return cache / f"splits-{digest}.npz"


def load(path: Path, root: str) -> KeptSplits | None:
    """Return the kept splits; None where there are none, or a folder changed.

    Args:
        path: The kept file.
        root: Option `data.root`.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            head = json.loads(arrays["head"].tobytes())
            if head["stamps"] != _stamps(root, head["stamps"]):
                return None
            columns = FileColumns(
                os.path.join(root, ""), head["below"], arrays["folder"],
                arrays["names"].tobytes(), arrays["sizes"], arrays["times"],
            )  # fmt: skip
            labels = arrays["labels"].tolist()
    except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile):
        return None
    classes = tuple(head["classes"])
    ends = np.cumsum([0, *head["counts"]]).tolist()
    shared = [*range(-1, len(classes))]  # one object for all images of a class
    listings = [
        Listing(
            FileTable(columns, np.arange(start, end, dtype=np.int32)) if end > start else (),
            [shared[label + 1] for label in labels[start:end]],
            classes,
        )
        for start, end in pairwise(ends)
    ]
    notes = [Note(*note) if len(note) > 1 else note[0] for note in head["notes"]]
    train, held_back, calibration, val, test = listings
    return KeptSplits(
        head["folders"], classes, Splits(train, held_back, val, notes, calibration, test)
    )


def save(path: Path, root: str, content: KeptSplits, left_out: LeftOut) -> None:
    """Keep the splits of a root, if they are large and can be relied on.

    Links are not kept: what they lead to may change without a folder of the root.

    Args:
        path: Where they are kept.
        root: Option `data.root`.
        content: The splits.
        left_out: What the searches left out, and the folders that were searched.
    """
    splits = content.splits
    listings = [getattr(splits, part) for part in PARTS]
    counts = [len(listing.files) for listing in listings]
    if sum(counts) < MIN_KEPT or left_out.links:
        return
    tables = [listing.files for listing in listings if len(listing.files)]
    files = join_files(tables)
    if not isinstance(files, FileTable) or files.columns.root != os.path.join(root, ""):
        return
    folders = [os.path.relpath(place, root) for place in left_out.searched]
    stamps = _stamps(root, folders)
    newest = max((stamp[1] for stamp in stamps.values() if stamp), default=0)
    if time.time_ns() - newest < SETTLED_NS or not _are_as_searched(stamps, root, left_out):
        return
    columns, rows = files.columns, files.rows
    text = json.dumps({
        "stamps": stamps, "below": [*columns.folders], "counts": counts,
        "folders": [*content.folders], "classes": [*content.classes],
        "notes": [_to_plain(note) for note in splits.notes],
    })  # fmt: skip
    with suppress(OSError), atomic_write(path) as temporary, open(temporary, "wb") as file:
        np.savez(
            file,
            head=np.frombuffer(text.encode(), np.uint8),
            names=np.frombuffer(b"\0".join(columns.iterate_names(rows)), np.uint8),
            folder=columns.folder[rows],
            sizes=columns.sizes[rows],
            times=columns.times[rows],
            labels=np.concatenate([np.asarray(listing.labels, np.int32) for listing in listings]),
        )


def _to_plain(note: str) -> list[Any]:
    """Return a note as JSON has it."""
    return [str(note), [*note.names], note.total] if isinstance(note, Note) else [note]


def _stamps(root: str, folders: Sequence[str] | Mapping[str, Any]) -> dict[str, list[int] | None]:
    """Return size (of files) and time of change of folders, and of what is directly in the root.

    The layout depends on which folders the root has and what is in them, and classes.txt names
    classes.
    """
    with suppress(OSError):
        return dict(_stamp(root, name) for name in sorted({*folders, *_list_root(root)}))
    return {}


def _list_root(root: str) -> Iterator[str]:
    """Yield the root, its folders and its tables, below the root."""
    yield "."
    with os.scandir(root) as entries:
        for entry in entries:
            if entry.is_dir() or entry.name == "classes.txt":
                yield entry.name


def _stamp(root: str, name: str) -> tuple[str, list[int] | None]:
    """Return a place below the root with its size, of files alone, and its time of change."""
    try:
        stat = os.stat(os.path.join(root, name))
    except OSError:
        return name, None
    return name, [stat.st_size if name == "classes.txt" else 0, stat.st_mtime_ns]


def _are_as_searched(stamps: Mapping[str, list[int] | None], root: str, left_out: LeftOut) -> bool:
    """Return whether no searched folder changed after it was looked at."""
    for place, changed in left_out.searched.items():
        stamp = stamps.get(os.path.relpath(place, root))
        if stamp is None or stamp[1] != changed:
            return False
    return True
