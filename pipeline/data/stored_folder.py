"""A folder of class folders in an archive or at an address, read without unpacking.

    data.root=photos.zip               photos/train/cat/1.jpg: a folder around all is left away
    data.root=s3://bucket/photos       train/cat/1.jpg

Layout, names of classes and splits by hash are those of the unpacked folder, and so are the ids.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipeline.data.archive_files import StoredFiles, list_stored
from pipeline.data.class_names import ClassNames, read_class_names
from pipeline.data.doubtful_files import count_doubtful
from pipeline.data.image_search import is_image_name
from pipeline.data.left_out import HIDDEN_FILE, LOOSE, SYSTEM_FILE, LeftOut, Reason
from pipeline.data.listing import File, PackedFiles
from pipeline.data.split_names import CONTAINERS
from pipeline.data.system_files import describe_system_folder, is_album_art, is_system_file
from pipeline.errors import UserError
from pipeline.formats import stored
from pipeline.ops.text import printable, to_nfc

CLASS_FILE = "classes.txt"
SPLIT_WORDS = ("train", "training", "val", "valid", "validation", "test", "testing")


@dataclass(frozen=True)
class TreeFolder:
    """A folder that is known by the names of its files alone; it stands where a Path would.

    Attributes:
        location: Of the archive, or the address.
        inside: Names of the folders in each folder, by its path.
        path: Of this folder below the top; empty: the top itself.
    """

    location: str
    inside: Mapping[str, Sequence[str]] = field(repr=False)
    path: str = ""

    def __truediv__(self, name: str) -> TreeFolder:
        """Return the folder of a name in it."""
        return TreeFolder(self.location, self.inside, f"{self.path}/{name}".lstrip("/"))

    def __str__(self) -> str:
        """Return what messages call it."""
        return f"{self.location}/{self.path}".rstrip("/")

    @property
    def name(self) -> str:
        """The last part of its path."""
        return os.path.basename(str(self))

    @property
    def folders(self) -> Sequence[str]:
        """Names of the folders in it, sorted."""
        return self.inside.get(self.path, ())


@dataclass(frozen=True)
class FolderContents:
    """The images of an archive or address, by their folders.

    Attributes:
        tree: The folders.
        stored: All files, with ids as the archive spells them.
        start: How many letters of an id are the folder around all.
        images: The rows of the images.
        left_out: What is no image.
        class_file: The location of classes.txt; None: there is none.
    """

    tree: TreeFolder
    stored: StoredFiles
    start: int
    images: Sequence[tuple[str, int]]
    left_out: LeftOut
    class_file: str | None

    def list_by_class(self, folder: str, left_out: LeftOut) -> dict[str, Sequence[File]]:
        """Return the images in each class folder.

        Args:
            folder: The folder of the class folders; empty: the top.
            left_out: Where images in no class folder are counted.
        """
        prefix, rows = f"{folder}/" if folder else "", dict[str, list[int]]()
        for id, row in self.images:
            if not id.startswith(prefix):
                continue
            above, _, below = id[len(prefix) :].partition("/")
            if below:
                rows.setdefault(to_nfc(above), []).append(row)
            else:
                left_out.add(LOOSE, id)
        return {name: self._take(rows[name]) for name in sorted(rows)}

    def list_below(self, folder: str) -> Sequence[File]:
        """Return all images below a folder.

        Args:
            folder: Below the top.
        """
        return self._take([row for id, row in self.images if id.startswith(f"{folder}/")])

    def _take(self, rows: Sequence[int]) -> Sequence[File]:
        files = self.stored.files
        if isinstance(files, PackedFiles) and not self.start:
            return files.take(np.array(rows, np.int64))
        chosen = (files[row] for row in rows)
        return [File(file.id[self.start :], file.path, file.stamp) for file in chosen]

    def read_class_names(self, folders: Sequence[str]) -> ClassNames:
        """Return the names that classes.txt gives to class folders.

        Args:
            folders: Names of the class folders.

        Raises:
            UserError: The file cannot be read.
        """
        if self.class_file is None:
            return ClassNames()
        with tempfile.TemporaryDirectory() as place:
            copy = Path(place, CLASS_FILE)
            copy.write_bytes(stored.read_bytes(self.class_file))
            try:
                return read_class_names(copy, folders)
            except UserError as error:
                text = str(error).replace(str(copy), str(self.tree / CLASS_FILE))
                raise UserError(text) from None


def read_folder(root: str) -> FolderContents:
    """List the images of an archive or address, and the folders that they are in.

    Args:
        root: A path or an address.

    Raises:
        UserError: It cannot be read, or holds no image.
    """
    listed, left_out = list_stored(root), LeftOut()
    files = listed.files
    ids = files.list_ids() if isinstance(files, PackedFiles) else [file.id for file in files]
    images = [(id, row) for row, id in enumerate(ids) if _is_image(id, left_out)]
    if not images:
        lines = "".join(f"\n  {note}" for note in [*listed.notes, *left_out.notes()][:10])
        raise UserError(
            f"data.root={root}: no image found; expected train/<class>/<image> and "
            f"val/<class>/<image>, or <class>/<image>, in formats that Pillow reads{lines}"
        )
    start = _find_start([id for id, _ in images])
    images = [(id[start:], row) for id, row in images]
    count_doubtful((id for id, _ in images), left_out)
    top = images[0][0] and ids[images[0][1]][:start]
    by_id = {id: row for row, id in enumerate(ids) if id.endswith(CLASS_FILE)}
    row = by_id.get(f"{top}{CLASS_FILE}", by_id.get(CLASS_FILE))
    class_file = None if row is None else files[row].path
    tree = TreeFolder(root, _list_folders([id for id, _ in images]))
    return FolderContents(tree, listed, start, images, left_out, class_file)


@dataclass(frozen=True)
class StoredImages:
    """The images of an archive, or below an address.

    Attributes:
        files: In the order of their names.
        is_single: Whether the address is that of an image itself.
    """

    files: Sequence[File]
    is_single: bool = False


def list_images(location: str, left_out: LeftOut) -> StoredImages:
    """List the images of an archive, or below an address.

    Args:
        location: A path or an address.
        left_out: Where what is no image, and what cannot be read of an archive, is counted.

    Raises:
        UserError: It cannot be read.
    """
    listed = list_stored(location)
    for note in listed.notes:
        name, _, reason = note.partition(": ")
        left_out.add(Reason("file", reason), name)
    is_single = len(listed.files) == 1 and listed.files[0].path == location
    if is_single:
        return StoredImages(listed.files, is_single=True)
    return StoredImages([file for file in listed.files if _is_image(file.id, left_out)])


def _is_image(id: str, left_out: LeftOut) -> bool:
    """Return whether a file is an image by its name. Count it if it is not."""
    *folders, name = id.split("/")
    around = ""
    for number, folder in enumerate(folders):
        if content := describe_system_folder(folder, around):
            left_out.add_system_folder("/".join(folders[: number + 1]), content)
            return False
        if folder.startswith("."):
            left_out.add(HIDDEN_FILE, id)
            return False
        around = folder
    if is_image_name(name) and not is_album_art(name, ()):
        return True
    if is_system_file(name):
        left_out.add(SYSTEM_FILE, id)
    elif name.startswith("."):
        left_out.add(HIDDEN_FILE, id)
    elif name != CLASS_FILE:
        left_out.add_other(id)
    return False


def _find_start(ids: Sequence[str]) -> int:
    """Return how many letters of all ids are a folder around the class folders or splits."""
    start = 0
    while True:
        tops = {id[start:].partition("/")[0] for id in ids}
        rest = [id[start:].partition("/")[2] for id in ids]
        name = next(iter(tops))
        if len(tops) > 1 or name.lower() in SPLIT_WORDS or not all("/" in each for each in rest):
            return start
        inner = {each.partition("/")[0] for each in rest}
        if len(inner) < 2 and not {each.lower() for each in inner} & {*SPLIT_WORDS, *CONTAINERS}:
            return start  # a class with a folder in it
        start += len(name) + 1


def _list_folders(ids: Sequence[str]) -> dict[str, list[str]]:
    """Return the names of the folders in each folder."""
    inside: dict[str, set[str]] = {}
    for folder in {os.path.dirname(id) for id in ids}:
        path = ""
        for name in filter(None, folder.split("/")):
            inside.setdefault(path, set()).add(name)
            path = f"{path}/{name}".lstrip("/")
    return {path: sorted(names) for path, names in inside.items()}


def describe_unused(contents: FolderContents, used: Sequence[str | None]) -> Iterator[str]:
    """Yield a note on folders with images that no split uses.

    Args:
        contents: Of the archive or address.
        used: Names of the folders of splits.
    """
    for name in contents.tree.folders:
        if name not in used:
            count = len(contents.list_below(name))
            yield (
                f"{printable(name)} ({count} image{'s' * (count != 1)}): in no split, not used; "
                "class folders are to be in train/ or val/"
            )
