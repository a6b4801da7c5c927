"""Stanford Cars: 196 models of cars, a box in each image.

    data.root/ or data.root/stanford_cars/ (torchvision)
        cars_train/*.jpg, cars_test/*.jpg
        devkit/cars_meta.mat                    names of the classes
        devkit/cars_train_annos.mat             trained on
        cars_test_annos_withlabels.mat          scored; also in devkit/

Boxes count pixels from 1, and the last pixel belongs to the box. SciPy reads the lists (extra
`mat`). The makers' server does not answer any more, so nothing is downloaded.

Krause, Stark, Deng and Fei-Fei, "3D Object Representations for Fine-Grained Categorization", 3dRR
workshop at ICCV 2013.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.data.intensity import RangeOption
from pipeline.data.listing import File
from pipeline.data.mat_files import read_mat
from pipeline.data.published import (
    Lists,
    Published,
    Record,
    check_there,
    check_unique,
    find_images,
    find_root,
)
from pipeline.data.published_truth import Annotation, BadAnnotation
from pipeline.errors import UserError
from pipeline.formats.coco_boxes import Box
from pipeline.types import Split

LAYOUT = (
    "expected cars_train/, cars_test/, devkit/cars_meta.mat, devkit/cars_train_annos.mat and "
    "cars_test_annos_withlabels.mat"
)
REMEDY = "the makers' server does not answer any more; copy the files of another copy there"
OPTION = "data=cars"
PARTS = {"train": "cars_train", "test": "cars_test"}


@dataclass(frozen=True)
class Cars(Published):
    """A data set (`pipeline.protocols.AnnotatedDataSet`) of cars with boxes.

    Args:
        root: The folder with cars_train/ and cars_test/, or the folder around it.
        size: What images are scaled to in pixels: a side of a square, or height and width.
        held_back: Share of the train images that selects the best epoch, from 0 to below 1.
        range: What pixels of more than 8 bits are scaled from to 0 to 255: [low, high]; None: the
            0.5 and 99.5 percentiles of training images.
        no_data: Values of such pixels that stand for no measurement, and become black.

    Raises:
        UserError: An option is out of range, a file is missing or damaged, or SciPy is.
    """

    root: str
    size: int | tuple[int, int] = 224
    held_back: float = 0.1
    range: RangeOption = None
    no_data: float | Sequence[float] = ()

    def __post_init__(self) -> None:
        self._check_options()
        for needed in (self._meta, self._list("train"), self._list("test")):
            check_there(OPTION, self.root, needed, LAYOUT, REMEDY)

    @property
    def _folder(self) -> Path:
        return find_root(self.root, "stanford_cars", "devkit")

    @property
    def _meta(self) -> Path:
        return self._folder / "devkit/cars_meta.mat"

    def _list(self, part: str) -> Path:
        if part == "train":
            return self._folder / "devkit/cars_train_annos.mat"
        name = "cars_test_annos_withlabels.mat"
        inside = self._folder / "devkit" / name
        return inside if inside.is_file() else self._folder / name

    @cached_property
    def _lists(self) -> Lists:
        names = [str(name) for name in read_mat(self._meta, "class_names", OPTION)]
        classes = check_unique(names, str(self._meta))
        listings, notes = {}, list[str]()
        for part, folder in PARTS.items():
            path, records = self._list(part), []
            for n, row in enumerate(read_mat(path, "annotations", OPTION)):
                name, label = _parse_row(path, n, row, len(classes))
                records.append(Record(f"{folder}/{name}", label))
            listings[part], more = find_images(self._folder, records, classes, path.name)
            notes += more
        return Lists(classes, listings["train"], listings["test"], notes)

    # -- annotations

    @cached_property
    def _boxes(self) -> dict[str, tuple[Box | None, str]]:
        """The box of each image, None where it cannot be right, and its place in the lists."""
        boxes: dict[str, tuple[Box | None, str]] = {}
        for part, folder in PARTS.items():
            path = self._list(part)
            for n, row in enumerate(read_mat(path, "annotations", OPTION)):
                where = f"{path.name}, annotation {n + 1}"
                boxes[f"{folder}/{row['fname']}"] = (_parse_box(row), where)
        return boxes

    def _annotate(self, file: File, label: int) -> Annotation | None:
        box, where = self._boxes[file.id]
        if box is None:
            raise BadAnnotation(where, "whose box is reversed or no four numbers")
        return Annotation(where, [box])

    def _annotation_files(self, split: Split) -> Iterable[Path]:
        return [self._list("test" if split == "val" else "train")]


def _parse_row(path: Path, number: int, row: Any, classes: int) -> tuple[str, int]:
    """Return file name and class of an image.

    Raises:
        UserError: The list has no classes, as the one without labels, or a class beyond the names.
    """
    try:
        name, label = str(row["fname"]), int(row["class"]) - 1
    except (ValueError, TypeError, KeyError, IndexError):
        raise UserError(
            f"{path}, annotation {number + 1}: no fname and class; {LAYOUT} (the list of the test "
            "images without labels cannot be scored)"
        ) from None
    if not 0 <= label < classes:
        raise UserError(
            f"{path}, annotation {number + 1}: class {label + 1} of {name}, and cars_meta.mat has "
            f"{classes} names; unpack the set again"
        )
    return name, label


def _parse_box(row: Any) -> Box | None:
    """Return the half-open box of an image; None where it cannot be right."""
    try:
        x0, y0, x1, y1 = (float(row[f"bbox_{name}"]) for name in ("x1", "y1", "x2", "y2"))
    except (ValueError, TypeError, KeyError, IndexError):
        return None
    return (x0 - 1, y0 - 1, x1, y1) if x1 >= x0 and y1 >= y0 else None
