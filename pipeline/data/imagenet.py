"""ILSVRC2012 (ImageNet's 1000 classes) as it is unpacked, with its boxes.

    data.root/ or data.root/ILSVRC/Data/CLS-LOC/ (Kaggle)
        train/n01440764/*.JPEG              trained on
        val/ILSVRC2012_val_00000001.JPEG    scored: all in one folder with a list of their classes,
        or val/n01440764/*.JPEG             or sorted into folders of classes
    data.root/
        Annotations/CLS-LOC/val/*.xml       boxes of val, and of train in train/n01440764/*.xml;
                                            or data.boxes=FOLDER with val/ and train/
        LOC_val_solution.csv                classes of the images of val (Kaggle), or
        ILSVRC2012_validation_ground_truth.txt with meta.mat, also in ILSVRC2012_devkit_t12/data/
        LOC_synset_mapping.txt              names of the classes (imagenet_names.py)

The files are indexed once (folder_index.py). An image's size and time are compared with the index
when it is read. A part of the data set works too. test/ is not read. Boxes count pixels from 0, and
the last pixel belongs to the box, as in wsolevaluation.

Russakovsky et al., "ImageNet Large Scale Visual Recognition Challenge", IJCV 2015.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.data.folder_index import (
    IndexedFiles,
    find_cache,
    find_double_ids,
    find_index,
    index_files,
)
from pipeline.data.imagenet_names import SYNSET, name_synsets
from pipeline.data.imagenet_names import TABLES as NAME_TABLES
from pipeline.data.intensity import RangeOption
from pipeline.data.listing import File, Listing
from pipeline.data.mat_files import read_mat
from pipeline.data.published import Lists, Published, Sources, check_unique
from pipeline.data.published_truth import Annotation, voc_annotation
from pipeline.errors import UserError
from pipeline.formats.files import read_lines
from pipeline.formats.odd_records import OddRecords
from pipeline.ops.text import count_note, note_missing
from pipeline.types import Note, Split

if TYPE_CHECKING:
    from jaxtyping import Int

IMAGE_PLACES = (".", "ILSVRC/Data/CLS-LOC", "Data/CLS-LOC", "ILSVRC2012")
BOX_PLACES = ("Annotations/CLS-LOC", "ILSVRC/Annotations/CLS-LOC", "Annotations", "Annotation")
TABLE_PLACES = (".", "ILSVRC2012_devkit_t12/data", "devkit/data", "data", "ILSVRC2012")
SOLUTION, NUMBERS = "LOC_val_solution.csv", "ILSVRC2012_validation_ground_truth.txt"
LABELS_REMEDY = (
    f"put {SOLUTION}, or {NUMBERS} with meta.mat, into data.root, or sort the images into a folder "
    "for each class"
)


@dataclass(frozen=True)
class ImageNet(Published):
    """A data set (`pipeline.protocols.AnnotatedDataSet`) of folders of WordNet ids.

    Args:
        root: The folder with train/ and val/, or that of Kaggle's archive.
        boxes: The folder with val/*.xml and train/<class>/*.xml; None: Annotations/CLS-LOC of the
            root, if it is there.
        size: What images are scaled to in pixels: a side of a square, or height and width.
        held_back: Share of the train images that selects the best epoch, from 0 to below 1.
        range: What pixels of more than 8 bits are scaled from to 0 to 255: [low, high]; None: the
            0.5 and 99.5 percentiles of training images.
        no_data: Values of such pixels that stand for no measurement, and become black.

    Raises:
        UserError: An option is out of range, a folder is missing, or the classes of val are not
            known.
    """

    root: str
    boxes: str | None = None
    size: int | tuple[int, int] = 224
    held_back: float = 0.1
    range: RangeOption = None
    no_data: float | Sequence[float] = ()

    def __post_init__(self) -> None:
        self._check_options()
        if not any((self._images / part).is_dir() for part in ("train", "val")):
            raise UserError(
                f"data.root={self.root}: no train/ nor val/ there, nor in "
                f"{' or '.join(IMAGE_PLACES[1:])}; expected ILSVRC2012 with train/n01440764/*.JPEG "
                "and val/*.JPEG"
            )
        if self.boxes is not None and not Path(self.boxes).expanduser().is_dir():
            raise UserError(
                f"data.boxes={self.boxes}: no such folder; expected one with val/*.xml, as "
                "Annotations/CLS-LOC"
            )

    @property
    def _images(self) -> Path:
        """The folder with train/ and val/."""
        places = [Path(self.root) / place for place in IMAGE_PLACES]
        parts = ("train", "val")
        there = (place for place in places if any((place / part).is_dir() for part in parts))
        return next(there, places[0])

    @cached_property
    def _annotations(self) -> Path | None:
        """The folder with the XML files of val and train."""
        if self.boxes is not None:
            return Path(self.boxes).expanduser()
        places = [Path(self.root) / place for place in BOX_PLACES]
        return next((place for place in places if place.is_dir()), None)

    def _find_table(self, name: str) -> Path | None:
        """Return a file of the data set that may be in one of several folders."""
        places = [Path(self.root) / place / name for place in TABLE_PLACES]
        return next((place for place in places if place.is_file()), None)

    # -- images and labels

    @property
    def _parts(self) -> list[str]:
        """The folders that are searched."""
        return [part for part in ("train", "val") if (self._images / part).is_dir()]

    def _find_sources(self) -> Sources:
        tables = {*NAME_TABLES, SOLUTION, NUMBERS, "meta.mat"}
        places = [Path(self.root) / place / name for place in TABLE_PLACES for name in tables]
        options = [self.held_back, os.path.realpath(self.root)]
        return Sources(os.fspath(self._images), options, sorted(places))

    @cached_property
    def _indexed(self) -> IndexedFiles:
        """All image files of train/ and val/."""
        indexed = index_files(self._images, self._parts, find_cache())
        if double := find_double_ids(indexed.columns):
            id, count = next(iter(double.items()))
            raise UserError(
                f"{self._images}: {count} files are called {id} in several Unicode forms; rename "
                "or remove all but one"
            )
        return indexed

    @cached_property
    def _lists(self) -> Lists:
        notes = [*self._indexed.notes]
        parts = {part: self._list_part(part, notes) for part in ("train", "val")}
        used = sorted({name for _, names in parts.values() for name in names})
        number = {name: n for n, name in enumerate(used)}
        table = self._find_table("LOC_synset_mapping.txt")
        named, name_notes = name_synsets(Path(self.root) if table is None else table.parent, used)
        classes = check_unique(named, self.root)
        train, val = (
            Listing(self._indexed.table(rows), [number[name] for name in names], classes)
            for rows, names in parts.values()
        )
        notes += [*name_notes, *_compare_classes(used, train, val)]
        searched = self._indexed.columns.folders
        return Lists(classes, train, val, notes, folders=used, searched=searched)

    def _list_part(self, part: str, notes: list[str]) -> tuple[Int[np.ndarray, n], list[str]]:
        """Return the rows of a split's images in the index, and the class folder of each.

        Args:
            part: train or val.
            notes: Where it is noted what has no class.
        """
        rows, names, loose = list[np.ndarray](), list[str](), list[int]()
        empty = dict[str, bool]()
        for path, start, end in self._indexed.rows_by_folder():
            top, *below = path.split(os.sep)
            if top != part:
                continue
            if not below:
                loose += range(start, end)
                continue
            rows.append(np.arange(start, end))
            names += [below[0]] * (end - start)
            empty[below[0]] = empty.get(below[0], True) and start == end
        if without := [name for name, is_empty in empty.items() if is_empty]:
            notes.append(count_note(without, "class folder", "without an image", where=part))
        if loose:
            flat = self._label_loose(part, loose, notes)
            rows.append(np.array([row for row, _ in flat], np.int64))
            names += [name for _, name in flat]
        return np.concatenate([np.zeros(0, np.int64), *rows]), names

    def _label_loose(
        self, part: str, rows: Sequence[int], notes: list[str]
    ) -> list[tuple[int, str]]:
        """Return the images in no class folder that a list gives a class, with that class.

        Raises:
            UserError: All images of val are in one folder, and no list gives their classes.
        """
        columns = self._indexed.columns
        names = {row: columns.name(row) for row in rows}
        if part == "train":
            why = "in no folder of a class: left out"
            notes.append(count_note([*names.values()], "image", why, where=part))
            return []
        synsets = self._read_val_classes(notes)
        labelled = [
            (row, synsets[stem])
            for row, name in names.items()
            if (stem := os.path.splitext(name)[0]) in synsets
        ]
        if len(labelled) < len(rows):
            known = {row for row, _ in labelled}
            without = [name for row, name in names.items() if row not in known]
            why = f"of {len(rows)} have no class in the list of val: left out"
            notes.append(count_note(without, "image", why, where=part, remedy="add their lines"))
        stems = {os.path.splitext(name)[0] for name in names.values()}
        if labelled and (missing := [stem for stem in synsets if stem not in stems]):
            why = f"of {len(synsets)} of the list of val not there: left out"
            remedy = "unpack the images of val again, or drop their lines"
            note = note_missing(missing, "image", why, len(synsets), where=part, remedy=remedy)
            notes.append(note)
        if not labelled:
            raise UserError(
                f"{self._images / 'val'}: none of its {len(rows)} images is in the list of their "
                f"classes; {LABELS_REMEDY}"
            )
        return labelled

    def _read_val_classes(self, notes: list[str]) -> Mapping[str, str]:
        """Return the WordNet id of the images of val by their names without ending.

        Raises:
            UserError: There is no list of classes, or no line of it can be used.
        """
        solution, numbers = self._find_table(SOLUTION), self._find_table(NUMBERS)
        if solution is not None:
            return _read_solution(solution, notes)
        if numbers is None:
            raise UserError(
                f"{self._images / 'val'}: the images are in one folder, and no list gives their "
                f"classes; {LABELS_REMEDY}"
            )
        meta = next((path for path in (numbers.parent / "meta.mat",) if path.is_file()), None)
        meta = meta or self._find_table("meta.mat")
        if meta is None:
            raise UserError(
                f"{numbers}: gives the classes as numbers of meta.mat, which is not beside it; it "
                "is in ILSVRC2012_devkit_t12.tar.gz"
            )
        return _read_numbers(numbers, _read_meta(meta), notes)

    @cached_property
    def _kept_files(self) -> Sequence[Path]:
        index = find_index(self._images, self._parts, find_cache())
        return [path for path in (index, self._kept_file) if path is not None]

    # -- annotations

    def _annotate(self, file: File, label: int) -> Annotation | None:
        path = self._annotation_path(file.id)
        if path is None:
            return None
        return voc_annotation(path, Path(self.root), self._synsets[label], first_pixel=0)

    @cached_property
    def _synsets(self) -> list[str | None]:
        """The name of the class folder of each class, by which objects are called in the boxes."""
        return [*self._contents.folders]

    def _annotation_path(self, id: str) -> Path | None:
        """Return where the boxes of an image are; None where there is no folder of boxes."""
        if self._annotations is None:
            return None
        part, *folders, name = os.path.splitext(id)[0].split("/")
        if part == "val":  # in one folder, even where the images are sorted
            return self._annotations / "val" / f"{name}.xml"
        inside = self._annotations / "train" if self._has_train_folder else self._annotations
        return inside.joinpath(*folders, f"{name}.xml")

    @cached_property
    def _has_train_folder(self) -> bool:
        return self._annotations is not None and (self._annotations / "train").is_dir()

    def _annotation_files(self, split: Split) -> Iterable[Path]:
        return filter(None, map(self._annotation_path, self.ids(split)))


# -- the lists of classes


def _compare_classes(used: Sequence[str], train: Listing, val: Listing) -> list[Note]:
    """Return notes on classes that are in one split alone."""
    learned, scored = set(train.labels), set(val.labels)
    notes = []
    if train.files and (strange := sorted(scored - learned)):
        why = "with images in val but none in train: not learned"
        notes.append(count_note([used[n] for n in strange], "class", why))
    if val.files and (unscored := sorted(learned - scored)):
        why = "with images in train but none in val: not scored"
        notes.append(count_note([used[n] for n in unscored], "class", why))
    return notes


def _read_solution(path: Path, notes: list[str]) -> dict[str, str]:
    """Return the WordNet ids of Kaggle's list: ImageId,n01440764 x0 y0 x1 y1 ..."""
    synsets: dict[str, str] = {}
    odd, total = OddRecords(path.name, "line"), 0
    for number, line in read_lines(path):
        id, _, text = line.partition(",")
        if number == 1 and id.strip().lower() == "imageid":
            continue
        total += 1
        synset = text.split()[0] if text.split() else ""
        if not SYNSET.fullmatch(synset):
            odd.leave_out(f"line {number}", "of another form than ImageId,n01440764 x0 y0 x1 y1")
        elif synsets.setdefault(id.strip(), synset) != synset:
            odd.leave_out(f"line {number}", "with a second class of an image")
    odd.check_usable(path, total, len(synsets))
    notes += odd.notes()
    return synsets


def _read_numbers(path: Path, synsets: Mapping[int, str], notes: list[str]) -> dict[str, str]:
    """Return the WordNet ids of the devkit's list: line n has the class number of image n."""
    by_stem: dict[str, str] = {}
    odd, total = OddRecords(path.name, "line"), 0
    for number, line in read_lines(path):
        total += 1
        if line.isdecimal() and int(line) in synsets:
            by_stem[f"ILSVRC2012_val_{number:08d}"] = synsets[int(line)]
        else:
            odd.leave_out(f"line {number}", "that is no ILSVRC2012_ID of meta.mat")
    odd.check_usable(path, total, len(by_stem))
    notes += odd.notes()
    return by_stem


def _read_meta(path: Path) -> dict[int, str]:
    """Return the WordNet id of each class number of meta.mat."""
    synsets: dict[int, str] = {}
    for row in read_mat(path, "synsets", "data=imagenet"):
        try:
            number, synset = int(row["ILSVRC2012_ID"]), str(row["WNID"])
        except (ValueError, TypeError, KeyError, IndexError):
            continue
        if SYNSET.fullmatch(synset):
            synsets[number] = synset
    if not synsets:
        raise UserError(f"{path}: no synset with ILSVRC2012_ID and WNID; unpack the devkit again")
    return synsets
