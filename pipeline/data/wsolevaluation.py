"""Any data set in the form of clovaai/wsolevaluation: CUBv2, ILSVRC with ImageNetV2, OpenImages30k.

    data.root/                      the metadata of a data set, as metadata/CUB of that repository
        train-weaksup/ or train/    image_ids.txt, class_labels.txt: trained on
        train-fullsup/ or val/      and image_sizes.txt, localization.txt: choose the threshold
        test/                       the same four files: scored
    data.images/                    the images, by the paths in image_ids.txt
    data.masks/                     the masks, by the paths in localization.txt

formats/wsolevaluation.py has the form of the files. Boxes of the training images are not read.
Masks are scaled to their images; what a mask `..._ignore.png` covers counts neither as object nor
as background. Without test/, val/ is scored and no split chooses the threshold.

Choe et al., "Evaluating Weakly Supervised Object Localization Methods Right", CVPR 2020.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.data.imagenet_names import TABLES, name_synsets
from pipeline.data.intensity import RangeOption
from pipeline.data.listing import File, Listing
from pipeline.data.published import (
    Lists,
    Published,
    Record,
    Sources,
    check_unique,
    find_images,
)
from pipeline.data.published_truth import Annotation, BadAnnotation
from pipeline.errors import SkippedImage, UserError
from pipeline.formats import mask_files, wsolevaluation
from pipeline.formats.files import read_lines
from pipeline.formats.wsolevaluation import NO_CLASS, Metadata
from pipeline.ops.text import count_note, printable
from pipeline.types import Split

if TYPE_CHECKING:
    from jaxtyping import Int64

TRAIN, CALIBRATION, TEST = ("train-weaksup", "train"), ("train-fullsup", "val"), ("test",)
LAYOUT = (
    "expected the metadata folder of a data set, with train-weaksup/ (or train/), train-fullsup/ "
    "(or val/) and test/, each with image_ids.txt and class_labels.txt, and with "
    "localization.txt and image_sizes.txt in the last two"
)
MAX_CLASSES = 1_000_000  # a larger number in class_labels.txt is no class


@dataclass(frozen=True)
class WsolEvaluation(Published):
    """A data set (`pipeline.protocols.AnnotatedDataSet`) in the form of wsolevaluation.

    Args:
        root: The metadata folder of the data set.
        images: The folder that the paths in image_ids.txt are below, or several that are looked
            into in turn; None: the root.
        masks: The folder that the paths of masks are below; None: the first of `images`.
        names: A file with the name of each class in a line, in the order of the classes; None: the
            folders of the images, where each class has one.
        published: How many classes and images of `train`, `calibration` and `val` the published
            set has; another number is noted.
        size: What images are scaled to in pixels: a side of a square, or height and width.
        held_back: Share of the train images that selects the best epoch, from 0 to below 1.
        range: What pixels of more than 8 bits are scaled from to 0 to 255: [low, high]; None: the
            0.5 and 99.5 percentiles of training images.
        no_data: Values of such pixels that stand for no measurement, and become black.

    Raises:
        UserError: An option is out of range, a file or folder is missing, or no line of a file can
            be used.
    """

    root: str
    images: str | Sequence[str] | None = None
    masks: str | None = None
    names: str | None = None
    published: Mapping[str, int] | None = None
    size: int | tuple[int, int] = 224
    held_back: float = 0.1
    range: RangeOption = None
    no_data: float | Sequence[float] = ()

    def __post_init__(self) -> None:
        self._check_options()
        for option, folder in (("images", self._image_folders), ("masks", [self._mask_folder])):
            for place in folder:
                if not place.is_dir():
                    raise UserError(f"data.{option}={place}: no such folder")
        if self.names is not None and not Path(self.names).is_file():
            raise UserError(f"data.names={self.names}: no such file; expected a class name a line")
        if self._folder(TEST) is None and self._folder(CALIBRATION) is None:
            raise UserError(f"data.root={self.root}: no metadata to score; {LAYOUT}")

    @property
    def _image_folders(self) -> list[Path]:
        given = self.root if self.images is None else self.images
        folders = [given] if isinstance(given, str) else [*given]
        return [Path(os.path.expanduser(folder)) for folder in folders]

    @property
    def _missing_remedy(self) -> str:
        """What helps where images are not there."""
        name = "names the folder" if self.images is None else "names another folder"
        return (
            f"data.images=FOLDER {name} that the paths of the lists begin in; else unpack or "
            "download the images again, or drop their lines"
        )

    @property
    def _mask_folder(self) -> Path:
        if self.masks is None:
            return self._image_folders[0]
        return Path(os.path.expanduser(self.masks))

    def _folder(self, names: Sequence[str]) -> Path | None:
        """Return the first of some folders that holds metadata."""
        folders = [Path(self.root) / name for name in names]
        return next((path for path in folders if (path / "image_ids.txt").is_file()), None)

    @property
    def _scored(self) -> Path:
        folder = self._folder(TEST) or self._folder(CALIBRATION)
        assert folder is not None  # checked at start
        return folder

    @property
    def _calibration(self) -> Path | None:
        """The split whose boxes choose the threshold."""
        return None if self._folder(TEST) is None else self._folder(CALIBRATION)

    def _find_sources(self) -> Sources | None:
        if len(self._image_folders) > 1:
            return None  # a kept table has the files of one folder
        (images,) = self._image_folders
        folders = [*map(self._folder, (TRAIN, CALIBRATION, TEST))]
        lists = [
            folder / name
            for folder in folders
            if folder is not None
            for name in ("image_ids.txt", "class_labels.txt")
        ]
        lists += [Path(self.root) / name for name in TABLES]
        lists += [] if self.names is None else [Path(self.names)]
        options = [
            self.held_back, self.names, dict(self.published or {}),
            [None if folder is None else os.path.realpath(folder) for folder in folders],
        ]  # fmt: skip

        return Sources(os.fspath(images), options, lists)

    @cached_property
    def _metadata(self) -> dict[Split, Metadata]:
        """Images, classes and annotations of the splits that have annotations."""
        return {
            split: wsolevaluation.read(folder, mask_folder=self._mask_folder, has_images=True)
            for split, folder in self._annotated.items()
        }

    @property
    def _annotated(self) -> dict[Split, Path]:
        """The metadata folders of the splits that have annotations."""
        folders: dict[Split, Path | None] = {"val": self._scored, "calibration": self._calibration}
        return {split: folder for split, folder in folders.items() if folder is not None}

    @cached_property
    def _lists(self) -> Lists:
        notes: list[str] = []
        ids: dict[str, Sequence[str]] = {part: m.ids for part, m in self._metadata.items()}
        labels: dict[str, Int64[np.ndarray, n]] = {
            part: np.array([m.labels.get(id, NO_CLASS) for id in m.ids], np.int64)
            for part, m in self._metadata.items()
        }
        train = self._folder(TRAIN)
        if train is None:
            notes.append(f"{self.root}: no train-weaksup/ nor train/: nothing can be trained on")
        else:
            ids["train"], labels["train"], train_notes = wsolevaluation.read_labels(train)
            notes += [f"{train.name}/{note}" for note in train_notes]
        self._check_labels(ids, labels)
        count = 1 + max((int(of_part.max()) for of_part in labels.values()), default=-1)
        classes = self._name_classes(count, ids, labels, notes)
        shared = [*range(count)]  # one object for all images of a class
        listings = {}
        for part, images in ids.items():
            where = f"{self._name(part)}/image_ids.txt"
            of_part = labels[part]
            places = np.flatnonzero(of_part != NO_CLASS).tolist()
            records = (Record(images[n], shared[of_part[n]]) for n in places)
            if part == "train" and len(places) < len(images):
                without = [images[n] for n in np.flatnonzero(of_part == NO_CLASS).tolist()]
                notes.append(count_note(without, "image", "have no class: left out", where=where))
            listings[part], more = find_images(
                self._image_folders, records, classes, where, are_unique=True,
                remedy=self._missing_remedy,
            )  # fmt: skip
            notes += more
        notes += self._compare_with_published(
            len({*listings.get("train", listings["val"]).labels, *listings["val"].labels}), ids
        )
        empty = Listing((), (), classes)
        return Lists(
            classes, listings.get("train", empty), listings["val"], notes,
            listings.get("calibration", empty), searched=_list_folders(ids.values()),
        )  # fmt: skip

    def _name(self, part: str) -> str:
        """Return the name of the metadata folder of a split."""
        folders = {"train": self._folder(TRAIN), "calibration": self._calibration}
        folder = folders.get(part, self._scored)
        return "" if folder is None else folder.name

    def _check_labels(
        self, ids: Mapping[str, Sequence[str]], labels: Mapping[str, Int64[np.ndarray, n]]
    ) -> None:
        """Raise UserError where a number cannot be that of a class, or there is none."""
        for part, of_part in labels.items():
            where = Path(self.root) / self._name(part) / "class_labels.txt"
            has_class = of_part != NO_CLASS
            if not has_class.any():
                raise UserError(f"{where}: no class of an image of image_ids.txt; {LAYOUT}")
            wrong = np.flatnonzero(has_class & ((of_part < 0) | (of_part >= MAX_CLASSES)))
            if len(wrong):
                id, label = ids[part][wrong[0]], int(of_part[wrong[0]])
                raise UserError(f"{where}: {id} has the class {label}; expected numbers from 0 on")

    def _name_classes(
        self,
        count: int,
        ids: Mapping[str, Sequence[str]],
        labels: Mapping[str, Int64[np.ndarray, n]],
        notes: list[str],
    ) -> tuple[str, ...]:
        """Return the names of the classes: of the file, of the images' folders, or numbers."""
        if self.names is not None:
            names = [line for _, line in read_lines(Path(self.names))]
            if len(names) != count:
                raise UserError(
                    f"data.names={self.names}: {len(names)} names, and class_labels.txt has "
                    f"{count} classes; give a line for each, in the order of their numbers"
                )
            return check_unique(names, f"data.names={self.names}")
        part = "train" if "train" in ids else "val"
        folders = _find_folders(ids[part], labels[part], count)
        if folders is None:
            notes.append(
                f"{self.root}: classes are named by their numbers, as the images' folders do not "
                "name them; data.names=FILE gives a name a line"
            )
            return tuple(f"class {number}" for number in range(count))
        names = [re.sub(r"^\d+\.", "", folder).replace("_", " ") for folder in folders]
        names = names if len({*names}) == len(names) else folders
        named, synset_notes = name_synsets(Path(self.root), names)
        notes += synset_notes
        return check_unique(named, self.root)

    def _compare_with_published(
        self, classes: int, ids: Mapping[str, Sequence[str]]
    ) -> Iterable[str]:
        """Yield notes on counts that are not those of the published set."""
        for part, expected in (self.published or {}).items():
            count = classes if part == "classes" else len(ids.get(part, ()))
            if count != expected:
                what = "classes" if part == "classes" else f"images in {self._name(part) or part}/"
                yield (
                    f"{self.root}: {count} {what}, the published set has {expected}: numbers are "
                    "of another set than in papers"
                )

    # -- annotations

    @cached_property
    def _by_id(self) -> dict[str, tuple[str, Metadata]]:
        """The id in the metadata, and the metadata, of each annotated image."""
        return {printable(id): (id, m) for m in self._metadata.values() for id in m.ids}

    def truth_notes(self) -> list[str]:
        """Return what was unusual about the annotations, a line each."""
        notes = [
            f"{self._name(split)}/{note}" for split, m in self._metadata.items() for note in m.notes
        ]
        notes += super().truth_notes()
        listed, scored = len(self._metadata["val"].ids), len(self.truth("val"))
        if scored < listed:
            notes.append(
                f"{self._name('val')}/image_ids.txt: {scored} of its {listed} images are measured: "
                "the others have no file, no class or no annotation that fits; the other notes "
                "name them"
            )
        return notes

    def _annotate(self, file: File, label: int) -> Annotation | None:
        if file.id not in self._by_id:
            return None
        id, metadata = self._by_id[file.id]
        where = f"{metadata.folder.name}/localization.txt, {id}"
        size = metadata.sizes.get(id)
        if id in metadata.masks:
            of_image = metadata.masks[id]
            try:
                objects = [mask_files.read_mask(path) for path in of_image.objects]
                ignored = None if of_image.ignore is None else mask_files.read_mask(of_image.ignore)
            except SkippedImage:
                raise BadAnnotation(where, "with a mask that cannot be read") from None
            return Annotation(where, (), size, objects, ignored)
        if id not in metadata.boxes:
            return None
        boxes = (metadata.boxes[id] + np.array([0, 0, 1, 1])).tolist()
        return Annotation(where, [(x0, y0, x1, y1) for x0, y0, x1, y1 in boxes], size)

    def _annotation_files(self, split: Split) -> Iterable[Path]:
        folder = self._annotated.get(split)
        if folder is None:
            return
        yield folder / "localization.txt"
        yield folder / "image_sizes.txt"
        if not wsolevaluation.has_masks(folder):
            return
        for files in self._metadata[split].masks.values():
            yield from files.objects
            if files.ignore is not None:
                yield files.ignore


def _list_folders(lists: Iterable[Sequence[str]]) -> list[str]:
    """Return the folders of all images of some lists, and those above them."""
    folders = {os.path.dirname(id) for ids in lists for id in ids}
    above = {"/".join(parts[:n]) for each in folders if (parts := each.split("/"))
             for n in range(len(parts))}  # fmt: skip
    return sorted(folders | above)


def _find_folders(ids: Sequence[str], labels: Int64[np.ndarray, n], count: int) -> list[str] | None:
    """Return the folder that the images of each class are in; None where a class has not one."""
    folders: dict[int, set[str]] = {}
    for id, label in zip(ids, labels.tolist(), strict=True):
        if label != NO_CLASS:
            folders.setdefault(label, set()).add(os.path.dirname(id))
    names = [os.path.basename(next(iter(folders.get(n, {""})))) for n in range(count)]
    is_one_each = all(len(each) == 1 for each in folders.values())
    return names if is_one_each and "" not in names and len({*names}) == count else None
