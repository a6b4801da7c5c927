"""Image files of folders in arrays: a million of them take some 60 MB."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, overload

import numpy as np

from pipeline.data.listing import File, PackedFiles
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
        names = self.list_names()
        return frozenset(os.path.splitext(name)[1].lower() for name in names)

    def list_names(self) -> list[str]:
        """Return the name of each file in its folder, as the system spells it."""
        return os.fsdecode(self.names).split("\0") if len(self.sizes) else []

    def name(self, row: int) -> str:
        """Return the name of a file in its folder.

        Args:
            row: Which file.
        """
        start = int(self.ends[row - 1]) + 1 if row else 0
        return os.fsdecode(self.names[start : int(self.ends[row])])


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
        folder = columns.folders[number]
        path = os.path.join(columns.root, folder, name)
        stamp = (int(columns.sizes[row]), int(columns.times[row]))
        return File(columns.prefixes[number] + printable(name), path, stamp)

    def take(self, positions: Int[np.ndarray, k]) -> FileTable:
        """Return the files at some positions.

        Args:
            positions: In this table.
        """
        return FileTable(self.columns, self.rows[positions])

    def join(self, other: PackedFiles) -> FileTable:
        """Return these files and the others after them.

        Args:
            other: A table of the same columns.

        Raises:
            TypeError: It is of other columns.
        """
        if not isinstance(other, FileTable) or other.columns is not self.columns:
            raise TypeError("tables of several columns cannot be joined")
        return FileTable(self.columns, np.concatenate([self.rows, other.rows]))

    def list_ids(self) -> list[str]:
        """Return the id of each file."""
        names, prefixes = self.columns.list_names(), self.columns.prefixes
        numbers = self.columns.folder[self.rows].tolist()
        return [
            prefixes[number] + printable(names[row])
            for number, row in zip(numbers, self.rows.tolist(), strict=True)
        ]

    def stamps(self) -> Int64[np.ndarray, "m 2"]:
        """Return the size in bytes and the time of change in ns of each file."""
        columns = self.columns
        return np.stack([columns.sizes[self.rows], columns.times[self.rows]], 1)

    def suffixes(self) -> frozenset[str]:
        """Return the endings of all files of the columns, in lower case."""
        return self.columns.suffixes


def join_names(names: Iterable[str]) -> bytes:
    """Return file names as `FileColumns` holds them.

    Args:
        names: As the system spells them.
    """
    return b"\0".join(map(os.fsencode, names))
