"""An index of the image files below a folder that is kept, and read again where nothing changed.

A folder is searched again where its time of change is another one than when it was searched: files
were added, removed or renamed. Changes of a file in place do not change the folder. They are found
when the file is read (`check_unchanged`), and the kept index is removed then.

The index is kept in `$XDG_CACHE_HOME/label2box/` or ~/.cache/label2box/, a file for each root.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from pipeline.data.file_table import FileColumns, FileTable, join_names
from pipeline.data.image_search import MAX_FOLDER_DEPTH, is_image_name
from pipeline.data.listing import File
from pipeline.errors import UserError
from pipeline.formats.files import atomic_write, is_settled
from pipeline.ops.text import printable, to_nfc
from pipeline.types import Note

VERSION = 1  # of the kept file


@dataclass
class Folder:
    """What a search found in a folder, not in those below it.

    Attributes:
        path: Below the root, as the disk spells it.
        changed: Its time of change in ns; -1 where it was too recent to be relied on.
        names: Names of the image files, as `FileColumns` holds them, sorted.
        sizes: Their sizes.
        times: Their times of change.
        folders: Names of the folders in it that are searched, too.
        others: How many other files there are, by their endings.
        unreadable: Names of files and folders that cannot be looked at.
    """

    path: str
    changed: int
    names: bytes = b""
    sizes: Any = field(default_factory=lambda: np.zeros(0, np.int64))
    times: Any = field(default_factory=lambda: np.zeros(0, np.int64))
    folders: Sequence[str] = ()
    others: dict[str, int] = field(default_factory=dict)
    unreadable: Sequence[str] = ()


@dataclass(frozen=True, eq=False)
class IndexedFiles:
    """The image files below some folders of a root.

    Attributes:
        columns: The files, folder after folder, in each by their names.
        starts: The first row of each folder, and the number of rows at the end.
        notes: What was left out, a line each.
        kept: Where the index is kept; None: it is not.
        searched: How many folders had to be searched.
    """

    columns: FileColumns
    starts: Sequence[int]
    notes: Sequence[str]
    kept: Path | None
    searched: int

    def rows_by_folder(self) -> Iterator[tuple[str, int, int]]:
        """Yield the path of each folder below the root, its first row and that after its last."""
        yield from zip(self.columns.folders, self.starts, self.starts[1:], strict=False)

    def table(self, rows: np.ndarray) -> FileTable:
        """Return some rows as files."""
        return FileTable(self.columns, rows.astype(np.int32))


def check_unchanged(file: File, *kept: Path | None) -> None:
    """Compare a file with the index that it is listed in, before it is read.

    Args:
        file: As the index has it.
        kept: Where the index is kept, and what was derived from it; None: it is not.

    Raises:
        UserError: It was changed since. The kept index is removed, so that the next run sees the
            change.
    """
    try:
        now = os.stat(file.path)
    except OSError:
        return  # the reader of the image says what is wrong
    if (now.st_size, now.st_mtime_ns) != file.stamp:
        for path in kept:
            if path is not None:
                path.unlink(missing_ok=True)
        raise UserError(
            f"{file.id}: the file was changed after its folder was indexed, so results would "
            "stand under the old image; its index is removed: run again, and what was computed "
            "from the changed images is computed anew"
        )


def find_cache() -> Path | None:
    """Return the folder of kept indexes; None where the system has none."""
    folder = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(folder, "label2box") if os.path.isabs(folder) else None


def index_files(root: Path, tops: Sequence[str], cache: Path | None) -> IndexedFiles:
    """Index the image files below some folders; read what is kept where nothing changed.

    Args:
        root: The folder that ids are relative to.
        tops: The folders in it that are searched, at any depth.
        cache: The folder of kept indexes; None: nothing is kept.

    Raises:
        UserError: A folder of `tops` cannot be read.
    """
    kept = find_index(root, tops, cache)
    known = {} if kept is None else _load(kept)
    contents: list[Folder] = []
    searched = 0
    for top in tops:
        for folder, is_new in _walk(root, top, known, frozenset()):
            contents.append(folder)
            searched += is_new
    if kept is not None and (searched or len(contents) != len(known)):
        with suppress(OSError):  # without it the folders are searched again, which costs time alone
            _save(kept, contents)
    return _assemble(root, contents, kept, searched)


def find_index(root: Path, tops: Sequence[str], cache: Path | None) -> Path | None:
    """Return where the index of a root is kept; None: nowhere.

    Args:
        root: The folder that ids are relative to.
        tops: The folders in it that are searched.
        cache: The folder of kept indexes.
    """
    return None if cache is None else cache / f"files-{_key(root, tops)}.npz"


def _key(root: Path, tops: Sequence[str]) -> str:
    """Return what names the kept file of a root."""
    parts = [os.path.realpath(root), *tops]
    return hashlib.sha256("\0".join(parts).encode(errors="surrogateescape")).hexdigest()[:16]


# -- the search


def _walk(
    root: Path, path: str, known: dict[str, Folder], above: frozenset[tuple[int, int]]
) -> Iterator[tuple[Folder, bool]]:
    """Yield a folder and those below it, in the order of their names, and whether it is new.

    Args:
        root: The root.
        path: The folder, below the root.
        known: The folders of the kept index, by path.
        above: Device and inode of the folders above, so that no link leads back.
    """
    place = os.path.join(root, path)
    try:
        stat = os.stat(place)
        if (here := (stat.st_dev, stat.st_ino)) in above or len(above) > MAX_FOLDER_DEPTH:
            return
        before = known.get(path)
        is_new = before is None or before.changed != stat.st_mtime_ns
        folder = _search(place, path, stat.st_mtime_ns) if before is None or is_new else before
    except OSError as error:
        if not above:
            raise UserError(f"{place}: the folder cannot be read ({error.strerror})") from None
        yield Folder(path, -1, unreadable=[f"{path}: {error.strerror}"]), True
        return
    yield folder, is_new
    for name in folder.folders:
        yield from _walk(root, os.path.join(path, name), known, above | {here})


def _search(place: str, path: str, changed: int) -> Folder:
    """Return what is in a folder."""
    started = time.time_ns()
    files: list[tuple[str, int, int]] = []
    folders, unreadable, others = list[str](), list[str](), Counter[str]()
    with os.scandir(place) as entries:
        for entry in entries:
            name = entry.name
            try:
                if is_image_name(name) and entry.is_file():
                    stat = entry.stat()
                    files.append((name, stat.st_size, stat.st_mtime_ns))
                elif name.startswith("."):
                    others["hidden"] += 1
                elif entry.is_dir():
                    folders.append(name)
                else:
                    others[os.path.splitext(name)[1].lower()] += 1
            except OSError as error:
                unreadable.append(f"{path}/{name}: {error.strerror}")
    files.sort()
    numbers = np.array([row[1:] for row in files], np.int64).reshape(-1, 2)
    return Folder(
        path,
        changed if is_settled(changed, started) else -1,
        join_names(row[0] for row in files),
        numbers[:, 0].copy(),
        numbers[:, 1].copy(),
        sorted(folders),
        dict(others),
        unreadable,
    )


def _assemble(
    root: Path, contents: Sequence[Folder], kept: Path | None, searched: int
) -> IndexedFiles:
    """Return the files of all folders, and notes on what was left out."""
    counts = [len(folder.sizes) for folder in contents]
    starts = [0, *np.cumsum(counts, dtype=np.int64).tolist()]
    empty = np.zeros(0, np.int64)
    columns = FileColumns(
        os.fspath(root),
        [folder.path for folder in contents],
        np.repeat(np.arange(len(contents), dtype=np.int32), counts),
        b"\0".join(folder.names for folder in contents if len(folder.sizes)),
        np.concatenate([empty, *(folder.sizes for folder in contents)]),
        np.concatenate([empty, *(folder.times for folder in contents)]),
    )
    return IndexedFiles(columns, starts, _describe(contents), kept, searched)


def _describe(contents: Sequence[Folder]) -> list[str]:
    """Return notes on what is no image and what cannot be looked at."""
    notes: list[str] = []
    others = Counter[str]()
    for folder in contents:
        others.update(folder.others)
    if total := others.total():
        kinds = ", ".join(f"{n} {name or 'without an ending'}" for name, n in others.most_common())
        text = f"{total} other file{'s' * (total != 1)} beside the images, not read: {kinds}"
        notes.append(Note(text, [], total))
    if names := [printable(name) for folder in contents for name in folder.unreadable]:
        count = f"{len(names)} file{'s' * (len(names) != 1)} or folders"
        notes.append(Note(f"{count} cannot be looked at, left out: {names[0]}", names))
    return notes


def find_double_ids(columns: FileColumns) -> dict[str, int]:
    """Return the ids that several files have, as their names differ in their Unicode form alone.

    Args:
        columns: The files.

    Returns:
        How many files have each of these ids.
    """
    if columns.names.isascii() and all(folder.isascii() for folder in columns.folders):
        return {}
    table = FileTable(columns, np.arange(len(columns.sizes), dtype=np.int32))
    return {id: n for id, n in Counter(map(to_nfc, table.list_ids())).items() if n > 1}


# -- the kept file


def _save(path: Path, contents: Sequence[Folder]) -> None:
    """Write an index."""
    head = {
        "version": VERSION,
        "folders": [
            [f.path, f.changed, len(f.sizes), len(f.names), [*f.folders], f.others, [*f.unreadable]]
            for f in contents
        ],
    }
    text = json.dumps(head).encode()
    empty = np.zeros(0, np.int64)
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        np.savez(
            file,
            head=np.frombuffer(text, np.uint8),
            names=np.frombuffer(b"".join(f.names for f in contents), np.uint8),
            sizes=np.concatenate([empty, *(f.sizes for f in contents)]),
            times=np.concatenate([empty, *(f.times for f in contents)]),
        )


def _load(path: Path) -> dict[str, Folder]:
    """Return the folders of a kept index by their paths; none where it cannot be used."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            head = json.loads(arrays["head"].tobytes())
            if head["version"] != VERSION:
                return {}
            names, sizes, times = arrays["names"].tobytes(), arrays["sizes"], arrays["times"]
        folders: dict[str, Folder] = {}
        at = letter = 0
        for place, changed, count, length, below, others, unreadable in head["folders"]:
            folders[place] = Folder(
                place, changed, names[letter : letter + length],
                sizes[at : at + count], times[at : at + count], below, others, unreadable,
            )  # fmt: skip
            at, letter = at + count, letter + length
        return folders if at == len(sizes) == len(times) and letter == len(names) else {}
    except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile):
        return {}
