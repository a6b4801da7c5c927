"""Files of images and their labels, in a fixed order: what data sets on disk have in common."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import UserError
from pipeline.formats import photo
from pipeline.ops.text import printable
from pipeline.types import Example, Size, Split

if TYPE_CHECKING:
    from jaxtyping import Bool, Int

# What Pillow reads, less what photo.NOT_READ names. Spelt out, for asking Pillow would import all
# its formats at every start; a test compares.
ENDINGS = """
    apng avif avifs blp bmp bw cur dcx dds dib fit fits flc fli ftc ftu gbr gif icb icns ico
    im j2c j2k jfif jp2 jpc jpe jpeg jpf jpg jpx msp pbm pcd pcx pfm pgm png pnm ppm psd pxr
    qoi ras rgb rgba sgi tga tif tiff vda vst webp xbm xpm
"""
SUFFIXES = frozenset(f".{ending}" for ending in ENDINGS.split())
DEEPEST = 200  # folders within folders; more is a mistake, and recursion has an end


@dataclass(frozen=True, slots=True)
class File:
    """An image file: its id (the relative path, printable and unique), where it is, how it was."""

    id: str
    path: str
    stamp: tuple[int, int]  # size in bytes, time of change in nanoseconds

    @classmethod
    def at(cls, id: str, path: str) -> File:
        """Raises OSError where there is no such file."""
        stat = os.stat(path)
        return cls(id, path, (stat.st_size, stat.st_mtime_ns))


@dataclass(frozen=True)
class Listing:
    """The files of one split. Positions in it are what shards and results refer to."""

    files: Sequence[File]
    labels: Sequence[int]  # -1 where an image has none
    classes: Sequence[str]

    @cached_property
    def ids(self) -> list[str]:
        return [file.id for file in self.files]

    def fingerprint(self) -> str:
        digest = hashlib.sha256("\0".join(self.classes).encode())
        for file, label in zip(self.files, self.labels, strict=True):
            digest.update(f"\0{file.id}\0{label}\0{file.stamp}".encode())
        return digest.hexdigest()[:16]

    def split(self, apart: Bool[np.ndarray, n]) -> tuple[Listing, Listing]:
        """The files that are not set apart, and those that are."""
        kept, taken = (
            Listing([self.files[n] for n in chosen], [self.labels[n] for n in chosen], self.classes)
            for chosen in (np.flatnonzero(~apart).tolist(), np.flatnonzero(apart).tolist())
        )
        return kept, taken

    def __add__(self, other: Listing) -> Listing:
        return Listing([*self.files, *other.files], [*self.labels, *other.labels], self.classes)


@dataclass(frozen=True)
class Splits:
    """All that a data set on disk holds, and what was odd about its files, a line each."""

    train: Listing
    held_back: Listing
    val: Listing
    notes: Sequence[str] = ()
    calibration: Listing = field(default_factory=lambda: Listing((), (), ()))

    @cached_property
    def all(self) -> Listing:
        return self.train + self.held_back + self.calibration + self.val

    def __getitem__(self, split: Split) -> Listing:
        whole: Listing = getattr(self, split)
        return whole


class OnDisk(ABC):
    """The half of a data set (`pipeline.protocols.DataSet`) that follows from its listings."""

    @property
    @abstractmethod
    def splits(self) -> Splits: ...

    def ids(self, split: Split) -> Sequence[str]:
        return self.splits[split].ids

    def labels(self, split: Split) -> Int[np.ndarray, n]:
        return np.asarray(self.splits[split].labels, np.int64)

    def example(
        self, split: Split, position: int, *, at: Size | None = None, at_least: Size | None = None
    ) -> Example:
        listing = self.splits[split]
        file = listing.files[position]
        image, size = photo.read(file.path, at=at, at_least=at_least, name=file.id)
        return Example(file.id, image, int(listing.labels[position]), size)

    def fingerprint(self, split: Split) -> str:
        return self.splits[split].fingerprint()

    def notes(self) -> list[str]:
        return list(self.splits.notes)


# -- looking for files


@dataclass
class Search:
    """Files found below a folder, and what could not be looked into."""

    files: list[File] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def is_image_name(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES


def search(folder: Path | str, prefix: str = "") -> Search:
    """The image files below a folder in the order of their names, links followed, loops cut."""
    found = Search()
    _walk(os.fspath(folder), prefix, found, _folders_above(folder))
    return found


def _folders_above(folder: Path | str) -> frozenset[tuple[int, int]]:
    """A link back to any of these would bring the whole data set in again, under a wrong class."""
    above = {*Path(os.path.abspath(folder)).parents, *Path(os.path.realpath(folder)).parents}
    return frozenset((stat.st_dev, stat.st_ino) for stat in map(os.stat, above))


def _walk(folder: str, prefix: str, found: Search, above: frozenset[tuple[int, int]]) -> None:
    name = prefix or "."
    try:
        own = os.stat(folder)
        if (own.st_dev, own.st_ino) in above:
            found.notes.append(f"{name}: a link back to a folder above it, not followed")
            return
        if len(above) > DEEPEST:
            found.notes.append(f"{name}: more than {DEEPEST} folders deep, not looked into")
            return
        with os.scandir(folder) as scan:
            entries = sorted(scan, key=lambda entry: entry.name)
    except OSError as error:
        found.notes.append(f"{name}: the folder cannot be read ({error.strerror})")
        return
    for entry in entries:
        name = f"{prefix}/{printable(entry.name)}" if prefix else printable(entry.name)
        try:
            if entry.is_dir():
                if not entry.name.startswith("."):
                    _walk(entry.path, name, found, above | {(own.st_dev, own.st_ino)})
            elif is_image_name(entry.name):
                if entry.is_file():
                    stat = entry.stat()
                    found.files.append(File(name, entry.path, (stat.st_size, stat.st_mtime_ns)))
                else:
                    what = "a link to nothing" if entry.is_symlink() else "not a file"
                    found.notes.append(f"{name}: {what}, left out")
        except OSError as error:
            found.notes.append(f"{name}: cannot be looked at ({error.strerror}), left out")


# -- splits by hash


def fraction_of(name: str, salt: str) -> float:
    """A number in [0, 1) that a name always gives, however many other images there are."""
    digest = hashlib.sha256(f"{salt}\0{name}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def set_apart(listing: Listing, share: float, salt: str) -> tuple[Listing, Listing]:
    """A listing without a share of it, and that share, by hash of the ids.

    A class keeps at least one image, and where any can be spared at least one is taken: sets of
    a dozen images work too.
    """
    fractions = np.array([fraction_of(id, salt) for id in listing.ids])
    labels = np.asarray(listing.labels, np.int64)
    apart = fractions < share
    for label in np.unique(labels[apart]):
        mine = np.flatnonzero(labels == label)
        if apart[mine].all():
            apart[mine[fractions[mine].argmax()]] = False
    if share > 0 and len(labels) and not apart.any():
        spare = np.bincount(labels)[labels] > 1
        if spare.any():
            apart[np.where(spare, fractions, 1).argmin()] = True
    return listing.split(apart)


# -- small things that data sets check alike


def check_share(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise UserError(f"data.{name}={value}: expected a share of the images, from 0 to below 1")


def input_size(size: int | Sequence[int]) -> Size:
    """`data.size`: one number, or [height, width]. Raises UserError where it is neither."""
    both = (size, size) if isinstance(size, int) else tuple(size)
    if len(both) != 2 or not all(8 <= side <= 8192 for side in both):
        raise UserError(f"data.size={size}: expected pixels from 8 to 8192, or [height,width]")
    return both[0], both[1]
