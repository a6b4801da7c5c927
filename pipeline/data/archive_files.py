"""Files in archives and at addresses, listed once; the list of a large archive is kept.

What was found is kept in `$XDG_CACHE_HOME/label2box/` or ~/.cache/label2box/ where an archive has
many files or is at an address, and is used as long as its size and time of change are the same.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np

from pipeline.data.file_table import FileColumns, FileTable, join_names
from pipeline.data.folder_index import find_cache
from pipeline.data.listing import SUFFIXES, File
from pipeline.errors import UserError
from pipeline.formats import stored
from pipeline.formats.archives import is_archive, read_archive
from pipeline.formats.files import atomic_write
from pipeline.formats.remote_errors import describe_failure
from pipeline.formats.retries import send
from pipeline.formats.stored import Member
from pipeline.ops.text import printable
from pipeline.types.notes import from_plain, to_plain

if TYPE_CHECKING:
    from jaxtyping import Int64

VERSION = 2  # of kept files
MIN_KEPT = 5_000  # files of a local archive: fewer are listed in less than a tenth of a second
SPREAD = 0x9E3779B97F4A7C15  # odd, so that times of change and offsets give different numbers


@dataclass(frozen=True, eq=False)
class MemberColumns(FileColumns):
    """Files in archives: folders are the archives' names in ids, times tell archives apart.

    Attributes:
        archives: The location of each archive.
        archive_stamps: Size and time of change of each.
        offsets: Where the bytes of each file begin in its archive.
        methods: How each is stored.
    """

    archives: Sequence[str]
    archive_stamps: Sequence[tuple[int, int]]
    offsets: Int64[np.ndarray, n]
    methods: Int64[np.ndarray, n]

    def path(self, row: int) -> str:
        """Return the location of a file.

        Args:
            row: Which file.
        """
        number = int(self.folder[row])
        return Member(
            self.archives[number], self.name(row), int(self.offsets[row]), int(self.sizes[row]),
            int(self.methods[row]), self.archive_stamps[number],
        ).to_location()  # fmt: skip


@dataclass(frozen=True)
class ArchiveFiles:
    """The files of an archive.

    Attributes:
        location: Of the archive.
        stamp: Its size and time of change.
        raw: Of its files, as the archive spells them.
        numbers: Offset, length and method of each.
        notes: What cannot be read, a line each.
    """

    location: str
    stamp: tuple[int, int]
    raw: Sequence[str]
    numbers: Int64[np.ndarray, "n 3"]
    notes: Sequence[str]


def to_columns(
    archives: Sequence[ArchiveFiles], prefixes: Sequence[str], rows: Sequence[Sequence[int]]
) -> MemberColumns:
    """Return some files of archives as columns, archive after archive.

    Args:
        archives: The archives.
        prefixes: What the ids of the files of each begin with; may be empty.
        rows: Of each archive, which of its files.
    """
    counts = [len(chosen) for chosen in rows]
    parts = [each.numbers[list(chosen)] for each, chosen in zip(archives, rows, strict=True)]
    numbers = np.concatenate([np.zeros((0, 3), np.int64), *parts])
    folder = np.repeat(np.arange(len(archives), dtype=np.int32), counts)
    salts = np.array([_salt(each.stamp) for each in archives], np.uint64)
    times = (salts[folder] + numbers[:, 0].astype(np.uint64) * np.uint64(SPREAD)) >> np.uint64(1)
    names = (
        each.raw[row]
        for each, chosen in zip(archives, rows, strict=True)
        for row in chosen
    )  # fmt: skip
    return MemberColumns(
        "", list(prefixes), folder, join_names(names), numbers[:, 1].copy(),
        times.astype(np.int64), [each.location for each in archives],
        [each.stamp for each in archives], numbers[:, 0].copy(), numbers[:, 2].copy(),
    )  # fmt: skip


def _salt(stamp: tuple[int, int]) -> int:
    """Return a number that stands for size and time of change of an archive."""
    return int.from_bytes(hashlib.sha256(repr(stamp).encode()).digest()[:8], "big")


def to_table(columns: FileColumns) -> FileTable:
    """Return all files of columns."""
    return FileTable(columns, np.arange(len(columns.sizes), dtype=np.int32))


# -- lists


def list_archive(location: str) -> ArchiveFiles:
    """Return the files of an archive, as they are kept where it did not change.

    Args:
        location: A path or an address.

    Raises:
        UserError: It cannot be read.
    """
    location = location if stored.is_address(location) else os.path.abspath(location)
    stamp = get_stamp(location)

    def read() -> dict[str, Any]:
        contents = read_archive(location)
        return {
            "names": np.frombuffer(join_names(contents.names), np.uint8),
            "numbers": contents.numbers(),
            "notes": list(contents.notes),
        }

    kept = read_kept(location, stamp, "files", read)
    names = kept["names"].tobytes()
    raw = os.fsdecode(names).split("\0") if len(kept["numbers"]) else []
    return ArchiveFiles(location, stamp, raw, kept["numbers"], kept["notes"])


def get_stamp(location: str) -> tuple[int, int]:
    """Return size and time of change of a file. Raise UserError where there is none.

    Args:
        location: A path or an address.

    Raises:
        UserError: There is no such file.
    """
    try:
        return stored.stamp_of(location, is_patient=False)
    except UserError:
        raise
    except Exception as error:  # each file system of fsspec has errors of its own
        reason = getattr(error, "strerror", None) or describe_failure(location, error)
        raise UserError(f"{location}: cannot be read ({reason})") from None


def read_kept(
    location: str, stamp: tuple[int, int], options: str, read: Callable[[], dict[str, Any]]
) -> Mapping[str, Any]:
    """Return what is kept of an archive; read it, and keep it, where it has changed.

    Args:
        location: Of the archive.
        stamp: Its size and time of change.
        options: What the content depends on besides.
        read: Returns arrays, among them `numbers` with a row a file, and `notes`.

    Raises:
        UserError: As `read` does.
    """
    cache, path = find_cache(), None
    if cache is not None:
        text = json.dumps([VERSION, location, options])
        digest = hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]
        path = cache / f"archive-{digest}.npz"
        if (known := _load(path, stamp)) is not None:
            return known
    content = read()
    if path is not None and (len(content["numbers"]) >= MIN_KEPT or stored.is_address(location)):
        _save(path, stamp, content)
    return content


def _load(path: Path, stamp: tuple[int, int]) -> dict[str, Any] | None:
    """Return what is kept; None where there is nothing, or it is of another stamp."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            head = json.loads(arrays["head"].tobytes())
            if head["stamp"] != list(stamp):
                return None
            content = {name: arrays[name] for name in arrays.files if name != "head"}
            return {**content, "notes": [from_plain(note) for note in head["notes"]]}
    except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile):
        return None


def _save(path: Path, stamp: tuple[int, int], content: Mapping[str, Any]) -> None:
    """Keep what was read; without it archives are read again, which costs time alone."""
    notes = [to_plain(note) for note in content["notes"]]
    head = json.dumps({"stamp": list(stamp), "notes": notes})
    arrays = {name: values for name, values in content.items() if name != "notes"}
    with suppress(OSError), atomic_write(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, head=np.frombuffer(head.encode(), np.uint8), **arrays)


# -- folders in archives and at addresses


@dataclass(frozen=True)
class StoredFiles:
    """All files of an archive, or below an address.

    Attributes:
        files: With ids below the archive or address.
        notes: What cannot be read, a line each.
    """

    files: Sequence[File]
    notes: Sequence[str]


def is_stored(location: str) -> bool:
    """Return whether a path is an archive or an address, whose files are listed by `list_stored`.

    Args:
        location: Any path.
    """
    return stored.is_address(location) or is_archive(location)


def list_stored(location: str) -> StoredFiles:
    """List the files of an archive, or those below an address, in the order of their names.

    Args:
        location: A path or an address.

    Raises:
        UserError: It cannot be read.
    """
    if not is_archive(location):
        return _list_address(location)
    archive = list_archive(location)
    order = sorted(range(len(archive.raw)), key=lambda row: archive.raw[row])
    last = {archive.raw[row]: row for row in order}  # of a name that is there twice, the last
    rows = [row for row in order if last[archive.raw[row]] == row]
    notes = list(archive.notes)
    if len(rows) < len(order):
        name = os.path.basename(location)
        double = len(order) - len(rows)
        notes.append(f"{name}: {double} names are there twice: the last file of each is used")
    return StoredFiles(to_table(to_columns([archive], [""], [rows])), notes)


def _list_address(location: str) -> StoredFiles:
    """List the files below an address, or that of an image."""
    if os.path.splitext(location)[1].lower() in SUFFIXES:
        file = File(printable(os.path.basename(location)), location, get_stamp(location))
        return StoredFiles([file], [])
    system, top = stored.open_address(location)
    try:
        entries = send(location, lambda: system.find(top, detail=True), is_patient=False)
    except UserError:
        raise
    except Exception as error:  # each file system of fsspec has errors of its own
        reason = describe_failure(location, error)
        raise UserError(f"{location}: cannot be listed ({reason})") from None
    files = []
    for path, entry in sorted(entries.items()):
        id = str(path).removeprefix(top).lstrip("/")
        if id:
            place = f"{location.rstrip('/')}/{id}"
            files.append(File(printable(id), place, stored.stamp_of_entry(entry)))
    return StoredFiles(files, [])
