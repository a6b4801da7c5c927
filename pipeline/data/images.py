"""Images without any label, for `predict`: a file, a folder, a glob, or a list of these.

    data.paths=photos/                   a folder, with all below it
    data.paths="photos/*.jpg"            a glob; ** goes through folders
    data.paths=[a.jpg,b.png,photos/]     a list
    data.paths=list.txt                  a text file of paths, one a line

A file that is named directly is tried whatever its suffix; in folders and globs only files with
the suffix of an image format are.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pipeline.data import listing
from pipeline.data.listing import File, Listing, OnDisk, Splits
from pipeline.errors import UserError
from pipeline.formats.files import find_spelling, read_lines
from pipeline.ops.text import printable
from pipeline.types import CocoIds, GroundTruth, Split


@dataclass(frozen=True)
class Images(OnDisk):
    """A data set (`pipeline.protocols.AnnotatedDataSet`) of unlabelled images, all in split `val`.

    Args:
        paths: A file, a folder, a glob, a text file of paths, or a list of these.
        size: What images are scaled to in pixels: a side of a square, or height and width.

    Raises:
        UserError: An option is out of range, or, once images are asked for, there is none.
    """

    paths: str | Sequence[str]
    size: int | tuple[int, int] = 224

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", listing.parse_input_size(self.size))

    @property
    def classes(self) -> tuple[str, ...]:
        """No class."""
        return ()

    @cached_property
    def splits(self) -> Splits:
        """All images in `val`, each once, in the order in which the paths name them.

        Raises:
            UserError: the paths hold no image.
        """
        notes: list[str] = []
        paths = [self.paths] if isinstance(self.paths, str) else list(self.paths)
        sources = [source for path in paths for source in _resolve(path, notes)]
        # A file that several paths name is listed once.
        stamps = {file.path: file.stamp for source in sources for file in source.files}
        if not stamps:
            looked = ", ".join(map(repr, paths)) or "an empty list"
            why = "".join(f"\n  {note}" for note in notes[:10])
            raise UserError(
                f"data.paths: no image in {looked} (seen from {os.getcwd()}); expected an image "
                f"file, a folder, a glob, a .txt file of paths, or a list of these{why}"
            )
        # Ids are paths below the folder that all have in common, so files of equal names differ.
        common = os.path.commonpath([source.folder for source in sources if source.files])
        start = len(common.rstrip("/")) + 1
        files = [File(printable(path[start:]), path, stamp) for path, stamp in stamps.items()]
        files, clashes = listing.make_ids_unique(files)
        notes += clashes
        empty = Listing([], [], ())
        return Splits(empty, empty, Listing(files, [-1] * len(files), ()), notes)

    def coco_names(self, split: Split) -> CocoIds:
        """Return image numbers from 1 on, ids as file names, and no category."""
        ids = self.ids(split)
        return CocoIds(range(1, len(ids) + 1), ids, ())

    def truth(self, split: Split) -> Mapping[str, GroundTruth]:
        """Return no annotations."""
        return {}

    def truth_notes(self) -> list[str]:
        """Return no notes."""
        return []

    def truth_fingerprint(self, split: Split) -> str:
        """Return `none`, as there are no annotations."""
        return "none"


@dataclass(frozen=True)
class Source:
    """Image files that a path stands for.

    Attributes:
        folder: An absolute path that all files are below.
        files: In the order of their names.
    """

    folder: str
    files: Sequence[File]


def _resolve(path: str, notes: list[str], within_list: bool = False) -> Iterator[Source]:
    """Yield the image files that a path stands for. Add what cannot be used to the notes."""
    path = str(find_spelling(Path(os.path.abspath(os.path.expanduser(path)))))
    if os.path.isdir(path):
        contents = listing.search(path, printable(path))
        notes += contents.notes
        yield Source(path, contents.files)
    elif os.path.isfile(path):
        # A list within a list is not read as a list: it might name itself.
        if path.lower().endswith(".txt") and not within_list:
            for _, line in read_lines(Path(path), errors="surrogateescape"):
                beside = str(find_spelling(Path(os.path.dirname(path), line)))
                yield from _resolve(beside if os.path.lexists(beside) else line, notes, True)
        else:
            yield Source(os.path.dirname(path), list(_list_file(path, notes)))
    elif glob.has_magic(path) and not os.path.lexists(path):
        yield from _expand_pattern(path, notes)
    elif os.path.lexists(path):
        what = "a link to nothing" if os.path.islink(path) else "neither a file nor a folder"
        notes.append(f"{printable(path)}: {what}")
    else:
        notes.append(f"{printable(path)}: no such file or folder")


def _expand_pattern(pattern: str, notes: list[str]) -> Iterator[Source]:
    """Yield the image files that a glob stands for, below the last folder that is no pattern."""
    fixed = pattern
    while glob.has_magic(fixed):
        fixed = os.path.dirname(fixed)
    for match in sorted(glob.glob(pattern, recursive=True)):
        if os.path.isdir(match):
            # A `**` at the end also matches all that is in the folders.
            if not pattern.endswith("**"):
                sources = _resolve(match, notes)
                yield Source(fixed, [file for source in sources for file in source.files])
        elif listing.is_image_name(os.path.basename(match)):
            yield Source(fixed, list(_list_file(match, notes)))


def _list_file(path: str, notes: list[str]) -> Iterator[File]:
    """Yield the file, or add to the notes why it cannot be read."""
    try:
        yield File.from_path(printable(path), path)
    except OSError as error:
        notes.append(f"{printable(path)}: cannot be looked at ({error.strerror})")
