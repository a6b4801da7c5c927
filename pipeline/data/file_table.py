"""Image files of folders in arrays: a million of them take some 60 MB."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, overload

import numpy as np

from pipeline.data.listing import PART, File, PackedFiles
from pipeline.ops.text import printable

if TYPE_CHECKING:
    from jaxtyping import Int, Int32, Int64


@dataclass(frozen=True, eq=False)
class FileColumns:
    """Names, sizes and times of files, folder after folder.

    Attributes:
        root: The folder that ids are relative to.
        folders: Paths of the folders below the root, as the disk spells them, by number.
        folder: The number of each file's folder.
        names: The name of each file in it, as bytes of the file system with a null byte between.
        sizes: The size of each file in bytes.
        times: The time of change of each file in ns.
    """

    root: str
    folders: Sequence[str]
    folder: Int32[np.ndarray, n]
    names: bytes
    sizes: Int64[np.ndarray, n]
    times: Int64[np.ndarray, n]

    @cached_property
    def ends(self) -> Int64[np.ndarray, n]:
        """Where the name of each file ends in `names`."""
        if not len(self.sizes):
            return np.zeros(0, np.int64)
        breaks = np.flatnonzero(np.frombuffer(self.names, np.uint8) == 0)
        return np.append(breaks, len(self.names)).astype(np.int64)

    @cached_property
    def prefixes(self) -> list[str]:
        """What the ids of each folder's files begin with."""
        return [f"{printable(folder)}/" if folder else "" for folder in self.folders]

    @cached_property
    def suffixes(self) -> frozenset[str]:
        """The endings of all files, in lower case."""
        endings = set[str]()
        for names in self.iterate_names(np.arange(len(self.sizes))):
            endings |= {name[name.rfind(".") :] for name in os.fsdecode(names).split("\0")}
        return frozenset(ending.lower() for ending in endings)

    def iterate_names(self, rows: Int[np.ndarray, m]) -> Iterator[bytes]:
        """Yield the names of some files, PART of them at a time with a null byte between.

        Args:
            rows: Which files; all of their names at once would take much memory.
        """
        for start in range(0, len(rows), PART):
            part = rows[start : start + PART]
            first = np.where(part > 0, self.ends[part - 1] + 1, 0).tolist()
            last = self.ends[part].tolist()
            yield b"\0".join([self.names[a:b] for a, b in zip(first, last, strict=True)])

    def name(self, row: int) -> str:
        """Return the name of a file in its folder.

        Args:
            row: Which file.
        """
        start = int(self.ends[row - 1]) + 1 if row else 0
        return os.fsdecode(self.names[start : int(self.ends[row])])

    def path(self, row: int) -> str:
        """Return where a file is.

        Args:
            row: Which file.
        """
        return os.path.join(self.root, self.folders[int(self.folder[row])], self.name(row))


@dataclass(frozen=True, eq=False)
class FileTable(PackedFiles):
    """Some files of columns, in any order.

    Attributes:
        columns: What is known of all files.
        rows: The rows of those that are in the table.
    """

    columns: FileColumns
    rows: Int32[np.ndarray, m]

    def __len__(self) -> int:
        """Return how many files are in the table."""
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> File: ...

    @overload
    def __getitem__(self, index: slice) -> FileTable: ...

    def __getitem__(self, index: int | slice) -> File | FileTable:
        """Return a file, or a part of the table."""
        if isinstance(index, slice):
            return FileTable(self.columns, self.rows[index])
        columns, row = self.columns, int(self.rows[index])
        number, name = int(columns.folder[row]), columns.name(row)
        stamp = (int(columns.sizes[row]), int(columns.times[row]))
        return File(columns.prefixes[number] + printable(name), columns.path(row), stamp)

    def take(self, positions: Int[np.ndarray, k]) -> FileTable:
        """Return the files at some positions.

        Args:
            positions: In this table.
        """
        return FileTable(self.columns, self.rows[positions])

    def join(self, other: PackedFiles) -> FileTable:
        """Return these files and the others after them.

        Args:
            other: A table, of the same or of other columns.

        Raises:
            TypeError: The others are packed in another way.
        """
        if not isinstance(other, FileTable):
            raise TypeError(f"{type(other).__name__} cannot be joined with a FileTable")
        if other.columns is self.columns:
            return FileTable(self.columns, np.concatenate([self.rows, other.rows]))
        return join_tables([self, other])

    def list_ids(self) -> list[str]:
        """Return the id of each file."""
        prefixes, ids = self.columns.prefixes, list[str]()
        for names in self.columns.iterate_names(self.rows):
            part = self.rows[len(ids) : len(ids) + PART]
            numbers = self.columns.folder[part].tolist()
            texts = os.fsdecode(names).split("\0")
            ids += [prefixes[n] + printable(name) for n, name in zip(numbers, texts, strict=True)]
        return ids

    def stamps(self) -> Int64[np.ndarray, "m 2"]:
        """Return the size in bytes and the time of change in ns of each file."""
        columns = self.columns
        return np.stack([columns.sizes[self.rows], columns.times[self.rows]], 1)

    def suffixes(self) -> frozenset[str]:
        """Return the endings of all files of the columns, in lower case."""
        return self.columns.suffixes

    def folders(self) -> list[str]:
        """Return the paths of the folders that the files are in."""
        columns = self.columns
        numbers = np.unique(columns.folder[self.rows]).tolist()
        return [os.path.join(columns.root, columns.folders[n]) for n in numbers]


def join_names(names: Iterable[str]) -> bytes:
    """Return file names as `FileColumns` holds them.

    Args:
        names: As the system spells them.
    """
    return b"\0".join(map(os.fsencode, names))


# -- from lists, and back

MIN_PACKED = 256
"""Files of a class below which a list is as small: columns have a fixed size of some kilobytes."""


def pack(files: Sequence[File], least: int = MIN_PACKED) -> Sequence[File]:
    """Return files as a table where they are many; as they are where their ids are unusual.

    Args:
        files: With ids that end as their paths do.
        least: How many files are many.
    """
    if len(files) < max(least, 1) or isinstance(files, FileTable):
        return files
    root = files[0].path.removesuffix(files[0].id)
    folders: dict[str, int] = {}
    numbers, names = list[int](), list[str]()
    for file in files:
        if file.path != root + file.id:
            return files  # of several roots, or with an id that is not the path
        folder, name = os.path.split(file.id)
        numbers.append(folders.setdefault(folder, len(folders)))
        names.append(name)
    stamps = np.array([file.stamp for file in files], np.int64)
    columns = FileColumns(
        root, [*folders], np.array(numbers, np.int32), join_names(names),
        stamps[:, 0].copy(), stamps[:, 1].copy(),
    )  # fmt: skip
    return FileTable(columns, np.arange(len(files), dtype=np.int32))


def list_ids(files: Sequence[File]) -> list[str]:
    """Return the id of each file.

    Args:
        files: A list or a table.
    """
    return files.list_ids() if isinstance(files, PackedFiles) else [file.id for file in files]


def join_files(groups: Sequence[Sequence[File]]) -> Sequence[File]:
    """Return the files of all groups: a table where they are many, and all are of the same root.

    Args:
        groups: Lists and tables.
    """
    if any(isinstance(group, FileTable) for group in groups):
        packed = [pack(group, 1) for group in groups if len(group)]
        tables = [group for group in packed if isinstance(group, FileTable)]
        if len(tables) == len(packed) and _can_be_joined(tables):
            return join_tables(tables)
    return pack([file for group in groups for file in group])


def _can_be_joined(tables: Sequence[FileTable]) -> bool:
    """Return whether tables are of one root, and not of archives that differ."""
    if all(table.columns is tables[0].columns for table in tables):
        return True
    columns = [table.columns for table in tables]
    return len({each.root for each in columns}) == 1 and {*map(type, columns)} == {FileColumns}


def join_tables(tables: Sequence[FileTable]) -> FileTable:
    """Return the files of tables of one root as a table with new columns.

    Args:
        tables: At least one.

    Raises:
        ValueError: They are of several roots.
    """
    if all(table.columns is tables[0].columns for table in tables):
        rows = np.concatenate([table.rows for table in tables])
        return FileTable(tables[0].columns, rows)
    root = tables[0].columns.root
    folders: list[str] = []
    numbers, names = list[np.ndarray](), list[bytes]()
    for table in tables:
        columns = table.columns
        if columns.root != root or type(columns) is not FileColumns:
            raise ValueError(f"tables of several roots: {root}, {columns.root}")
        numbers.append(columns.folder[table.rows] + np.int32(len(folders)))
        folders += columns.folders
        names += columns.iterate_names(table.rows)
    stamps = np.concatenate([table.stamps() for table in tables])
    joined = FileColumns(
        root, folders, np.concatenate(numbers).astype(np.int32),
        b"\0".join(names),
        stamps[:, 0].copy(), stamps[:, 1].copy(),
    )  # fmt: skip
    return FileTable(joined, np.arange(len(stamps), dtype=np.int32))
