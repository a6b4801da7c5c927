"""Caltech 101: 101 classes, a box in each image; without the class of backgrounds.

    data.root/ or data.root/caltech101/ (torchvision)
        101_ObjectCategories/accordion/image_0001.jpg
        Annotations/accordion/annotation_0001.mat       box_coord; read by SciPy (extra `mat`)

The set has no published split: a share of the images, chosen by hash of their names, is scored.
Boxes count pixels from 1, and the last pixel belongs to the box.

Fei-Fei, Fergus and Perona, "Learning generative visual models from few training examples", CVPR
workshop 2004.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pipeline.data import hashed_splits, listing
from pipeline.data.image_search import is_image_name
from pipeline.data.intensity import RangeOption
from pipeline.data.listing import File
from pipeline.data.mat_files import read_mat
from pipeline.data.published import (
    Archive,
    Lists,
    Published,
    Record,
    check_there,
    check_unique,
    download,
    find_images,
    find_root,
)
from pipeline.data.published_truth import Annotation, BadAnnotation, box_of_corners
from pipeline.errors import UserError
from pipeline.types import Split

IMAGES, BACKGROUND = "101_ObjectCategories", "BACKGROUND_Google"
# The folders of annotations that are called otherwise than those of the images.
RENAMED = {
    "Faces": "Faces_2", "Faces_easy": "Faces_3", "Motorbikes": "Motorbikes_16",
    "airplanes": "Airplanes_Side_2",
}  # fmt: skip
LAYOUT = f"expected {IMAGES}/<class>/*.jpg and Annotations/<class>/*.mat"
ARCHIVES = (
    Archive(
        "https://data.caltech.edu/records/mzrjq-6wc02/files/caltech-101.zip",
        "caltech101/caltech-101.zip",
        "3138e1922a9193bfa496528edbbc45d0",
    ),
)
OPTION = "data=caltech101"


@dataclass(frozen=True)
class Caltech101(Published):
    """A data set (`pipeline.protocols.AnnotatedDataSet`) of objects with boxes.

    Args:
        root: The folder with 101_ObjectCategories/, or the folder around it.
        val: Share of the images that is scored, from 0 to below 1.
        download: Whether torchvision downloads the set where it is missing.
        size: What images are scaled to in pixels: a side of a square, or height and width.
        held_back: Share of the train images that selects the best epoch, from 0 to below 1.
        range: What pixels of more than 8 bits are scaled from to 0 to 255: [low, high]; None: the
            0.5 and 99.5 percentiles of training images.
        no_data: Values of such pixels that stand for no measurement, and become black.

    Raises:
        UserError: An option is out of range, a file is missing or damaged, or SciPy is.
    """

    root: str
    val: float = 0.2
    download: bool = False
    size: int | tuple[int, int] = 224
    held_back: float = 0.1
    range: RangeOption = None
    no_data: float | Sequence[float] = ()

    def __post_init__(self) -> None:
        self._check_options()
        listing.check_share("val", self.val)
        if self.download:
            from torchvision.datasets import Caltech101 as Downloaded  # here: it imports torch

            download(
                OPTION, self.root, ARCHIVES, lambda: Downloaded(self.root, download=True), LAYOUT,
                self._folder / IMAGES,
            )  # fmt: skip
        remedy = "unpack caltech-101.zip and the archives in it there, or data.download=true"
        check_there(OPTION, self.root, self._folder / IMAGES, LAYOUT, remedy)

    @property
    def _folder(self) -> Path:
        return find_root(self.root, "caltech101", IMAGES)

    @cached_property
    def _lists(self) -> Lists:
        images = self._folder / IMAGES
        folders = sorted(path for path in images.iterdir() if path.is_dir())
        listed = {
            path.name: sorted(filter(is_image_name, os.listdir(path)))
            for path in folders
            if path.name != BACKGROUND
        }
        used = [folder for folder, names in listed.items() if names]
        if not used:
            raise UserError(f"{images}: no image in a folder of a class; {LAYOUT}")
        classes = check_unique(used, str(images))
        records = [
            Record(f"{folder}/{name}", n)
            for n, folder in enumerate(used)
            for name in listed[folder]
        ]
        everything, notes = find_images(images, records, classes, IMAGES)
        train, val = hashed_splits.set_apart(everything, self.val, "val")
        return Lists(classes, train, val, notes)

    # -- annotations

    def _annotation(self, id: str) -> Path:
        """Return the file of an image's box."""
        folder, _, name = id.rpartition("/")
        number = re.sub(r"^image_", "annotation_", os.path.splitext(name)[0])
        annotations = self._folder / "Annotations"
        renamed = annotations / RENAMED.get(folder, folder)
        return (renamed if renamed.is_dir() else annotations / folder) / f"{number}.mat"

    def _annotate(self, file: File, label: int) -> Annotation | None:
        path = self._annotation(file.id)
        if not path.is_file():
            return None
        where = f"Annotations/{path.parent.name}/{path.name}"
        try:
            values = [float(value) for value in read_mat(path, "box_coord", OPTION)]
        except (TypeError, ValueError):
            values = []
        except UserError as error:
            if "SciPy" in str(error):
                raise
            raise BadAnnotation(where, "that cannot be read as a MATLAB file") from None
        if len(values) != 4:
            raise BadAnnotation(where, "whose box_coord is not four numbers")
        y0, y1, x0, x1 = values
        return box_of_corners(where, (x0, y0, x1, y1), first_pixel=1)

    def _annotation_files(self, split: Split) -> Iterable[Path]:
        return map(self._annotation, self.ids(split))
