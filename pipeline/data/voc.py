"""PASCAL VOC 2007 and 2012: twenty classes, several in an image, with a box each.

    data.root/ or data.root/VOCdevkit/ (torchvision); or the folder of the year itself
        VOC2007/JPEGImages/000005.jpg
        VOC2007/Annotations/000005.xml          classes and boxes of the objects
        VOC2007/ImageSets/Main/trainval.txt     names of images: trained on; test.txt: scored
        VOC2012/ImageSets/Main/train.txt        trained on; val.txt: scored, as test has no boxes

An image is labelled with the classes of its objects that are not difficult: the 1 of the devkit's
lists of a class, of which 0 (difficult objects alone) is no label, and not measured. Difficult
objects need not be found, and boxes on them are not counted. Boxes count pixels from 1, and the
last pixel belongs to the box. The masks of SegmentationObject/ are not read.

Everingham, Van Gool, Williams, Winn and Zisserman, "The PASCAL Visual Object Classes (VOC)
Challenge", IJCV 2010.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

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
from pipeline.formats.files import read_lines
from pipeline.formats.odd_records import BadRecord, OddRecords
from pipeline.formats.pascal_voc import VocImage, read_voc
from pipeline.ops.text import count_note
from pipeline.types import Split

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
                check_there(f"{OPTION} data.year={self.year}", self.root, needed, LAYOUT, remedy)

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

    def _folder(self, year: int) -> Path:
        """Return the folder of a year."""
        root, name = Path(self.root), f"VOC{year}"
        places = [root / name, root / "VOCdevkit" / name]
        if self._years == [year]:
            places.append(root)
        return next((place for place in places if (place / "ImageSets").is_dir()), places[0])

    def _list(self, year: int, name: str) -> Path:
        return self._folder(year) / "ImageSets/Main" / f"{name}.txt"

    # -- images and labels

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
        return Lists(CLASSES, parts["train"], parts["val"], notes)

    def _read_list(self, year: int, name: str, notes: list[str]) -> list[Record]:
        """Return the images of a list that are labelled with a class.

        Raises:
            UserError: The list has images, and none can be used.
        """
        path, folder, records = self._list(year, name), self._folder(year), list[Record]()
        odd, unlabelled, total = OddRecords(f"{year} {name}.txt", "image"), list[str](), 0
        objects = OddRecords(f"VOC{year}/Annotations", "object")
        for _, line in read_lines(path):
            stem = line.split()[0]
            total += 1
            try:
                image = read_voc(folder / "Annotations" / f"{stem}.xml")
            except FileNotFoundError:
                odd.leave_out(stem, "without a file in Annotations, so of no class")
                continue
            except BadRecord as error:
                odd.leave_out(f"{stem}.xml", str(error))
                continue
            labels = _label(image, f"{stem}.xml", objects)
            if not labels:
                unlabelled.append(stem)
                continue
            place = os.path.join(folder, "JPEGImages", f"{stem}.jpg")
            records.append(Record(f"{stem}.jpg", labels[0], place, labels[1:]))
        odd.check_usable(path, total, len(records) + len(unlabelled))
        notes += [*odd.notes(), *objects.notes()]
        if unlabelled:
            why = f"of {total} have no object that is not difficult, so no label: left out"
            notes.append(count_note(unlabelled, "image", why, where=odd.where))
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
            image = read_voc(path)
        except FileNotFoundError:
            return None
        except BadRecord as error:
            raise BadAnnotation(where, str(error)) from None
        known = [found for found in image.objects if found.name in NUMBERS]
        counted = [found for found in known if not found.is_difficult]
        regions = [Region(each.box, NUMBERS[each.name]) for each in known if each.is_difficult]
        return Annotation(
            where, [each.box for each in counted], image.size, faults=image.faults,
            classes=[NUMBERS[each.name] for each in counted], regions=regions,
        )  # fmt: skip

    def _annotation_files(self, split: Split) -> Iterable[Path]:
        return map(self._annotation, self.splits[split].files)


def _label(image: VocImage, where: str, odd: OddRecords) -> tuple[int, ...]:
    """Return the classes of the objects that are not difficult, ascending; count the unknown."""
    labels = set[int]()
    for each in image.objects:
        if each.name not in NUMBERS:
            odd.leave_out(f"{where}: {each.name}", "of a class that is none of the twenty")
        elif not each.is_difficult:
            labels.add(NUMBERS[each.name])
    return tuple(sorted(labels))
