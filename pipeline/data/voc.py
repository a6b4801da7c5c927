"""PASCAL VOC 2007 and 2012: twenty classes, several in an image, with a box each.

    data.root/ or data.root/VOCdevkit/ (torchvision); or the folder of the year itself
        VOC2007/JPEGImages/000005.jpg
        VOC2007/Annotations/000005.xml          classes and boxes of the objects
        VOC2007/SegmentationObject/000032.png   masks of some images, their classes in
                                                SegmentationClass/000032.png
        VOC2007/ImageSets/Main/trainval.txt     names of images: trained on; test.txt: scored
        VOC2012/ImageSets/Main/train.txt        trained on; val.txt: scored, as test has no boxes

An image is labelled with the classes of its objects that are not difficult: the 1 of the devkit's
lists of a class, of which 0 (difficult objects alone) is no label, and not measured. An image
without any object shows no class, and is learned and scored so. Difficult objects need not be
found, and boxes on them are not counted. Boxes count pixels from 1, and the last pixel belongs to
the box. The masks of SegmentationObject/ are those of the objects in the images that have one
(voc_masks.py); boxes are those of the XML files there, too.

The XML files are parsed once (voc_index.py).

Everingham, Van Gool, Williams, Winn and Zisserman, "The PASCAL Visual Object Classes (VOC)
Challenge", IJCV 2010.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from pipeline.data import voc_layout
from pipeline.data.folder_index import find_cache
from pipeline.data.intensity import RangeOption
from pipeline.data.listing import File, Listing
from pipeline.data.published import (
    Archive,
    Lists,
    Published,
    Record,
    check_there,
    download,
    find_images,
)
from pipeline.data.published_truth import Annotation, BadAnnotation, Region
from pipeline.data.voc_index import VocAnnotations
from pipeline.data.voc_masks import KINDS, OBJECTS, VocMasks, read_voc_masks
from pipeline.errors import UserError
from pipeline.formats.files import read_lines
from pipeline.formats.odd_records import BadRecord, OddRecords, no_usable_records
from pipeline.formats.pascal_voc import VocImage, VocObject
from pipeline.ops.text import count_note, note_missing
from pipeline.types import Note, Size, Split

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip
NUMBERS = {name: n for n, name in enumerate(CLASSES)}
OPTION = "data=voc"
LAYOUT = (
    "expected VOC2007/ or VOC2012/, or VOCdevkit/ around them, with JPEGImages/*.jpg, "
    "Annotations/*.xml and ImageSets/Main/*.txt"
)
REMEDY = "unpack {} there, or data.download=true"
MASKS_REMEDY = "data.masks=false leaves all masks unread"
ARCHIVES = {
    (2007, "trainval"): "VOCtrainval_06-Nov-2007.tar", (2007, "test"): "VOCtest_06-Nov-2007.tar",
    (2012, "trainval"): "VOCtrainval_11-May-2012.tar",
}  # fmt: skip
Part = Literal["train", "val"]


@dataclass(frozen=True)
class Voc(Published):
    """A data set (`pipeline.protocols.AnnotatedDataSet`) of images with several classes each.

    Args:
        root: The folder with VOC2007/ or VOC2012/, the folder around VOCdevkit/, or that of the
            year itself.
        year: 2007, 2012, or 2007+2012: both are trained on.
        scored: The list that is scored: test (then trainval is trained on) or val (then train is);
            None: test of 2007, val where only 2012 is asked for, as its test has no annotations.
        masks: Whether masks of objects are read where an image has them; else boxes alone.
        download: Whether torchvision downloads the set where it is missing.
        size: What images are scaled to in pixels: a side of a square, or height and width.
        held_back: Share of the train images that selects the best epoch, from 0 to below 1.
        range: What pixels of more than 8 bits are scaled from to 0 to 255: [low, high]; None: the
            0.5 and 99.5 percentiles of training images.
        no_data: Values of such pixels that stand for no measurement, and become black.

    Raises:
        UserError: An option is out of range, or a file is missing.
    """

    root: str
    year: Literal[2007, 2012, "2007+2012"] = 2007
    scored: Literal["test", "val"] | None = None
    masks: bool = True
    download: bool = False
    size: int | tuple[int, int] = 224
    held_back: float = 0.1
    range: RangeOption = None
    no_data: float | Sequence[float] = ()

    def __post_init__(self) -> None:
        self._check_options()
        for part in ("train", "val"):
            for year, name in self._named(part):
                archive = ARCHIVES.get((year, name), ARCHIVES[year, "trainval"])
                if self.download:
                    self._download(year, name)
                needed = self._list(year, name)
                remedy = REMEDY.format(archive)
                if part == "val" and self.scored is None and name == "test":
                    remedy += "; data.scored=val trains on train and scores val"
                option = f"{OPTION} data.year={self.year}"
                if self._find(year) is None:
                    hint = voc_layout.suggest(Path(self.root), self._years)
                    if hint is not None:
                        where = f"{option} data.root={self.root}: no {needed.name} there"
                        raise UserError(f"{where}; {LAYOUT}; {hint}")
                check_there(option, self.root, needed, LAYOUT, remedy)

    def _download(self, year: int, name: str) -> None:
        from torchvision.datasets import VOCDetection  # here: it imports torch, slowly
        from torchvision.datasets.voc import DATASET_YEAR_DICT

        image_set = "test" if name == "test" else "trainval"
        source = DATASET_YEAR_DICT[f"{year}-test" if name == "test" else str(year)]
        archive = Archive(source["url"], source["filename"], source["md5"])
        download(
            OPTION, self.root, [archive],
            lambda: VOCDetection(self.root, str(year), image_set, download=True), LAYOUT,
            self._list(year, name),
        )  # fmt: skip

    @property
    def is_multi_label(self) -> bool:
        """Whether an image may have several classes: it may."""
        return True

    @property
    def _years(self) -> list[int]:
        return [2007, 2012] if isinstance(self.year, str) else [self.year]

    def _named(self, part: str) -> list[tuple[int, str]]:
        """Return year and name of the lists that are trained on, or scored."""
        scored = self.scored or ("val" if self._years == [2012] else "test")
        if part == "train":
            return [(year, "trainval" if scored == "test" else "train") for year in self._years]
        return [(year, scored) for year in (self._years[:1] if scored == "test" else self._years)]

    def _find(self, year: int) -> Path | None:
        """Return the folder of a year; None where it is not there."""
        return voc_layout.find_year(Path(self.root), year, self._years == [year])

    def _folder(self, year: int) -> Path:
        """Return the folder of a year, or where it should be."""
        return self._find(year) or Path(self.root) / f"VOC{year}"

    def _list(self, year: int, name: str) -> Path:
        return self._folder(year) / "ImageSets/Main" / f"{name}.txt"

    # -- images and labels

    @cached_property
    def _annotations(self) -> dict[str, VocAnnotations]:
        """The annotations of the years, by the paths of their folders."""
        return {}

    def _annotations_in(self, folder: Path) -> VocAnnotations:
        """Return the annotations of a folder, read once."""
        name = os.fspath(folder)
        if name not in self._annotations:
            self._annotations[name] = VocAnnotations(folder, find_cache())
        return self._annotations[name]

    @cached_property
    def _lists(self) -> Lists:
        notes: list[str] = []
        parts = dict[str, Listing]()
        for part in ("train", "val"):
            records = list[Record]()
            for year, name in self._named(part):
                records += self._read_list(year, name, notes)
            where = " and ".join(f"{year} {name}.txt" for year, name in self._named(part))
            parts[part], more = find_images(
                Path(self.root), records, CLASSES, where, is_multi_label=True
            )
            notes += more
        for of_year in self._annotations.values():
            of_year.keep()
        return Lists(CLASSES, parts["train"], parts["val"], notes)

    def _read_list(self, year: int, name: str, notes: list[str]) -> list[Record]:
        """Return the images of a list that are labelled with a class, or without an object.

        Raises:
            UserError: The list has images, and none can be used.
        """
        path, folder, records = self._list(year, name), self._folder(year), list[Record]()
        annotations = self._annotations_in(folder / "Annotations")
        odd, total = OddRecords(f"{year} {name}.txt", "image"), 0
        unlabelled, background, missing = list[str](), list[str](), list[str]()
        objects = OddRecords(f"VOC{year}/Annotations", "object")
        photos = (folder / "JPEGImages").relative_to(self.root)
        for _, line in read_lines(path):
            stem = line.split()[0]
            total += 1
            try:
                image = annotations.read(stem)
            except FileNotFoundError:
                missing.append(stem)
                continue
            except BadRecord as error:
                odd.leave_out(f"VOC{year}/Annotations/{stem}.xml", str(error))
                continue
            labels = _label(image, f"{stem}.xml", objects)
            if labels:
                records.append(Record(f"{stem}.jpg", labels[0], f"{photos}/{stem}.jpg", labels[1:]))
            elif (fault := _explain_unlabelled(image)) is not None:
                odd.leave_out(f"VOC{year}/Annotations/{stem}.xml: {fault[0]}", fault[1])
            elif image.objects:
                unlabelled.append(stem)
            else:
                background.append(stem)
                records.append(Record(f"{stem}.jpg", -1, f"{photos}/{stem}.jpg"))
        reasons = [*_describe_missing(missing, total, odd.where), *odd.notes()]
        if total and not (records or unlabelled):
            raise no_usable_records(path, f"none of its {total} images", reasons)
        notes += [*reasons, *objects.notes()]
        if unlabelled:
            why = f"of {total} have no object that is not difficult, so no label: left out"
            notes.append(count_note(unlabelled, "image", why, where=odd.where))
        if background:
            why = f"of {total} without an object: they show no class, and are learned and scored so"
            notes.append(count_note(background, "image", why, where=odd.where))
        return records

    # -- annotations

    def _annotation(self, file: File) -> Path:
        """Return the file with the objects of an image."""
        path = Path(file.path)
        return path.parents[1] / "Annotations" / f"{path.stem}.xml"

    def _annotate(self, file: File, label: int) -> Annotation | None:
        path = self._annotation(file)
        where = os.path.relpath(path, self.root)
        try:
            image = self._annotations_in(path.parent).read(path.stem)
        except FileNotFoundError:
            return None
        except BadRecord as error:
            raise BadAnnotation(where, str(error)) from None
        known = [found for found in image.objects if found.name in NUMBERS]
        masks = self._read_masks(file, known, image.size)
        counted = [n for n, each in enumerate(known) if not each.is_difficult]
        regions = [
            Region(each.box, NUMBERS[each.name], None if masks is None else masks.of_box.get(n))
            for n, each in enumerate(known) if each.is_difficult
        ]  # fmt: skip
        return Annotation(
            where, [known[n].box for n in counted], image.size, faults=image.faults,
            classes=[NUMBERS[known[n].name] for n in counted], regions=regions,
            rles=None if masks is None else [masks.of_box[n] for n in counted],
            void=None if masks is None else masks.void,
        )  # fmt: skip

    def _annotation_files(self, split: Split) -> Iterator[str]:
        names = (OBJECTS, KINDS) if self.masks else ()
        for file in self.splits[split].files:  # as text: 40,000 paths take a second
            images, name = os.path.split(file.path)
            folder, stem = os.path.dirname(images), os.path.splitext(name)[0]
            yield f"{folder}/Annotations/{stem}.xml"
            yield from (f"{folder}/{inside}/{stem}.png" for inside in names)

    def truth_fingerprint(self, split: Split) -> str:
        """Hash names, sizes and times of the annotations of a split, and whether masks are read."""
        return super().truth_fingerprint(split) + ("" if self.masks else "-boxes")

    # -- masks

    @cached_property
    def _odd_masks(self) -> dict[str, str]:
        """Why the masks of images are left out, by the ids of those whose annotation was read."""
        return {}

    def _read_masks(
        self, file: File, objects: Sequence[VocObject], size: Size | None
    ) -> VocMasks | None:
        """Return the masks of an image; None where it has not one of each counted object."""
        if not self.masks:
            return None
        path = Path(file.path)
        boxes, numbers = [each.box for each in objects], [NUMBERS[each.name] for each in objects]
        try:
            masks = read_voc_masks(path.parents[1], path.stem, boxes, numbers, size)
            if masks is not None and not all(
                each.is_difficult or n in masks.of_box for n, each in enumerate(objects)
            ):
                raise BadRecord("with an object without a mask")
        except BadRecord as error:
            self._odd_masks[file.id] = str(error)
            return None
        return masks

    def truth_notes(self) -> list[str]:
        """Return what was unusual about the annotations of the scored images, a line each."""
        return [*super().truth_notes(), *self._describe_masks()]

    def _describe_masks(self) -> Iterator[Note]:
        """Yield notes on scored images that are no part of the numbers over masks."""
        truth = self.truth("val")
        odd: dict[str, list[str]] = {}
        for id, reason in self._odd_masks.items():
            if id in truth:
                odd.setdefault(reason, []).append(id)
        for reason, ids in odd.items():
            why = f"{reason}: boxes are used, masks are left out"
            yield count_note(ids, "image", why, where=OBJECTS, remedy="unpack the masks again")
        without = [id for id, known in truth.items() if known.masks is None]
        if not any((self._folder(year) / OBJECTS).is_dir() for year in self._years):
            return  # nothing of the masks is there
        if self.masks and without:
            why = (
                f"of {len(truth)} without masks: no part of the numbers over pixels and masks "
                "(PxAP, PxIoU), all of those of boxes"
            )
            yield count_note(without, "image", why, where="val", remedy=MASKS_REMEDY)


def _describe_missing(stems: Sequence[str], total: int, where: str) -> Iterator[Note]:
    """Yield a note on images of a list of which the annotation is not there."""
    if stems:
        why = f"of {total} without a file in Annotations, so of no class: left out"
        remedy = "unpack the archive again, or drop their lines"
        yield note_missing(stems, "image", why, total, where=where, remedy=remedy)


def _explain_unlabelled(image: VocImage) -> tuple[str, str] | None:
    """Return the fault of an image without a label, and why it is one; None where it has none."""
    if image.faults:
        why = f"with an object {image.faults[0]}, and no other that gives a label"
        return image.faulty[0], why
    unknown = dict.fromkeys(each.name for each in image.objects if each.name not in NUMBERS)
    if not unknown or any(each.is_difficult for each in image.objects if each.name in NUMBERS):
        return None
    return ", ".join(unknown), "whose objects are of classes that are none of the twenty"


def _label(image: VocImage, where: str, odd: OddRecords) -> tuple[int, ...]:
    """Return the classes of the objects that are not difficult, ascending; count the unknown."""
    labels = set[int]()
    for each in image.objects:
        if each.name not in NUMBERS:
            odd.leave_out(f"{where}: {each.name}", "of a class that is none of the twenty")
        elif not each.is_difficult:
            labels.add(NUMBERS[each.name])
    return tuple(sorted(labels))
