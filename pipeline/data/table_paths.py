r"""Paths of a table's images, found as they are written, or as they were meant.

birds/a.png            below data.root, or beside the table
birds\a.png            with the backslashes of Windows
photos/birds/a.png     where data.root is photos/
/home/ann/photos/birds/a.png, s3://bucket/birds/a.png     of another machine: by the longest end
                                                          that is below data.root
a                      the name without the ending of the file
"""

from __future__ import annotations

import os
import stat
import unicodedata
import urllib.parse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from pipeline.data.listing import SUFFIXES
from pipeline.data.path_list import WINDOWS_DRIVE
from pipeline.formats.coco_names import SCHEME

TRIED_ENDINGS = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG", ".tif", ".tiff", ".bmp", ".webp")

AS_WRITTEN = ""
BY_END = "with a path of another place: found by its end below data.root"
WITHOUT_ENDING = "without the ending of the file: found with it"


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file that a table names.

    Attributes:
        path: Where it is, absolute.
        stamp: Its size in bytes and its time of change in nanoseconds.
        how: What had to be changed about the path, as AS_WRITTEN or BY_END.
    """

    path: str
    stamp: tuple[int, int]
    how: str


@dataclass
class PathFinder:
    """Finds the files that paths of a table stand for.

    Attributes:
        folders: What paths are relative to, the first first; absolute.
    """

    folders: Sequence[str]
    _prefix: str = field(default="", init=False)
    _are_folders: dict[str, bool] = field(default_factory=dict, init=False)

    def find(self, text: str) -> FoundFile | None:
        """Return the file that a path stands for; None where there is none.

        Args:
            text: The path, as in the table.
        """
        if not text or "\0" in text:
            return None
        place = self._place(self.folders[0], text)  # nearly all are there
        if (stamp := _get_stamp(place)) is not None:
            return FoundFile(place, stamp, AS_WRITTEN)
        spellings = list(_spell(text))
        for spelling in spellings:
            for place in self._places(spelling):
                if (stamp := _get_stamp(place)) is not None:
                    return FoundFile(place, stamp, AS_WRITTEN)
        for spelling in spellings:
            if (file := self._find_end(spelling)) is not None:
                return file
        if os.path.splitext(text)[1].lower() not in SUFFIXES:
            return self._find_ending(spellings)
        return None

    def _find_ending(self, spellings: Sequence[str]) -> FoundFile | None:
        """Return the file that a path without the ending of an image stands for."""
        for spelling in spellings:
            for place in self._places(spelling):
                for ending in TRIED_ENDINGS:
                    if (stamp := _get_stamp(place + ending)) is not None:
                        return FoundFile(place + ending, stamp, WITHOUT_ENDING)
        return None

    def _places(self, spelling: str) -> Iterator[str]:
        for folder in self.folders:
            yield self._place(folder, spelling)

    def _is_folder(self, path: str) -> bool:
        if path not in self._are_folders:
            self._are_folders[path] = os.path.isdir(path)
        return self._are_folders[path]

    @staticmethod
    def _place(folder: str, spelling: str) -> str:
        """Return the path, without `..`, so that a file has a single path."""
        if spelling[0] in "/~." or "/." in spelling or "//" in spelling:
            return os.path.normpath(os.path.join(folder, os.path.expanduser(spelling)))
        return f"{folder}/{spelling}"

    def _find_end(self, spelling: str) -> FoundFile | None:
        """Return the file below a folder that the path of another place ends in."""
        starts = list(_list_ends(spelling, [os.path.basename(folder) for folder in self.folders]))
        if self._prefix and spelling.startswith(self._prefix):  # as the path before
            starts.insert(0, len(self._prefix))
        for start in starts:
            end = spelling[start:]
            for folder in self.folders:
                place = os.path.normpath(os.path.join(folder, end))
                if (stamp := _get_stamp(place)) is None:
                    continue
                dropped = spelling[:start].rstrip("/").rpartition("/")[2]
                if dropped and self._is_folder(os.path.join(folder, dropped)):
                    return None  # val/1.png, which is not there, is not 1.png
                self._prefix = spelling[:start]
                return FoundFile(place, stamp, BY_END)
        return None


def _spell(text: str) -> Iterator[str]:
    """Yield the ways in which a path can be meant, the literal way first."""
    yield text
    plain = text
    if text.lower().startswith("file://"):
        plain = urllib.parse.unquote(text[len("file://") :])
        yield plain
    if "\\" in plain:
        plain = plain.replace("\\", "/")
        yield plain
    if not plain.isascii():
        yield from (unicodedata.normalize(form, plain) for form in ("NFC", "NFD"))


def _list_ends(spelling: str, folder_names: Sequence[str]) -> Iterator[int]:
    """Yield where the ends of a path begin that may lie below a folder, the longest first.

    Of a relative path only the name of the folder itself can be left away: an image in another
    folder of the same name would be another image.
    """
    is_elsewhere = spelling.startswith("/") or WINDOWS_DRIVE.match(spelling)
    address = SCHEME.match(spelling)
    start = address.end() if address else 1 if spelling.startswith("/") else 0
    if address or is_elsewhere:
        if not address:
            yield start
        while (place := spelling.find("/", start)) >= 0:
            start = place + 1
            yield start
    else:
        first, slash, _ = spelling.removeprefix("./").partition("/")
        if slash and first in folder_names:
            yield spelling.index("/", spelling.index(first)) + 1


def _get_stamp(path: str) -> tuple[int, int] | None:
    """Return size and time of change of a file; None where there is none."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return (status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None
