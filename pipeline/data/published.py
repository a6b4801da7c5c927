"""The part that data sets share which their makers publish as lists of images with annotations.

A data set names its images, classes and splits (`Lists`), and reads the annotation of an image
(`Annotation`). Here images that are not on disk are counted, a part of the training images is held
back by hash, boxes are clipped to their images, and images of another size than their annotation
says are left out.
"""

from __future__ import annotations

import hashlib
import os
import time
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from pipeline.data import hashed_splits, kept_splits, listing
from pipeline.data.file_table import join_files, pack
from pipeline.data.folder_index import check_unchanged
from pipeline.data.kept_splits import KeptSplits
from pipeline.data.listing import PART, File, Listing, OnDisk, Splits
from pipeline.data.published_truth import Annotation, read_truth
from pipeline.errors import UserError
from pipeline.formats.download import fetch
from pipeline.formats.files import find_spelling, is_settled
from pipeline.ops.text import count_note, note_missing, printable, to_nfc
from pipeline.types import CocoIds, GroundTruth, Note, Split

ANNOTATED: tuple[Split, ...] = ("train", "held_back", "calibration", "val")


@dataclass(frozen=True)
class Lists:
    """The images of a data set as its lists name them.

    Attributes:
        classes: Class names.
        train: Trained on; a part is held back.
        val: Scored.
        notes: What was left out or unusual, a line each.
        calibration: Its boxes choose the threshold.
        test: Only gets boxes.
        folders: What annotations call each class; empty: they do not.
        searched: The folders that were looked into, below that of the images.
    """

    classes: tuple[str, ...]
    train: Listing
    val: Listing
    notes: Sequence[str] = ()
    calibration: Listing = field(default_factory=lambda: Listing((), (), ()))
    test: Listing = field(default_factory=lambda: Listing((), (), ()))
    folders: Sequence[str] = ()
    searched: Sequence[str] = ()


@dataclass(frozen=True)
class Sources:
    """What the splits of a data set are read from.

    Attributes:
        root: The folder that all images are below.
        options: The options that the splits depend on, as JSON has them.
        lists: The files that are read.
    """

    root: str
    options: Sequence[object]
    lists: Sequence[Path]


@dataclass(frozen=True)
class Record:
    """An image that a list names.

    Attributes:
        id: What the image is called: its path below the folder of images.
        label: Its class, or the first of several; -1 where it is known to show none.
        path: Where it is, or where below the folder of images; empty: its id.
        others: Its other classes, ascending.
    """

    id: str
    label: int
    path: str = ""
    others: tuple[int, ...] = ()


def find_images(
    folders: Path | Sequence[Path],
    records: Iterable[Record],
    classes: Sequence[str],
    where: str,
    is_multi_label: bool = False,
    are_unique: bool = False,
    remedy: str = "unpack or download the images again, or drop their lines",
) -> tuple[Listing, list[Note]]:
    """Find the images of a list on disk.

    Args:
        folders: The folder of the images, or several that are looked into in turn.
        records: The images; one that is named twice counts once.
        classes: Class names.
        where: The list, for messages.
        is_multi_label: Whether an image may have several classes.
        are_unique: Whether no image is named twice: a million names take 160 MB to compare.
        remedy: What to do where images are not there.

    Returns:
        The images that are there, in the order of the list, and notes on the others.
    """
    places = [folders] if isinstance(folders, Path) else folders
    files, groups, labels = list[File](), list[Sequence[File]](), list[int]()
    others = list[tuple[int, ...]]()
    missing, double, seen, total = list[str](), list[str](), set[str](), 0
    for record in records:
        id = printable(record.id)
        if not are_unique:
            if id in seen:
                double.append(id)
                continue
            seen.add(id)
        total += 1
        file = _find_file(places, record, id)
        if file is None:
            missing.append(printable(record.path or record.id))
            continue
        files.append(file)
        labels.append(record.label)
        others.append(record.others)
        if len(files) == PART:  # a list of a million files would take half a gigabyte
            groups.append(pack(files))
            files = []
    notes = []
    if double:
        why = "named twice: the first line counts"
        notes.append(count_note(double, "image", why, where=where, remedy="drop the other lines"))
    if missing:
        why = f"of {total} not in {' or '.join(map(str, places))}: left out"
        notes.append(note_missing(missing, "image", why, total, where=where, remedy=remedy))
    several, background = None, None
    if is_multi_label:
        several, background = others, [label < 0 for label in labels]
    return Listing(join_files([*groups, files]), labels, classes, several, background), notes


def _find_file(folders: Sequence[Path], record: Record, id: str) -> File | None:
    """Return the file of an image in the first folder that has it; None where none has."""
    name = record.path or record.id
    for folder in folders:
        with suppress(OSError, ValueError):  # ValueError: a null byte in the name
            path = os.path.join(folder, name)
            return File.from_path(id, path if name.isascii() else str(find_spelling(Path(path))))
    return None


class Published(OnDisk):
    """A data set (`pipeline.protocols.AnnotatedDataSet`) of lists of images with annotations.

    Attributes:
        root: The folder of the data set.
        held_back: Share of the train images that selects the best epoch.
    """

    root: str
    held_back: float

    def _check_options(self) -> None:
        """Check the options that all such data sets have. Raise UserError if one is wrong."""
        self._parse_image_options()
        listing.check_share("held_back", self.held_back)
        object.__setattr__(self, "root", os.path.expanduser(self.root))

    @property
    @abstractmethod
    def _lists(self) -> Lists:
        """What the lists name. Raise UserError where they cannot be read."""

    @abstractmethod
    def _annotate(self, file: File, label: int) -> Annotation | None:
        """Return the annotation of an image; None where it has none. Raise BadRecord: unusable."""

    @abstractmethod
    def _annotation_files(self, split: Split) -> Iterable[Path | str]:
        """Return the files that the annotations of a split are read from."""

    # -- images and labels

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names."""
        return self._contents.classes

    @property
    def splits(self) -> Splits:
        """The listed images that are on disk."""
        return self._contents.splits

    def _find_sources(self) -> Sources | None:
        """Return what the splits are read from; None: they are read anew each time."""
        return None

    @cached_property
    def _kept_file(self) -> Path | None:
        """Where the splits are kept, if they are many; None: nowhere."""
        sources = self._find_sources()
        if sources is None:
            return None
        return kept_splits.find_file(sources.root, [type(self).__name__, *sources.options])

    @cached_property
    def _contents(self) -> KeptSplits:
        """The splits; of a large set as they were kept, where nothing changed."""
        path, sources, started = self._kept_file, self._find_sources(), time.time_ns()
        if path is None or sources is None:
            return self._read_contents()
        content = kept_splits.load(path, sources.root, sources.lists)
        if content is None:
            content = self._read_contents()
            folders = [os.path.join(sources.root, folder) for folder in self._lists.searched]
            changed = kept_splits.find_times(sources.root, folders, sources.lists)
            # What changed while the lists were read may have been seen before or after.
            if is_settled(max(changed.values(), default=0), started):
                searched = {place: changed[place] for place in folders if place in changed}
                kept_splits.save(path, sources.root, content, searched, sources.lists)
        return content

    def _read_contents(self) -> KeptSplits:
        """Return the listed images that are on disk. Raise UserError where there is none."""
        lists = self._lists
        if not any(len(part.files) for part in (lists.train, lists.val, lists.calibration)):
            raise UserError(
                f"data.root={self.root}: none of the listed images is on disk"
                + "".join(f"\n  {note}" for note in lists.notes[:10])
            )
        train, notes = _drop_scored(lists)
        kept, held_back = hashed_splits.set_apart(train, self.held_back, "held_back")
        absent = replace(Listing((), (), ()), classes=lists.classes)
        calibration, test = (
            part if len(part.files) else absent for part in (lists.calibration, lists.test)
        )
        splits = Splits(kept, held_back, lists.val, [*lists.notes, *notes], calibration, test)
        return KeptSplits(lists.folders, lists.classes, splits)

    def _check_file(self, file: File) -> None:
        if self._kept_files is not None:
            check_unchanged(file, *self._kept_files)

    @cached_property
    def _kept_files(self) -> Sequence[Path] | None:
        """Where sizes and times of images are kept, to be compared; None: nowhere."""
        parts = [getattr(self.splits, part) for part in kept_splits.PARTS]
        is_large = sum(len(part.files) for part in parts) >= kept_splits.MIN_KEPT
        return [self._kept_file] if is_large and self._kept_file is not None else None

    def coco_names(self, split: Split) -> CocoIds:
        """Return image and category numbers from 1 on, and ids as file names."""
        ids = self.ids(split)
        return CocoIds(range(1, len(ids) + 1), ids, range(1, len(self.classes) + 1))

    def coco_names_fingerprint(self, split: Split) -> str:
        """Hash what the numbers and names follow from: the ids."""
        return self.fingerprint(split)

    # -- annotations: for evaluate and calibrate

    def truth(self, split: Split) -> Mapping[str, GroundTruth]:
        """Return the annotations by image id; images without usable ones are left out.

        Raises:
            UserError: There are annotations, and none can be used.
        """
        if split == "all":
            return {id: known for part in ANNOTATED for id, known in self.truth(part).items()}
        return self._get_truth(split)[0]

    def truth_notes(self) -> list[str]:
        """Return what was unusual about the annotations of the scored images, a line each."""
        return self._get_truth("val")[1]

    def truth_fingerprint(self, split: Split) -> str:
        """Hash names, sizes and times of the files with the annotations of a split."""
        digest = hashlib.sha256()
        root = os.path.abspath(self.root)
        for path in sorted({os.fspath(each) for each in self._annotation_files(split)}):
            with suppress(OSError):
                stat = os.stat(path)
                name = os.path.relpath(os.path.abspath(path), root)
                digest.update(
                    f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode(errors="replace")
                )
        return digest.hexdigest()[:16]

    @cached_property
    def _truth(self) -> dict[Split, tuple[dict[str, GroundTruth], list[str]]]:
        """Annotations, and what was unusual about them, of the splits that were asked for."""
        return {}

    def _get_truth(self, split: Split) -> tuple[dict[str, GroundTruth], list[str]]:
        """Return the annotations of a split and notes on them; read them once."""
        if split not in self._truth:
            part = self.splits[split]
            self._truth[split] = read_truth(part, self._annotate, Path(self.root))
        return self._truth[split]


def _drop_scored(lists: Lists) -> tuple[Listing, list[Note]]:
    """Return the training images without those that are scored or calibrated on, too."""
    others = {*lists.val.ids, *lists.calibration.ids, *lists.test.ids}
    ids = lists.train.ids
    both = [id for id in ids if id in others]
    if not both:
        return lists.train, []
    why = "in the list of another split, too: not trained on"
    kept = np.array([id not in others for id in ids], bool)
    return lists.train.split(~kept)[0], [count_note(both, "training image", why)]


# -- what loaders share


def find_root(root: str, inside: str, needed: str) -> Path:
    """Return the folder of a data set: the root, or the folder in it that torchvision makes.

    Args:
        root: Option `data.root`.
        inside: The name of that folder.
        needed: A file or folder by which the data set is known.
    """
    place = Path(root)
    return place / inside if (place / inside / needed).exists() else place


@dataclass(frozen=True)
class Archive:
    """A file that a data set is unpacked from.

    Attributes:
        url: Where it is.
        path: Where torchvision expects it, below the root.
        md5: Of its content; None: its makers give none.
    """

    url: str
    path: str
    md5: str | None = None


def download(
    option: str,
    root: str,
    archives: Sequence[Archive],
    unpack: Callable[[], object],
    layout: str,
    needed: Path,
) -> None:
    """Download a data set where its files are missing.

    Args:
        option: The choice, for messages: `data=pets`.
        root: Option `data.root`.
        archives: What is downloaded, resumed where it was broken off.
        unpack: Unpacks them, or raises.
        layout: What files are expected.
        needed: A file or folder by which the data set is known.

    Raises:
        UserError: It could not be downloaded.
    """
    if needed.exists():
        return
    try:
        for archive in archives:
            fetch(archive.url, Path(root, archive.path), archive.md5)
        unpack()
    except (OSError, RuntimeError, ValueError, EOFError, ImportError) as error:
        reason = " ".join(str(error).split())[:400] or type(error).__name__
        raise UserError(
            f"{option} data.root={root}: it could not be downloaded ({reason}). Without a "
            f"network: put the unpacked files there, {layout}, and leave data.download away"
        ) from error


MANY_ENTRIES = 100  # of a folder, among which the right one is looked for


def check_there(option: str, root: str, needed: Path, layout: str, remedy: str) -> None:
    """Raise UserError unless a data set's file or folder is there.

    Args:
        option: The choice, for messages: `data=pets`.
        root: Option `data.root`.
        needed: What must be there.
        layout: What files are expected.
        remedy: Where they come from.

    Raises:
        UserError: It is not there.
    """
    if not needed.exists():
        if (near := _find_near(Path(root), needed)) is not None:
            remedy = f"it is in data.root={near}"
        raise UserError(f"{option} data.root={root}: no {needed.name} there; {layout}; {remedy}")


def _find_near(root: Path, needed: Path) -> Path | None:
    """Return the folder around `root`, or the first in it, that has what is needed, if any."""
    if not needed.is_relative_to(root):
        return None
    place = needed.relative_to(root)
    inside = sorted(root.iterdir())[:MANY_ENTRIES] if root.is_dir() else []
    return next(
        (folder for folder in (root.absolute().parent, *inside) if (folder / place).exists()), None
    )


def check_unique(classes: Sequence[str], where: str) -> tuple[str, ...]:
    """Return class names in NFC. Raise UserError where two are equal.

    Args:
        classes: The names.
        where: Where they are from, for the message.

    Raises:
        UserError: Two classes have the same name.
    """
    names = tuple(map(to_nfc, classes))
    for name, times in Counter(names).items():
        if times > 1:
            raise UserError(f"{where}: the class name {name!r} is there twice; give each its own")
    return names
