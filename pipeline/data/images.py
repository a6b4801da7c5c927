"""Images without any label, for `predict`: a file, a folder, a glob, or a list of these.

    data.paths=photos/                   a folder, with all below it
    data.paths="photos/*.jpg"            a glob; ** goes through folders
    data.paths=[a.jpg,b.png,photos/]     a list
    data.paths=list.txt                  a text file of paths, one a line

What is named directly is tried whatever its ending; in folders and globs only what is called like
an image is.
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
from pipeline.formats.files import read_lines
from pipeline.ops.text import printable
from pipeline.types import CocoIds, GroundTruth, Split


@dataclass(frozen=True)
class Images(OnDisk):
    paths: str | Sequence[str]
    size: int | tuple[int, int] = 224  # what images are scaled to: one side, or height and width

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", listing.input_size(self.size))

    @property
    def classes(self) -> tuple[str, ...]:
        return ()

    @cached_property
    def splits(self) -> Splits:
        notes: list[str] = []
        paths = [self.paths] if isinstance(self.paths, str) else list(self.paths)
        sources = [source for path in paths for source in _sources(path, notes)]
        # What several of them name is there once.
        found = {file.path: file.stamp for source in sources for file in source.files}
        if not found:
            looked = ", ".join(map(repr, paths)) or "an empty list"
            why = "".join(f"\n  {note}" for note in notes[:10])
            raise UserError(
                f"data.paths: no image in {looked} (seen from {os.getcwd()}); expected an image "
                f"file, a folder, a glob, a .txt file of paths, or a list of these{why}"
            )
        # Ids are paths below the folder that all have in common: two of one name stay apart.
        common = os.path.commonpath([source.folder for source in sources if source.files])
        start = len(common.rstrip("/")) + 1
        files = [File(printable(path[start:]), path, stamp) for path, stamp in found.items()]
        none = Listing([], [], ())
        return Splits(none, none, Listing(files, [-1] * len(files), ()), notes)

    def coco_names(self, split: Split) -> CocoIds:
        ids = self.ids(split)
        return CocoIds(range(1, len(ids) + 1), ids, ())

    def truth(self, split: Split) -> Mapping[str, GroundTruth]:
        return {}

    def truth_notes(self) -> list[str]:
        return []

    def truth_fingerprint(self, split: Split) -> str:
        return "none"


@dataclass(frozen=True)
class Source:
    folder: str  # absolute; the files are somewhere below
    files: Sequence[File]


def _sources(path: str, notes: list[str], within_list: bool = False) -> Iterator[Source]:
    """What one path stands for; what cannot be used goes to the notes."""
    path = os.path.abspath(os.path.expanduser(path))
    if os.path.isdir(path):
        inside = listing.search(path, printable(path))
        notes += inside.notes
        yield Source(path, inside.files)
    elif os.path.isfile(path):
        # A list is not looked for in a list: it might name itself.
        if path.lower().endswith(".txt") and not within_list:
            for _, line in read_lines(Path(path), errors="surrogateescape"):
                beside = os.path.join(os.path.dirname(path), line)
                yield from _sources(beside if os.path.lexists(beside) else line, notes, True)
        else:
            yield Source(os.path.dirname(path), list(_file(path, notes)))
    elif glob.has_magic(path) and not os.path.lexists(path):
        yield from _expand_pattern(path, notes)
    elif os.path.lexists(path):
        what = "a link to nothing" if os.path.islink(path) else "neither a file nor a folder"
        notes.append(f"{printable(path)}: {what}")
    else:
        notes.append(f"{printable(path)}: no such file or folder")


def _expand_pattern(pattern: str, notes: list[str]) -> Iterator[Source]:
    """Yield what a glob pattern stands for, below the last folder that is no pattern."""
    fixed = pattern
    while glob.has_magic(fixed):
        fixed = os.path.dirname(fixed)
    for match in sorted(glob.glob(pattern, recursive=True)):
        if os.path.isdir(match):
            # `**` gives the folders below one by one; any other folder is meant as a whole.
            if not pattern.endswith("**"):
                yield Source(fixed, [s for inner in _sources(match, notes) for s in inner.files])
        elif listing.is_image_name(os.path.basename(match)):
            yield Source(fixed, list(_file(match, notes)))


def _file(path: str, notes: list[str]) -> Iterator[File]:
    try:
        yield File.at(printable(path), path)
    except OSError as error:
        notes.append(f"{printable(path)}: cannot be looked at ({error.strerror})")
