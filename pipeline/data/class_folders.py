"""The images of a folder that holds a folder for each class."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path

from pipeline.data import image_search
from pipeline.data.doubtful_files import count_doubtful
from pipeline.data.file_table import list_ids, pack
from pipeline.data.left_out import EMPTY_CLASS, LOOSE, SAME_NAME, LeftOut, Reason
from pipeline.data.listing import File, make_ids_unique
from pipeline.errors import UserError
from pipeline.ops.text import printable, spell_out

INSTANCES = re.compile(r"instances_.*\.json")  # COCO files, which are read by their names


def list_by_class(folder: Path, prefix: str, left_out: LeftOut) -> dict[str, Sequence[File]]:
    """Return the image files in each class folder.

    Args:
        folder: The folder with the class folders.
        prefix: What ids begin with: its path below the root of the data set, or empty.
        left_out: Where to count what is left out.

    Raises:
        UserError: The folder cannot be read.
    """
    entries = _list_entries(folder)
    is_link, names = folder.is_symlink(), {entry.name for entry in entries}
    files: dict[str, Sequence[File]] = {}
    spellings: dict[str, list[str]] = {}
    for entry in entries:
        name = printable(entry.name)
        path = f"{prefix}/{name}" if prefix else name
        if os.path.isdir(entry.path):
            if image_search.is_searched(entry, path, left_out):
                through_link = is_link or entry.is_symlink()
                images = _search_class(entry.path, path, left_out, through_link)
                files[name] = [*files[name], *images] if name in files else pack(images)
                spellings.setdefault(name, []).append(spell_out(entry.name))
        else:
            _count_loose(entry, path, names, left_out)
    joined = {
        name: _join_spellings(name, of_class, spellings[name], left_out)
        for name, of_class in files.items()
        if of_class
    }
    unique = image_search.drop_repeated(joined, left_out)
    count_doubtful((id for files in unique.values() for id in list_ids(files)), left_out)
    return unique


def _join_spellings(
    name: str, files: Sequence[File], spellings: Sequence[str], left_out: LeftOut
) -> Sequence[File]:
    """Return the files of a class with ids that differ.

    Args:
        name: The class folder, in NFC.
        files: Of all folders whose names are the same in NFC.
        spellings: How these folders are spelled.
        left_out: Where it is counted that several were joined.
    """
    if len(spellings) > 1:
        why = f"the same name in two Unicode forms, read as the class {name!r}"
        left_out.add_all(Reason("class folder", why), spellings)
    unique, given = make_ids_unique(files)
    left_out.add_all(SAME_NAME, given)
    return unique


def count_beside_splits(root: Path, searched: Collection[str | None], left_out: LeftOut) -> None:
    """Count the files in a folder of splits, and its folders that are never searched.

    Args:
        root: The folder.
        searched: Names of folders in it that are splits or that other notes are about.
        left_out: Where they are counted.

    Raises:
        UserError: The folder cannot be read.
    """
    entries = _list_entries(root)
    names = {entry.name for entry in entries}
    for entry in entries:
        if not os.path.isdir(entry.path):
            _count_loose(entry, printable(entry.name), names, left_out)
        elif entry.name not in searched:
            image_search.is_searched(entry, printable(entry.name), left_out)


def _list_entries(folder: Path) -> list[os.DirEntry[str]]:
    """Return the entries of a folder by their names. Raise UserError if it cannot be read."""
    try:
        with os.scandir(folder) as scan:
            return sorted(scan, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"{folder}: the folder cannot be read ({error.strerror})") from None


def find_tables(root: Path) -> set[str]:
    """Return the absolute paths of the files that are read by their names, and are no images.

    Args:
        root: The data set: class names and COCO files are in it, COCO files in annotations/, too.
    """
    paths = [root / "classes.txt"]
    for folder in (root, root / "annotations"):
        with suppress(OSError):
            paths += [path for path in folder.iterdir() if INSTANCES.fullmatch(path.name)]
    return set(map(os.path.abspath, paths))


def _search_class(path: str, name: str, left_out: LeftOut, is_link: bool) -> list[File]:
    """Return the image files in a class folder; count it if it has none, unless that is said."""
    before = left_out.unsearched
    files = image_search.search(path, name, left_out, is_link).files
    if not files and left_out.unsearched == before:
        left_out.add(EMPTY_CLASS, name)
    return files


def _count_loose(
    entry: os.DirEntry[str], name: str, names: Collection[str], left_out: LeftOut
) -> None:
    """Count a file that is in no class folder."""
    try:
        if image_search.is_image_file(entry, name, names, left_out, by_content=None):
            left_out.add(LOOSE, name)
    except OSError as error:
        left_out.add_error(name, error)
