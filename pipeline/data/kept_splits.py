"""The splits of a large data set, kept, and used again where no folder and no list changed.

What a search of folders, or the lists of a data set, gave is kept in `$XDG_CACHE_HOME/label2box/`
or ~/.cache/label2box/ where there are many files: of fewer it takes less than a second. It is used
again where all folders that were searched, and the folders and tables of the root, have the same
times of change, and all lists the same sizes and times. Changes of a file in place are found when
it is read (`folder_index.check_unchanged`).

Names, labels, sizes and times of the files are read from the kept file when they are first asked
for. Its head alone gives the fingerprints, which are all that a finished run needs.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, overload
from zipfile import BadZipFile

import numpy as np

from pipeline.data.file_table import FileColumns, FileTable, join_files, list_ids
from pipeline.data.folder_index import find_cache
from pipeline.data.listing import File, Listing, Splits, hash_listings
from pipeline.formats.files import atomic_write, is_settled
from pipeline.types.notes import from_plain, to_plain

VERSION = 4  # of the kept file
MIN_KEPT = 100_000  # files
PARTS = ("train", "held_back", "calibration", "val", "test")
DAMAGED = (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile)
"""Errors of a kept file that is not there or cannot be used."""


@dataclass(frozen=True)
class KeptSplits:
    """What was found of a data set.

    Attributes:
        folders: Names of the class folders.
        classes: The class names.
        splits: The listings.
    """

    folders: Sequence[str]
    classes: tuple[str, ...]
    splits: Splits


class _KeptArrays:
    """The arrays of a kept file, read when they are first asked for.

    The file stays open until then: another run may put a newer one in its place.
    """

    def __init__(self, path: Path) -> None:
        self._arrays: Any = np.load(path, allow_pickle=False)
        self.head: dict[str, Any] = json.loads(self._arrays["head"].tobytes())
        self.root = ""

    @cached_property
    def columns(self) -> FileColumns:
        """Names, folders, sizes and times of all files."""
        arrays = self._arrays
        return FileColumns(
            os.path.join(self.root, ""), self.head["below"], arrays["folder"],
            arrays["names"].tobytes(), arrays["sizes"], arrays["times"],
        )  # fmt: skip

    @cached_property
    def labels(self) -> list[int]:
        """The class of each file."""
        shared = [*range(-1, len(self.head["classes"]))]  # one object for all images of a class
        return [shared[label + 1] for label in self._arrays["labels"].tolist()]

    @cached_property
    def others(self) -> list[tuple[int, ...]]:
        """The further classes of each file, where an image may have several."""
        ends = np.cumsum(self._arrays["others_counts"]).tolist()
        flat = self._arrays["others"].tolist()
        return [tuple(flat[start:end]) for start, end in pairwise([0, *ends])]

    def close(self) -> None:
        """Close the file."""
        self._arrays.close()


class KeptFiles(FileTable):
    """Files of a kept file, of which the number and the endings alone are known at once.

    Args:
        kept: The arrays.
        start: The first row.
        end: The row after the last.
    """

    def __init__(self, kept: _KeptArrays, start: int, end: int) -> None:
        self.__dict__.update(_kept=kept, _start=start, _end=end)

    @cached_property
    def columns(self) -> FileColumns:
        """What is known of all files."""
        kept: _KeptArrays = self.__dict__["_kept"]
        return kept.columns

    @cached_property
    def rows(self) -> np.ndarray:
        """The rows of the files."""
        return np.arange(self.__dict__["_start"], self.__dict__["_end"], dtype=np.int32)

    def __len__(self) -> int:
        """Return how many files there are."""
        return int(self.__dict__["_end"] - self.__dict__["_start"])

    def suffixes(self) -> frozenset[str]:
        """Return the endings of all files of the data set, in lower case."""
        return frozenset(self.__dict__["_kept"].head["suffixes"])

    def folders(self) -> list[str]:
        """Return the paths of the folders that the files are in."""
        kept: _KeptArrays = self.__dict__["_kept"]
        if len(self) < sum(kept.head["counts"]):
            return super().folders()
        return [os.path.join(kept.root, folder) for folder in kept.head["below"]]


class KeptIds(Sequence[str]):
    """The ids of a split in a kept file, of which the number alone is known at once.

    Args:
        files: Of the split.
    """

    def __init__(self, files: Sequence[File]) -> None:
        self._files = files

    @cached_property
    def _ids(self) -> list[str]:
        return list_ids(self._files)

    def __len__(self) -> int:
        """Return how many files there are."""
        return len(self._files)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        """Return an id, or a part of them."""
        return self._ids[index]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the ids."""
        return iter(self._ids)

    def __contains__(self, id: object) -> bool:
        """Return whether a file has an id."""
        return id in self._ids

    def __eq__(self, other: object) -> bool:
        """Return whether the ids are those of a list."""
        return self._ids == list(other) if isinstance(other, Sequence) else NotImplemented

    __hash__ = None  # type: ignore[assignment]


class KeptListing(Listing):
    """The listing of a split in a kept file, with its fingerprint.

    Args:
        kept: The arrays.
        start: The first row.
        end: The row after the last.
        fingerprint: Of the listing.
    """

    def __init__(self, kept: _KeptArrays, start: int, end: int, fingerprint: str) -> None:
        self.__dict__.update(
            files=KeptFiles(kept, start, end) if end > start else (),
            classes=tuple(kept.head["classes"]),
            _kept=kept, _rows=slice(start, end), _hash=fingerprint,
        )  # fmt: skip

    @cached_property
    def ids(self) -> Sequence[str]:
        """The id of each file."""
        return KeptIds(self.files)

    @cached_property
    def labels(self) -> Sequence[int]:
        """Class of each file; -1 where an image has none."""
        labels: list[int] = self.__dict__["_kept"].labels[self.__dict__["_rows"]]
        return labels

    @cached_property
    def others(self) -> Sequence[tuple[int, ...]] | None:
        """The further classes of each file; None where an image has one at most."""
        kept: _KeptArrays = self.__dict__["_kept"]
        return kept.others[self.__dict__["_rows"]] if kept.head["is_multi_label"] else None


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


def load(path: Path, root: str, lists: Sequence[Path] = ()) -> KeptSplits | None:
    """Return the kept splits; None where there are none, or a folder or list changed.

    Args:
        path: The kept file.
        root: The folder that the images are below.
        lists: The files that the splits are read from.
    """
    try:
        kept = _KeptArrays(path)
    except DAMAGED:
        return None
    try:
        head = kept.head
        if head["stamps"] != _stamps(root, head["stamps"]) or head["lists"] != _list_stamps(lists):
            kept.close()
            return None
        kept.root = root
        ends = np.cumsum([0, *head["counts"]]).tolist()
        listings = [
            KeptListing(kept, start, end, head["fingerprints"][part])
            for part, (start, end) in zip(PARTS, pairwise(ends), strict=True)
        ]
        whole = KeptListing(kept, 0, ends[-1], head["fingerprints"]["all"])
        notes = [from_plain(note) for note in head["notes"]]
    except DAMAGED:
        return None
    train, held_back, calibration, val, test = listings
    splits = Splits(train, held_back, val, notes, calibration, test)
    splits.__dict__["all"] = whole
    return KeptSplits(head["folders"], tuple(head["classes"]), splits)


def save(
    path: Path,
    root: str,
    content: KeptSplits,
    searched: Mapping[str, int],
    lists: Sequence[Path] = (),
) -> None:
    """Keep the splits of a root, if they are large and can be relied on.

    Args:
        path: Where they are kept.
        root: The folder that the images are below.
        content: The splits.
        searched: The folders that were searched, and their times of change in ns before.
        lists: The files that the splits were read from, which did not change since.
    """
    splits = content.splits
    listings = [getattr(splits, part) for part in PARTS]
    counts = [len(listing.files) for listing in listings]
    has_background = any(listing.background is not None for listing in listings)
    if sum(counts) < MIN_KEPT or has_background:  # the file has no column for these
        return
    tables = [listing.files for listing in listings if len(listing.files)]
    files = join_files(tables)
    below = os.path.join(root, "")
    if not isinstance(files, FileTable) or os.path.join(files.columns.root, "") != below:
        return
    folders = [os.path.relpath(place, root) for place in searched]
    stamps, list_stamps = _stamps(root, folders), _list_stamps(lists)
    changed = [stamp[1] for stamp in (*stamps.values(), *list_stamps) if stamp]
    if not is_settled(max(changed, default=0)) or not _are_as_searched(stamps, root, searched):
        return
    columns, rows = files.columns, files.rows
    is_multi_label = any(listing.others is not None for listing in listings)
    others = [row for listing in listings for row in listing.others or [()] * len(listing.labels)]
    text = json.dumps({
        "stamps": stamps, "lists": list_stamps, "below": [*columns.folders], "counts": counts,
        "folders": [*content.folders], "classes": [*content.classes],
        "suffixes": sorted(columns.suffixes),
        "is_multi_label": is_multi_label,
        "fingerprints": {
            **{part: listing.fingerprint() for part, listing in zip(PARTS, listings, strict=True)},
            # Without the list of all images: a million names have 110 MB.
            "all": hash_listings(content.classes, listings),
        },
        "notes": [to_plain(note) for note in splits.notes],
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
            others=np.fromiter((label for row in others for label in row), np.int32),
            others_counts=np.fromiter(map(len, others), np.int32),
        )


def find_times(root: str, folders: Sequence[str], lists: Sequence[Path]) -> dict[str, int]:
    """Return the times of change in ns of the folders and lists that are there, by their paths.

    Args:
        root: The folder that the images are below.
        folders: Paths of folders.
        lists: Files that the splits are read from.
    """
    times = {}
    for place in (root, *folders, *map(os.fspath, lists)):
        with suppress(OSError):
            times[place] = os.stat(place).st_mtime_ns
    return times


def _list_stamps(lists: Sequence[Path]) -> list[list[int] | None]:
    """Return size and time of change of files; None of one that is not there."""
    stamps: list[list[int] | None] = []
    for path in lists:
        try:
            stat = os.stat(path)
            stamps.append([stat.st_size, stat.st_mtime_ns])
        except OSError:
            stamps.append(None)
    return stamps


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


def _are_as_searched(
    stamps: Mapping[str, list[int] | None], root: str, searched: Mapping[str, int]
) -> bool:
    """Return whether no searched folder changed after it was looked at."""
    for place, changed in searched.items():
        stamp = stamps.get(os.path.relpath(place, root))
        if stamp is None or stamp[1] != changed:
            return False
    return True
