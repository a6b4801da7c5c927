"""Data sets of YOLO: the classes of an image's objects are its labels, boxes measure alone.

    data.root/data.yaml           path, train, val, test, names (yolo_layout.py)
    data.root/images/train/a.jpg  labels/train/a.txt: class cx cy width height, a line an object
    data.root/train/images/a.jpg  train/labels/a.txt, as Roboflow writes it

An image whose objects are of one class has that label; an image without an object is in `test`: it
gets boxes, and is neither trained on nor scored. data.several=keep takes images of several classes,
and those of none: an image with an empty label file, and as YOLO has it one without a label file,
is trained on and scored as showing no class. No box reaches training or maps.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pipeline.data import image_search, listing
from pipeline.data.intensity import RangeOption
from pipeline.data.of_rows import OfRows
from pipeline.data.table_splits import (
    MissingRule,
    SeveralRule,
    SplitOptions,
    TableContents,
    refuse_missing,
    refuse_negatives,
    sort_images,
)
from pipeline.data.yolo_images import count_classes, read_images
from pipeline.data.yolo_layout import EXPECTED, YoloLayout, read_layout
from pipeline.errors import UserError
from pipeline.formats.coco_records import CrowdRule
from pipeline.formats.files import find_spelling
from pipeline.ops.text import count_note


@dataclass(frozen=True)
class Yolo(OfRows):
    """A data set (`pipeline.protocols.AnnotatedDataSet`) of images and label files of YOLO.

    Args:
        root: The folder with data.yaml, or the file itself under any name.
        size: What images are scaled to in pixels: a side of a square, or height and width.
        val_split: The split that is scored, train, val or test; None: val, or else test.
        val: Share of the images that is scored where no split is, from 0 to below 1.
        held_back: Share of the train images that selects the best epoch, from 0 to below 1.
        calibration: A split whose boxes choose the threshold; None: no such split.
        several: What is done where images have objects of several classes: `refuse`, the data set
            is not used; `leave_out`, these images are not; `keep`, an image may have several
            classes, and each class is learned for itself.
        missing: What an image without a label file is where images may have several classes:
            `none`, it shows no class, as YOLO reads it; `unlabelled`, it is in `test`; None: the
            first. In a split that is neither trained on nor scored it is unlabelled.
        range: What pixels of more than 8 bits are scaled from to 0 to 255: [low, high]; None: the
            0.5 and 99.5 percentiles of training images.
        no_data: Values of such pixels that stand for no measurement, and become black.
        negatives: Names of the classes whose images show no object: they are learned as classes,
            and have no box.
        crowds: What annotations marked `iscrowd` are in a file of drawn boxes: `ignore`, regions
            that are not counted, or `objects` as all others.

    Raises:
        UserError: An option is out of range, a file is missing, or, once they are read, no image
            can be used.
    """

    root: str
    size: int | tuple[int, int] = 224
    val_split: str | None = None
    val: float = 0.2
    held_back: float = 0.1
    calibration: str | None = None
    several: SeveralRule = "refuse"
    missing: MissingRule | None = None
    range: RangeOption = None
    no_data: float | Sequence[float] = ()
    negatives: Sequence[str] = ()
    crowds: CrowdRule = "ignore"

    def __post_init__(self) -> None:
        self._parse_image_options()
        listing.check_share("val", self.val)
        listing.check_share("held_back", self.held_back)
        object.__setattr__(self, "root", str(find_spelling(Path(os.path.expanduser(self.root)))))
        if not Path(self.root).exists():
            raise UserError(f"data.root={self.root}: no such folder; {EXPECTED}")
        refuse_negatives(self.several, self.negatives)
        refuse_missing(self.several, self.missing)
        image_search.refuse_results(f"data.root={self.root}", self.root)
        _ = self._layout

    @cached_property
    def _layout(self) -> YoloLayout:
        return read_layout(Path(self.root))

    @property
    def _name(self) -> str:
        """What notes call the data set."""
        return self._layout.where

    @cached_property
    def _contents(self) -> TableContents:
        layout = self._layout
        images = read_images(layout, notes_empty=self.several != "keep")
        if not images.images:
            reasons = "".join(f"\n  {note}" for note in images.notes[:10])
            raise UserError(f"data.root={self.root}: no image; {EXPECTED}{reasons}")
        used = count_classes(images.images)
        if unused := [name for name in layout.names.values() if name not in used]:
            why = "without an image: not learned"
            images.notes.append(count_note(unused, "class", why, where=layout.where))
        options = SplitOptions(
            val=self.val,
            held_back=self.held_back,
            val_split=self.val_split,
            calibration=self.calibration,
            several=self.several,
            missing=self.missing or "none",
        )
        order = [name for _, name in sorted(layout.names.items())]
        return sort_images(images, self._name, os.fspath(layout.folder), order, options)
