"""Image files in the folder of a format, under names that are unique in the whole set."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from pipeline.errors import SkippedImage
from pipeline.formats.files import truncate_name
from pipeline.formats.image_files import (
    JPEG_ENDINGS,
    is_turned,
    link_at_once,
    place_image,
    unique_paths,
    write_image,
)
from pipeline.formats.text_files import Folders
from pipeline.ops.text import count_notes, to_nfc
from pipeline.types import FoundBoxes, ImageBoxes, ImageSource, Note, Part

ImageMode = Literal["link", "copy", "none"]

HOSTILE = re.compile(r'[\\/:*?"<>|\x00-\x1f\x7f]')
"""Characters that some file system does not take."""
RESERVED = re.compile(r"^(con|prn|aux|nul|com\d|lpt\d)(\.|$)")
"""Names that Windows keeps for devices."""
MAX_STEM_BYTES = 120


How = Literal["as it is", "turned", "converted", "copied", "missing"]


class Placed(NamedTuple):
    """Where an image of an export is.

    Attributes:
        path: relative to the folder that it was placed in, with `/`; that of the original where
            images are left where they are; None where the image has no file.
        is_in_folder: whether it was placed.
        how: what was done to it, or `missing`: its file cannot be read.
    """

    path: str | None
    is_in_folder: bool
    how: How = "as it is"


class UniqueStems:
    """File names without suffix, of images by position, which differ also where case is ignored.

    A name is the last part of the image's id. Where two images would have the same, or it is
    reserved, a hash of the id follows, so that it does not depend on the other images.
    Other processes, in which `hash` returns other numbers, find the same names.

    Args:
        ids: the name of each image, by position.
    """

    def __init__(self, ids: Sequence[str]) -> None:
        self._ids = ids
        self._last = (-1, "")
        seen: set[int] = set()
        self._repeated: set[str] = set()
        for id in ids:
            folded = _to_stem(id).casefold()
            key = hash(folded)  # numbers take less memory than names
            if key in seen:
                self._repeated.add(folded)
            seen.add(key)

    def __getitem__(self, position: int) -> str:
        known, stem = self._last  # asked for twice, of the image and of its label file
        if position != known:
            stem = self._build(position)
            self._last = (position, stem)  # at once, as threads ask
        return stem

    def _build(self, position: int) -> str:
        id = self._ids[position]
        stem = _to_stem(id)
        folded = stem.casefold()
        if stem and folded not in self._repeated and not RESERVED.match(folded):
            return stem
        digest = hashlib.sha256(id.encode("utf-8", "surrogatepass")).hexdigest()[:8]
        return f"{stem}-{digest}".lstrip("-")


def _to_stem(id: str) -> str:
    """Return the last part of an id without its suffix, with `_` for what no file name may hold."""
    name = id.rsplit("/", 1)[-1]
    stem = HOSTILE.sub("_", to_nfc(name.rsplit(".", 1)[0] or name))
    if len(stem) * 4 > MAX_STEM_BYTES:  # a character has four bytes at most
        stem = truncate_name(stem, MAX_STEM_BYTES)
    return stem.strip(" .")


class ImageFolder:
    """Places the images of a set in folders, and counts what could not be placed as it is.

    `place` may be called in other processes; `count` counts in this one.

    Args:
        found: the boxes, whose images are placed.
        mode: whether files are linked, copied, or left where they are.
        upright: whether an image that its EXIF data turn is written upright.
        suffixes: of the files that readers of the format take, in lower case; others are written as
            PNG. None: all.
        keeps_paths: whether files have the path of their id below the folder, so that they are
            known by it; else they lie side by side.
    """

    def __init__(
        self,
        found: FoundBoxes,
        mode: ImageMode,
        *,
        upright: bool,
        suffixes: frozenset[str] | None = None,
        keeps_paths: bool = False,
    ) -> None:
        self.stems = UniqueStems(found.ids)
        self._ids, self._source = found.ids, found.source
        self._mode, self._upright, self._suffixes = mode, upright, suffixes
        self._keeps_paths = keeps_paths
        self._folders = Folders()
        self._ids_of: dict[How, list[str]] = {}

    @property
    def may_write(self) -> bool:
        """Whether `place` may write or link a file."""
        return self._source is not None and (self._mode != "none" or self._upright)

    def part(self, position: int) -> Part:
        """Return what an image is to be used for; `train` where that is not known."""
        return "train" if self._source is None else self._source.part(position)

    def place(self, image: ImageBoxes, folder: Path) -> Placed:
        """Place an image, and return where it is.

        Args:
            image: the image.
            folder: that it is placed in.
        """
        if self._source is None:
            return Placed(None, False)
        try:
            return self._place(self._source, image, folder)
        except (FileNotFoundError, SkippedImage):
            return Placed(None, False, "missing")

    def count(self, image: ImageBoxes, placed: Placed) -> None:
        """Count what was done to an image, for the notes.

        Args:
            image: the image.
            placed: as `place` returned it.
        """
        if placed.how != "as it is":
            self._ids_of.setdefault(placed.how, []).append(image.id)

    def _place(self, source: ImageSource, image: ImageBoxes, folder: Path) -> Placed:
        path = source.path(image.position)
        if path is None:
            if self._mode == "none":
                return Placed(None, False)
            return self._write(source, image, folder, ".png")
        suffix = os.path.splitext(path)[1]
        if self._upright and is_turned(path, image.size):
            ending = suffix if suffix.lower() in JPEG_ENDINGS else ".png"
            return self._write(source, image, folder, ending)._replace(how="turned")
        if self._mode == "none":
            return Placed(str(path), False)
        if self._suffixes is not None and suffix.lower() not in self._suffixes:
            return self._write(source, image, folder, ".png")._replace(how="converted")
        name = self._name(image, suffix)
        if not self._keeps_paths:
            self._folders.make(folder)
        if self._mode == "link" and link_at_once(path, f"{folder}/{name}"):
            return Placed(name, True)
        target = folder / name
        place_image(path, target, self._mode)
        if self._mode == "link" and not os.path.samestat(os.stat(target), os.stat(path)):
            return Placed(name, True, "copied")
        return Placed(name, True)

    def _write(self, source: ImageSource, image: ImageBoxes, folder: Path, ending: str) -> Placed:
        """Write the upright pixels of an image."""
        name = self._name(image, ending)
        write_image(source.read(image.position), folder / name)
        return Placed(name, True)

    def _name(self, image: ImageBoxes, ending: str) -> str:
        """Return the path that an image gets below the folder."""
        if not self._keeps_paths:
            return f"{self.stems[image.position]}{ending}"
        (path,) = unique_paths([image.id])
        return path if path.endswith(ending) else f"{path}{ending}"

    def notes(self) -> list[Note]:
        """Return what was turned, converted, copied where a link was asked for, or not placed."""
        reasons: tuple[tuple[How, str, str], ...] = (
            ("turned", "turned by EXIF are written upright, as new files", ""),
            ("converted", "are written as PNG, as readers of the format do not take the file's "
             "ending", ""),
            ("copied", "are copied: they could not be hard-linked", ""),
            ("missing", "have no file that can be read (any more): none is placed",
             "put the files back and run again"),
        )  # fmt: skip
        kinds = [(self._ids_of.get(how, []), why, remedy) for how, why, remedy in reasons]
        return count_notes(kinds, "image")
