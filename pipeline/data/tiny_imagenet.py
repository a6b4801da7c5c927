"""Tiny ImageNet: 200 classes of ImageNet at 64 x 64, a box in each image.

    data.root/ or data.root/tiny-imagenet-200/
        wnids.txt, words.txt                            the classes, and their names
        train/n01443537/images/n01443537_0.JPEG         trained on
        train/n01443537/n01443537_boxes.txt             image, x0, y0, x1, y1
        val/images/val_0.JPEG                           scored
        val/val_annotations.txt                         image, class, x0, y0, x1, y1

Boxes count pixels from 0, and the last pixel belongs to the box. test/ has no classes and is not
read.

Le and Yang, "Tiny ImageNet Visual Recognition Challenge", CS 231N, Stanford, 2015.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pipeline.data.image_search import is_image_name
from pipeline.data.imagenet_names import name_synsets
from pipeline.data.intensity import RangeOption
from pipeline.data.listing import File
from pipeline.data.published import (
    Lists,
    Published,
    Record,
    check_there,
    check_unique,
    find_images,
    find_root,
)
from pipeline.data.published_truth import Annotation, BadAnnotation, box_of_corners
from pipeline.errors import UserError
from pipeline.formats.coco_values import parse_number
from pipeline.formats.files import read_lines
from pipeline.formats.odd_records import OddRecords
from pipeline.types import Split

LAYOUT = "expected wnids.txt, train/<class>/images/, val/images/ and val/val_annotations.txt"


@dataclass(frozen=True)
class TinyImageNet(Published):
    """A data set (`pipeline.protocols.AnnotatedDataSet`) of small images with boxes.

    Args:
        root: The folder with train/ and val/, or the folder around it.
        size: What images are scaled to in pixels: a side of a square, or height and width.
        held_back: Share of the train images that selects the best epoch, from 0 to below 1.
        range: What pixels of more than 8 bits are scaled from to 0 to 255: [low, high]; None: the
            0.5 and 99.5 percentiles of training images.
        no_data: Values of such pixels that stand for no measurement, and become black.

    Raises:
        UserError: An option is out of range, or a file is missing.
    """

    root: str
    size: int | tuple[int, int] = 224
    held_back: float = 0.1
    range: RangeOption = None
    no_data: float | Sequence[float] = ()

    def __post_init__(self) -> None:
        self._check_options()
        for needed in (self._folder / "wnids.txt", self._val_list):
            remedy = "unpack tiny-imagenet-200.zip there"
            check_there("data=tiny_imagenet", self.root, needed, LAYOUT, remedy)

    @property
    def _folder(self) -> Path:
        return find_root(self.root, "tiny-imagenet-200", "wnids.txt")

    @property
    def _val_list(self) -> Path:
        return self._folder / "val/val_annotations.txt"

    @cached_property
    def _lists(self) -> Lists:
        synsets = sorted({line for _, line in read_lines(self._folder / "wnids.txt")})
        if not synsets:
            raise UserError(f"{self._folder / 'wnids.txt'}: no class; {LAYOUT}")
        names, notes = name_synsets(self._folder, synsets)
        classes = check_unique(names, str(self._folder))
        number = {synset: n for n, synset in enumerate(synsets)}
        val = []
        odd, total = OddRecords(self._val_list.name, "line"), 0
        for line_number, line in read_lines(self._val_list):
            total += 1
            name, synset = (*line.split(), "", "")[:2]
            if synset in number:
                val.append(Record(f"val/images/{name}", number[synset]))
            else:
                odd.leave_out(f"line {line_number}", "whose class is not in wnids.txt")
        odd.check_usable(self._val_list, total, len(val))
        train = [Record(id, number[id.split("/")[1]]) for id in self._list_train(synsets)]
        trained, train_notes = find_images(self._folder, train, classes, "train")
        scored, val_notes = find_images(self._folder, val, classes, self._val_list.name)
        return Lists(classes, trained, scored, [*notes, *odd.notes(), *train_notes, *val_notes])

    def _list_train(self, synsets: Iterable[str]) -> Iterable[str]:
        """Yield the ids of the training images."""
        for synset in synsets:
            folder = self._folder / "train" / synset / "images"
            names = sorted(os.listdir(folder)) if folder.is_dir() else []
            yield from (f"train/{synset}/images/{name}" for name in names if is_image_name(name))

    # -- annotations

    def _box_file(self, id: str) -> Path:
        """Return the file with the box of an image."""
        part, synset, *_ = id.split("/")
        folder = self._folder / part
        return self._val_list if part == "val" else folder / synset / f"{synset}_boxes.txt"

    @cached_property
    def _boxes(self) -> dict[Path, dict[str, tuple[list[float | None], int]]]:
        """The last four numbers of each line, and its number, by file and image."""
        return {}

    def _annotate(self, file: File, label: int) -> Annotation | None:
        path = self._box_file(file.id)
        if path not in self._boxes:
            lines = read_lines(path) if path.is_file() else ()
            self._boxes[path] = {
                line.split()[0]: ([*map(parse_number, line.split()[-4:])], number)
                for number, line in lines
            }
        name = file.id.rpartition("/")[2]
        if name not in self._boxes[path]:
            return None
        values, line_number = self._boxes[path][name]
        where = f"{path.name}, line {line_number}"
        numbers = [value for value in values if value is not None]
        if len(numbers) != 4:
            raise BadAnnotation(where, "whose last fields are not x0, y0, x1, y1")
        return box_of_corners(where, numbers, first_pixel=0)

    def _annotation_files(self, split: Split) -> Iterable[Path]:
        return {self._box_file(id) for id in self.ids(split)}
