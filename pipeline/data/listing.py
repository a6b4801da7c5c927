"""Listings of image files and their labels in a fixed order, which all data sets on disk share."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.data.intensity import (
    Intensity,
    RangeOption,
    describe_intensity,
    find_intensity,
    parse_no_data,
    parse_range,
)
from pipeline.errors import UserError
from pipeline.formats import photo, stored
from pipeline.ops.hashing import hash_of
from pipeline.ops.label_sets import pack_label_sets
from pipeline.ops.text import spell_out
from pipeline.types import Example, Size, Split

if TYPE_CHECKING:
    from jaxtyping import Bool, Int

# What Pillow reads, without what photo.NOT_READ names. Listed here because asking Pillow would
# import all its formats at every start; a test compares the lists.
ENDINGS = """
    apng avif avifs blp bmp bw cur dcx dds dib fit fits flc fli ftc ftu gbr gif icb icns ico
    im j2c j2k jfif jp2 jpc jpe jpeg jpf jpg jpx msp pbm pcd pcx pfm pgm png pnm ppm psd pxr
    qoi ras rgb rgba sgi tga tif tiff vda vst webp xbm xpm
"""
SUFFIXES = frozenset(f".{ending}" for ending in ENDINGS.split())
PART = 50_000  # files that are hashed at once: their text takes some megabytes


@dataclass(frozen=True, slots=True)
class File:
    """An image file as it was when it was listed.

    Attributes:
        id: The relative path, printable, in Unicode form NFC, and unique in the data set.
        path: Where it is.
        stamp: Size in bytes and time of change in nanoseconds.
    """

    id: str
    path: str
    stamp: tuple[int, int]

    @classmethod
    def from_path(cls, id: str, path: str) -> File:
        """Create the entry of an existing file. Raise OSError where there is none."""
        stat = os.stat(path)
        return cls(id, path, (stat.st_size, stat.st_mtime_ns))


class PackedFiles(Sequence[File]):
    """Files held in arrays, each made when it is asked for: what a list of a million cannot be."""

    @abstractmethod
    def take(self, positions: Int[np.ndarray, m]) -> PackedFiles:
        """Return the files at some positions."""

    @abstractmethod
    def join(self, other: PackedFiles) -> PackedFiles:
        """Return these files and the others after them."""

    @abstractmethod
    def list_ids(self) -> list[str]:
        """Return the id of each file."""

    @abstractmethod
    def stamps(self) -> Int[np.ndarray, "n 2"]:
        """Return the size in bytes and the time of change in ns of each file."""

    @abstractmethod
    def suffixes(self) -> frozenset[str]:
        """Return the endings that the files may have, in lower case."""

    def folders(self) -> list[str]:
        """Return the paths of the folders that the files are in."""
        return sorted({os.path.dirname(file.path) for file in self})


def make_ids_unique(files: Sequence[File]) -> tuple[Sequence[File], list[str]]:
    """Give files whose names are the same in NFC ids that differ.

    A file whose name is in NFC, else the first, keeps its id. The others get the path with an
    escape for each character beyond ASCII.

    Args:
        files: Of one data set.

    Returns:
        The files in the same order, and the ids that were given.
    """
    counts = Counter(file.id for file in files)
    if len(counts) == len(files):
        return files, []
    raw = ["/".join(Path(file.path).parts[-file.id.count("/") - 1 :]) for file in files]
    keeps: dict[str, int] = {}
    for n, file in enumerate(files):
        if file.id not in keeps or raw[n] == file.id:
            keeps[file.id] = n
    changed = [n for n, file in enumerate(files) if keeps[file.id] != n]
    ids = {n: spell_out(raw[n]) for n in changed}
    unique = [replace(file, id=ids.get(n, file.id)) for n, file in enumerate(files)]
    return unique, list(ids.values())


@dataclass(frozen=True)
class Listing:
    """The files of a split. Shards and results refer to images by their positions in it.

    Attributes:
        files: In a fixed order.
        labels: Class of each file, the first of several; -1 where an image has none.
        classes: Class names.
        others: The other classes of each file, ascending; None: a file has one class at most.
        background: Whether a file without a class is known to show none; None: no file is.
    """

    files: Sequence[File]
    labels: Sequence[int]
    classes: Sequence[str]
    others: Sequence[tuple[int, ...]] | None = None
    background: Sequence[bool] | None = None

    @cached_property
    def ids(self) -> Sequence[str]:
        """The id of each file."""
        if isinstance(self.files, PackedFiles):
            return self.files.list_ids()
        return [file.id for file in self.files]

    def has_only(self, suffixes: Collection[str]) -> bool:
        """Return whether packed files are known to have some endings alone; False for a list."""
        return isinstance(self.files, PackedFiles) and self.files.suffixes() <= set(suffixes)

    def fingerprint(self) -> str:
        """Hash the class names, and id, labels, size and time of each file; not where they are."""
        return self._hash

    @cached_property
    def _hash(self) -> str:
        return hash_listings(self.classes, [self])

    def split(self, apart: Bool[np.ndarray, n]) -> tuple[Listing, Listing]:
        """Return the files that are not set apart, and those that are."""
        kept, taken = (
            self.take(chosen) for chosen in (np.flatnonzero(~apart), np.flatnonzero(apart))
        )
        return kept, taken

    def take(self, positions: Int[np.ndarray, m]) -> Listing:
        """Return the files at some positions."""
        chosen = positions.tolist()
        files: Sequence[File]
        if isinstance(self.files, PackedFiles):
            files = self.files.take(positions)
        else:
            files = [self.files[n] for n in chosen]
        others = None if self.others is None else [self.others[n] for n in chosen]
        background = None if self.background is None else [self.background[n] for n in chosen]
        labels = [self.labels[n] for n in chosen]
        taken = Listing(files, labels, self.classes, others, background)
        if "ids" in self.__dict__:  # they are there already: of a million files they take a second
            taken.__dict__["ids"] = [self.ids[n] for n in chosen]
        return taken

    def __add__(self, other: Listing) -> Listing:
        """Return the files of both, in this order, with the class names of the first."""
        files: Sequence[File]
        if isinstance(self.files, PackedFiles) and isinstance(other.files, PackedFiles):
            files = self.files.join(other.files)
        elif not other.files and isinstance(self.files, PackedFiles):
            files = self.files
        elif not self.files and isinstance(other.files, PackedFiles):
            files = other.files
        else:
            files = [*self.files, *other.files]
        others = None
        if self.others is not None or other.others is not None:
            others = [each for part in (self, other) for each in part.list_others()]
        background = None
        if self.background is not None or other.background is not None:
            background = [each for part in (self, other) for each in part.list_background()]
        return Listing(files, [*self.labels, *other.labels], self.classes, others, background)

    def list_others(self) -> Sequence[tuple[int, ...]]:
        """Return the other classes of each file; none of any where it has one class at most."""
        return [()] * len(self.labels) if self.others is None else self.others

    def list_background(self) -> Sequence[bool]:
        """Return whether each file is known to show no class."""
        return [False] * len(self.labels) if self.background is None else self.background

    def label_sets(self) -> Bool[np.ndarray, "n C"]:
        """Return which classes each file is labelled with."""
        return pack_label_sets(self.labels, self.list_others(), len(self.classes))


def hash_listings(classes: Sequence[str], listings: Sequence[Listing]) -> str:
    """Return the fingerprint that one listing of the files of several would have.

    Args:
        classes: Class names.
        listings: One after the other.
    """
    digest = hashlib.sha256("\0".join(classes).encode())
    if any(part.others is not None for part in listings):
        others = [labels for part in listings for labels in part.list_others()]
        digest.update(f"\0{others}".encode())
    if any(any(part.background) for part in listings if part.background is not None):
        background = [n for part in listings for n in part.list_background()]
        digest.update(f"\0background {np.flatnonzero(background).tolist()}".encode())
    for part in listings:
        for start in range(0, len(part.files), PART):
            rows = slice(start, start + PART)
            stamps = _list_stamps(part.files[rows])
            named = zip(part.ids[rows], part.labels[rows], stamps, strict=True)
            texts = [f"\0{id}\0{label}\0({size}, {time})" for id, label, (size, time) in named]
            digest.update("".join(texts).encode())
    return digest.hexdigest()[:16]


def _list_stamps(files: Sequence[File]) -> list[Sequence[int]]:
    """Return size and time of change of each file."""
    if isinstance(files, PackedFiles):
        return list(files.stamps().tolist())
    return [file.stamp for file in files]


@dataclass(frozen=True)
class Splits:
    """The splits of a data set on disk.

    Attributes:
        train: Trained on.
        held_back: Selects the best epoch.
        val: Scored.
        notes: What was unusual about the files, a line each.
        calibration: Its boxes choose the threshold; neither trained on nor scored.
        test: Only gets boxes; neither trained on nor scored, and perhaps without labels.
    """

    train: Listing
    held_back: Listing
    val: Listing
    notes: Sequence[str] = ()
    calibration: Listing = field(default_factory=lambda: Listing((), (), ()))
    test: Listing = field(default_factory=lambda: Listing((), (), ()))

    @cached_property
    def all(self) -> Listing:
        """All splits, one after the other."""
        return self.used + self.test

    @cached_property
    def used(self) -> Listing:
        """All splits that are trained on, choose something or are scored."""
        return self.train + self.held_back + self.calibration + self.val

    def __getitem__(self, split: Split) -> Listing:
        """Return the listing of a split."""
        listings: dict[Split, Listing] = {
            "train": self.train,
            "held_back": self.held_back,
            "calibration": self.calibration,
            "val": self.val,
            "test": self.test,
        }
        return self.all if split == "all" else listings[split]


class OnDisk(ABC):
    """The part of a data set (`pipeline.protocols.DataSet`) that follows from its listings.

    Attributes:
        size: What images are scaled to in pixels: a side of a square, or height and width.
        range: What pixels of more than 8 bits are scaled from: [low, high]; None: the range in use.
        no_data: Values of such pixels that stand for no measurement; they become black.
    """

    size: int | tuple[int, int]
    range: RangeOption
    no_data: float | Sequence[float]

    def _parse_image_options(self) -> None:
        """Check these options, and write them in one form. Raise UserError if one is wrong."""
        object.__setattr__(self, "size", parse_input_size(self.size))
        parse_range(self.range)
        object.__setattr__(self, "no_data", parse_no_data(self.no_data))

    @property
    @abstractmethod
    def splits(self) -> Splits:
        """The listings, and what was unusual about the files."""

    def ids(self, split: Split) -> Sequence[str]:
        """Return the id of each image, by position."""
        return self.splits[split].ids

    def path(self, split: Split, position: int) -> Path | None:
        """Return the absolute path of an image's file; None in an archive or at an address.

        Args:
            split: The split.
            position: Position of the image in it.
        """
        location = self.location(split, position)
        return Path(os.path.abspath(location)) if stored.is_local(location) else None

    def location(self, split: Split, position: int) -> str:
        """Return where the bytes of an image are: a path, an address, or a member of an archive.

        Args:
            split: The split.
            position: Position of the image in it.
        """
        return self.splits[split].files[position].path

    def common_folder(self, split: Split) -> Path | None:
        """Return the absolute path of the folder that all files of a split lie below.

        Args:
            split: The split; None is returned where it has no file, or one that is not local.
        """
        files = self.splits[split].files
        if not len(files):
            return None
        if isinstance(files, PackedFiles):
            folders = files.folders()
        else:
            folders = [os.path.dirname(file.path) for file in files]
        if not all(map(stored.is_local, folders)):
            return None
        return Path(os.path.commonpath([*map(os.path.abspath, {*folders})]))

    def stamp(self, split: Split, position: int) -> tuple[int, int]:
        """Return the size of an image's file in bytes and its time of change in ns.

        Args:
            split: The split.
            position: Position of the image in it.
        """
        return self.splits[split].files[position].stamp

    def reading_record(self) -> Any:
        """Return the ranges that images of more than 8 bits are scaled from."""
        return self.intensity.ranges.describe()

    def labels(self, split: Split) -> Int[np.ndarray, n]:
        """Return the first class of each image, by position; -1 where an image has none."""
        return np.asarray(self.splits[split].labels, np.int64)

    @property
    def is_multi_label(self) -> bool:
        """Whether an image may have several classes; known without reading the listings."""
        return False

    def label_sets(self, split: Split) -> Bool[np.ndarray, "n C"]:
        """Return which classes each image of a split is labelled with.

        Args:
            split: The split.
        """
        listing = self.splits[split]
        classes = len(self.splits.train.classes)  # those of an absent split are not known
        return pack_label_sets(listing.labels, listing.list_others(), classes)

    def backgrounds(self, split: Split) -> Bool[np.ndarray, n]:
        """Return which images of a split are known to show no class.

        Args:
            split: The split.
        """
        return np.array(self.splits[split].list_background(), bool)

    def example(
        self, split: Split, position: int, *, at: Size | None = None, at_least: Size | None = None
    ) -> Example:
        """Read an image.

        Args:
            split: The split.
            position: Position of the image in it.
            at: The (height, width) to scale to; the aspect is not kept. None: not scaled.
            at_least: Without `at`: the smallest (height, width) that is needed, see `photo.read`.

        Raises:
            SkippedImage: The image cannot be read.
            UserError: It was changed after it was indexed, and the index is kept.
        """
        listing = self.splits[split]
        file = listing.files[position]
        self._check_file(file)
        ranges = self.intensity.ranges
        read = photo.read(file.path, at=at, at_least=at_least, name=file.id, ranges=ranges)
        return Example(
            id=file.id,
            image=read.pixels,
            label=int(listing.labels[position]),
            size=read.size,
            is_first_of_several=read.is_first_of_several,
            has_own_range=read.has_own_range,
            other_labels=() if listing.others is None else listing.others[position],
        )

    def _check_file(self, file: File) -> None:  # noqa: B027
        """Raise UserError where a file was changed after it was indexed.

        Args:
            file: As the listing has it. Where no index is kept nothing is checked.
        """

    @cached_property
    def intensity(self) -> Intensity:
        """How images of more than 8 bits are scaled; no file is opened where all have 8."""
        return find_intensity(self.splits, self.range, parse_no_data(self.no_data))

    def intensity_record(self) -> dict[str, Any]:
        """Return the options `range` and `no_data` that scale other images as the training images.

        Empty where the training images have 8 bits, and where there are none.
        """
        is_learned = self.intensity.learned and bool(self.splits.train.files)
        return self.intensity.ranges.describe() if is_learned else {}

    def fingerprint(self, split: Split) -> str:
        """Hash ids, labels, sizes and times of a split's files; not where they are.

        The ranges that images of more than 8 bits are scaled from are part of it.
        """
        listing = self.splits[split]
        ranges = self.intensity.ranges.describe() if listing.files else {}
        hashed = listing.fingerprint()
        return hash_of([hashed, ranges]) if ranges else hashed

    def notes(self) -> list[str]:
        """Return what was unusual about the files, folders and pixels, a line each."""
        return [*self.splits.notes, *self._intensity_notes]

    @cached_property
    def _intensity_notes(self) -> Sequence[str]:
        """Notes on images of more than 8 bits; files are looked at once for them."""
        no_data = parse_no_data(self.no_data)
        return describe_intensity(self.splits, self.intensity, self.range, no_data)


# -- checks that data sets share


def check_share(name: str, value: float) -> None:
    """Raise UserError unless the value of option `data.<name>` is from 0 to below 1."""
    if not 0 <= value < 1:
        raise UserError(f"data.{name}={value}: expected a share of the images, from 0 to below 1")


def parse_input_size(size: int | Sequence[int]) -> Size:
    """Return the (height, width) in pixels that option `data.size` stands for.

    Args:
        size: A side of a square, or height and width.

    Raises:
        UserError: It is neither, or a side is not from 8 to 8192.
    """
    both = (size, size) if isinstance(size, int) else tuple(size)
    if len(both) != 2 or not all(8 <= side <= 8192 for side in both):
        raise UserError(f"data.size={size}: expected pixels from 8 to 8192, or [height,width]")
    return both[0], both[1]
