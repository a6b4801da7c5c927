"""FGVC-Aircraft: 100 variants of aircraft, or 70 families or 30 manufacturers, a box an image.

    data.root/ or data.root/fgvc-aircraft-2013b/ (torchvision)
        data/images/0034309.jpg
        data/variants.txt                       names of the classes (families.txt, ...)
        data/images_variant_trainval.txt        image and class: trained on
        data/images_variant_test.txt            scored
        data/images_box.txt                     image, x0, y0, x1, y1

Boxes count pixels from 1, and the last pixel belongs to the box.

Maji, Rahtu, Kannala, Blaschko and Vedaldi, "Fine-Grained Visual Classification of Aircraft", 2013.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from pipeline.data.intensity import RangeOption
from pipeline.data.listing import File
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
from pipeline.formats.coco_values import parse_number
from pipeline.formats.files import read_lines
from pipeline.formats.odd_records import OddRecords
from pipeline.types import Split

LAYOUT = "expected data/images/*.jpg, data/images_variant_trainval.txt and the files beside it"
ARCHIVES = (
    Archive(
        "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz",
        "fgvc-aircraft-2013b.tar.gz",
    ),
)
OPTION = "data=aircraft"
NAMES = {"variant": "variants.txt", "family": "families.txt", "manufacturer": "manufacturers.txt"}


@dataclass(frozen=True)
class Aircraft(Published):
    """A data set (`pipeline.protocols.AnnotatedDataSet`) of aircraft with boxes.

    Args:
        root: The folder with data/, or the folder around it.
        level: What a class is: a `variant`, a `family` or a `manufacturer`.
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
    level: Literal["variant", "family", "manufacturer"] = "variant"
    download: bool = False
    size: int | tuple[int, int] = 224
    held_back: float = 0.1
    range: RangeOption = None
    no_data: float | Sequence[float] = ()

    def __post_init__(self) -> None:
        self._check_options()
        if self.download:
            from torchvision.datasets import FGVCAircraft  # here: it imports torch, slowly

            needed = self._folder / NAMES[self.level]
            download(
                OPTION, self.root, ARCHIVES, lambda: FGVCAircraft(self.root, download=True),
                LAYOUT, needed,
            )  # fmt: skip
        for needed in (
            self._folder / NAMES[self.level],
            self._list("trainval"),
            self._list("test"),
        ):
            remedy = "unpack fgvc-aircraft-2013b.tar.gz there, or data.download=true"
            check_there(OPTION, self.root, needed, LAYOUT, remedy)

    @property
    def _folder(self) -> Path:
        return find_root(self.root, "fgvc-aircraft-2013b", "data") / "data"

    def _list(self, part: str) -> Path:
        return self._folder / f"images_{self.level}_{part}.txt"

    @cached_property
    def _lists(self) -> Lists:
        path = self._folder / NAMES[self.level]
        classes = check_unique([line for _, line in read_lines(path)], str(path))
        number = {name: n for n, name in enumerate(classes)}
        listings, notes = {}, list[str]()
        for part in ("trainval", "test"):
            path, records, total = self._list(part), list[Record](), 0
            odd = OddRecords(path.name, "line")
            for line_number, line in read_lines(path):
                total += 1
                name, _, label = line.partition(" ")
                if label.strip() not in number:
                    reason = f"whose class is not in {NAMES[self.level]}"
                    odd.leave_out(f"line {line_number}", reason)
                    continue
                id = f"{name}.jpg"
                records.append(Record(id, number[label.strip()], f"images/{id}"))
            odd.check_usable(path, total, len(records))
            listings[part], more = find_images(self._folder, records, classes, path.name)
            notes += [*odd.notes(), *more]
        return Lists(classes, listings["trainval"], listings["test"], notes)

    # -- annotations

    @cached_property
    def _boxes(self) -> dict[str, tuple[list[float | None], int]]:
        """The numbers of each image's line in images_box.txt, and the number of the line."""
        path = self._folder / "images_box.txt"
        if not path.is_file():
            return {}
        return {
            line.split()[0]: ([*map(parse_number, line.split()[1:])], number)
            for number, line in read_lines(path)
        }

    def _annotate(self, file: File, label: int) -> Annotation | None:
        name = file.id.rpartition(".")[0]
        if name not in self._boxes:
            return None
        values, line = self._boxes[name]
        where = f"images_box.txt, line {line}"
        numbers = [value for value in values if value is not None]
        if len(numbers) != 4 or len(values) != 4:
            raise BadAnnotation(where, "of another form than image, x0, y0, x1, y1")
        return box_of_corners(where, numbers, first_pixel=1)

    def _annotation_files(self, split: Split) -> Iterable[Path]:
        return [self._folder / "images_box.txt"]
