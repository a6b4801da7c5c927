"""Search folders for image files; count what is no image, is hidden, or is there twice."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.data.left_out import (
    BACKUP,
    BY_CONTENT,
    DATA_ENDINGS,
    HIDDEN_FILE,
    HIDDEN_FOLDER,
    LINK_BACK,
    LINK_TO_NOTHING,
    NOT_A_FILE,
    REPEATED,
    RESULTS,
    RESULTS_FILE,
    SEVERAL_CLASSES,
    SYSTEM_FILE,
    TRAINED_AND_SCORED,
    LeftOut,
    Reason,
)
from pipeline.data.listing import SUFFIXES, File
from pipeline.data.system_files import (
    SOFTWARE,
    VIRTUAL_ENVIRONMENT,
    describe_system_folder,
    is_album_art,
    is_system_file,
    original_of_backup,
)
from pipeline.errors import UserError
from pipeline.formats import signature
from pipeline.formats.results_folder import (
    OUTPUT_FILES,
    find_results_folder,
    holds_results,
)
from pipeline.ops.text import printable

MAX_FOLDER_DEPTH = 200  # more is a mistake in the folders, and would exceed Python's recursion


@dataclass
class Search:
    """Image files below a folder, and what was left out.

    Attributes:
        files: In the order of their names.
        left_out: What was left out; of all searches of a data set where they share it.
    """

    files: list[File] = field(default_factory=list)
    left_out: LeftOut = field(default_factory=LeftOut)

    @property
    def notes(self) -> list[str]:
        """What was left out, a line for each reason."""
        return self.left_out.notes()


def is_image_name(name: str) -> bool:
    """Return whether a file name is not hidden and has a suffix of an image format."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES


def search(
    folder: Path | str,
    prefix: str = "",
    left_out: LeftOut | None = None,
    is_link: bool | None = None,
) -> Search:
    """List the image files below a folder, at any depth, in the order of their names.

    Links are followed, except those back to a folder above them. Hidden folders, folders of systems
    and folders with results are not searched. A file without the suffix of an image format is
    listed if its first bytes are those of an image.

    Args:
        folder: Where to search.
        prefix: What ids begin with, without a slash at its end; empty: nothing.
        left_out: Where to count what is left out; None: in the result alone.
        is_link: Whether a symbolic link leads to the folder; None: whether it is one itself.
    """
    result = Search() if left_out is None else Search(left_out=left_out)
    is_link = os.path.islink(folder) if is_link is None else is_link
    if is_link and result.left_out.is_in_results(os.fspath(folder)):
        result.left_out.add_unsearched(RESULTS, prefix or ".")
    else:
        _walk(os.fspath(folder), prefix, result, _folders_above(folder), is_link)
    return result


def _folders_above(folder: Path | str) -> frozenset[tuple[int, int]]:
    """Return device and inode of all folders above.

    A link back to any of these would list the whole data set again, under a wrong class.
    """
    above = {*Path(os.path.abspath(folder)).parents, *Path(os.path.realpath(folder)).parents}
    return frozenset((stat.st_dev, stat.st_ino) for stat in map(os.stat, above))


def _walk(
    folder: str, prefix: str, result: Search, above: frozenset[tuple[int, int]], is_link: bool
) -> None:
    """Add the image files below a folder to the result.

    Args:
        folder: Where to search.
        prefix: What ids begin with.
        result: What the files, and what is left out, are added to.
        above: Device and inode of the folders above.
        is_link: Whether a symbolic link leads to the folder.
    """
    name, left_out = prefix or ".", result.left_out
    try:
        stat = os.stat(folder)
        inode = (stat.st_dev, stat.st_ino)
        if inode in above:
            left_out.add_unsearched(LINK_BACK, name)
            return
        if len(above) > MAX_FOLDER_DEPTH:
            why = f"more than {MAX_FOLDER_DEPTH} folders deep, not looked into"
            left_out.add_unsearched(Reason("folder", why), name)
            return
        left_out.searched[folder] = stat.st_mtime_ns
        with os.scandir(folder) as scan:
            entries = sorted(scan, key=lambda entry: entry.name)
    except OSError as error:
        why = f"the folder cannot be read ({error.strerror})"
        left_out.add_unsearched(Reason("folder", why), name)
        return
    names = {entry.name for entry in entries}
    if holds_results(folder, names):
        left_out.add_unsearched(RESULTS, name)
        return
    if VIRTUAL_ENVIRONMENT in names:
        left_out.add_system_folder(name, SOFTWARE)
        return
    for entry in entries:
        name = f"{prefix}/{printable(entry.name)}" if prefix else printable(entry.name)
        try:
            through_link = is_link or entry.is_symlink()
            if not entry.is_dir():
                _add_file(entry, name, names, result, through_link)
            elif is_searched(entry, name, left_out):
                _walk(entry.path, name, result, above | {inode}, through_link)
        except OSError as error:
            left_out.add_error(name, error)


def is_searched(entry: os.DirEntry[str], name: str, left_out: LeftOut) -> bool:
    """Return whether a folder is searched for images. Count it if it is not.

    Args:
        entry: A folder, or a link to one.
        name: What notes call it.
        left_out: Where it is counted.
    """
    around = os.path.basename(os.path.dirname(entry.path))
    if content := describe_system_folder(entry.name, around):
        left_out.add_system_folder(name, content)
    elif entry.name.startswith("."):
        left_out.add(HIDDEN_FOLDER, name)
    elif entry.is_symlink() and left_out.is_in_results(entry.path):
        left_out.add_unsearched(RESULTS, name)
    else:
        return True
    return False


def _add_file(
    entry: os.DirEntry[str], name: str, names: Collection[str], result: Search, is_link: bool
) -> None:
    """List a file if it is an image, or count why it is left out.

    Args:
        entry: Of a folder; not a folder itself.
        name: The id of the file.
        names: All names in its folder.
        result: What it is added to.
        is_link: Whether a symbolic link leads to it.

    Raises:
        OSError: The file vanished, or cannot be looked at.
    """
    left_out = result.left_out
    if is_image_file(entry, name, names, left_out):
        stat = entry.stat()
        if is_link or stat.st_nlink > 1:
            left_out.links[entry.path] = is_link
        result.files.append(File(name, entry.path, (stat.st_size, stat.st_mtime_ns)))


def is_image_file(
    entry: os.DirEntry[str],
    name: str,
    names: Collection[str],
    left_out: LeftOut,
    by_content: Reason | None = BY_CONTENT,
) -> bool:
    """Return whether an entry of a folder is an image. Count it if it is not.

    Args:
        entry: Not a folder.
        name: What notes call it.
        names: All names in its folder.
        left_out: Where it is counted.
        by_content: What an image without the suffix of one is counted as; None: not counted.

    Raises:
        OSError: The file cannot be read.
    """
    if entry.name in OUTPUT_FILES:  # ours, and nobody takes them for photographs
        return False
    is_image = is_image_name(entry.name)
    if is_album_art(entry.name, names) or (not is_image and is_system_file(entry.name)):
        left_out.add(SYSTEM_FILE, name)
    elif entry.name.startswith("."):
        # macOS hides what stands for a file in iCloud: `.IMG_1.jpg.icloud`.
        ending = os.path.splitext(entry.name)[1].lower().lstrip(".")
        if signature.ENDING_TYPES.get(ending) == signature.PLACEHOLDER:
            left_out.add_type(name, signature.PLACEHOLDER)
        else:
            left_out.add(HIDDEN_FILE, name)
    elif not entry.is_file():
        left_out.add(LINK_TO_NOTHING if entry.is_symlink() else NOT_A_FILE, name)
    elif entry.is_symlink() and left_out.is_in_results(entry.path):
        left_out.add(RESULTS_FILE, name)
    elif original_of_backup(entry.name) in names:
        left_out.add(BACKUP, name)
    else:
        return is_image or is_image_content(entry.path, name, left_out, by_content)
    return False


def is_image_content(
    path: str, name: str, left_out: LeftOut, by_content: Reason | None = BY_CONTENT
) -> bool:
    """Return whether a file without the suffix of an image is one by its content. Count it.

    Args:
        path: The file.
        name: What notes call it.
        left_out: Where it is counted: as an image, by its type, or as another file.
        by_content: What an image is counted as; None: it is not counted.

    Raises:
        OSError: The file cannot be read.
    """
    if left_out.tables and os.path.abspath(path) in left_out.tables:
        return False
    is_data = os.path.splitext(path)[1].lower().lstrip(".") in DATA_ENDINGS
    file_type = None if is_data else signature.identify(path)
    if file_type is None or not (file_type.is_readable or file_type.remedy):
        left_out.add_other(name)
        return False
    if not file_type.is_readable:
        left_out.add_type(name, file_type)
        return False
    if file_type.is_image and by_content is not None:
        left_out.add(by_content, name)
    return True


def drop_repeated(
    groups: Mapping[str, Sequence[File]], left_out: LeftOut, is_certain: bool = False
) -> dict[str, Sequence[File]]:
    """Leave each file once, of those that links list several times.

    The path that no symbolic link leads to is kept, or else the first. Where a file is in several
    classes by hard links, or by symbolic links from each, it is kept in each: no place is the
    right one.

    Args:
        groups: Files by class.
        left_out: What is known of links; what is dropped is counted there.
        is_certain: Whether files are compared even where the search met no link.

    Returns:
        The files by class, in their order.
    """
    if not (is_certain or left_out.links):
        return dict(groups)
    places: dict[tuple[int, int], list[tuple[str, File]]] = {}
    for name, files in groups.items():
        for file in files:
            if (inode := _inode(file)) is not None:
                places.setdefault(inode, []).append((name, file))
    dropped = set()
    for same in places.values():
        direct = [place for place in same if not left_out.links.get(place[1].path)]
        kept = dict(reversed(direct or same))  # the first of each class
        dropped |= {file.path for name, file in same if kept.get(name) is not file}
        if len(kept) > 1:
            left_out.add(SEVERAL_CLASSES, same[0][1].id)
    for file in (file for files in groups.values() for file in files if file.path in dropped):
        left_out.add(REPEATED, file.id)
    return {
        name: [file for file in files if file.path not in dropped] for name, files in groups.items()
    }


def count_shared(trained: Iterable[File], scored: Iterable[File], left_out: LeftOut) -> None:
    """Count the images that are trained on and scored under another path, by links.

    Args:
        trained: Files that are trained on.
        scored: Files that are scored.
        left_out: What is known of links; where they are counted.
    """
    if left_out.links:
        inodes = {_inode(file) for file in trained} - {None}
        for file in scored:
            if _inode(file) in inodes:
                left_out.add(TRAINED_AND_SCORED, file.id)


def _inode(file: File) -> tuple[int, int] | None:
    """Return what identifies a file on its device; None where the system does not say."""
    try:
        stat = os.stat(file.path)
    except (OSError, ValueError):  # ValueError: it is in an archive
        return None
    return (stat.st_dev, stat.st_ino) if stat.st_ino else None


def refuse_results(given: str, path: str) -> None:
    """Raise UserError if a path is in a folder with results.

    Args:
        given: The option with its value, for the message.
        path: The path, as the user wrote it.

    Raises:
        UserError: Names the folder with results, and says what to name instead.
    """
    if folder := find_results_folder(path):
        raise UserError(
            f"{given}: {folder} holds results that label2box wrote, and drawn pictures are no "
            "photographs; name the folder of the photographs, or copy files out of the results"
        )
