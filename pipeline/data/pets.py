"""Oxford-IIIT Pet: 37 breeds of cats and dogs, with trimaps of each pet.

    data.root/ or data.root/oxford-iiit-pet/ (torchvision)
        images/Abyssinian_1.jpg
        annotations/trainval.txt        name, class from 1, species, breed: trained on
        annotations/test.txt            scored
        annotations/trimaps/*.png       1: pet, 2: background, 3: its outline, which is ignored

The mask of a pet is its pixels of 1, and its box is around them. The files of annotations/xmls/ are
not read: they are boxes of heads, and of trainval alone.

Parkhi, Vedaldi, Zisserman and Jawahar, "Cats and Dogs", CVPR 2012.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

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
from pipeline.data.published_truth import Annotation, BadAnnotation
from pipeline.errors import SkippedImage, UserError
from pipeline.formats import photo
from pipeline.formats.files import read_lines
from pipeline.formats.mask_files import read_values
from pipeline.formats.odd_records import OddRecords
from pipeline.types import Split

PET, OUTLINE = 1, 3
VALUES = (1, 2, 3)
ARCHIVES = tuple(
    Archive(
        f"https://www.robots.ox.ac.uk/~vgg/data/pets/data/{name}", f"oxford-iiit-pet/{name}", md5
    )
    for name, md5 in (
        ("images.tar.gz", "5c4f3ee8e5d25df40f4fd59a7f44e54c"),
        ("annotations.tar.gz", "95a8c909bbe2e81eed6a22bccdf3f68f"),
    )
)
LAYOUT = "expected images/*.jpg, annotations/trainval.txt, test.txt and trimaps/*.png"


@dataclass(frozen=True)
class Pets(Published):
    """A data set (`pipeline.protocols.AnnotatedDataSet`) of pets with masks.

    Args:
        root: The folder with images/ and annotations/, or the folder around it.
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
    download: bool = False
    size: int | tuple[int, int] = 224
    held_back: float = 0.1
    range: RangeOption = None
    no_data: float | Sequence[float] = ()

    def __post_init__(self) -> None:
        self._check_options()
        if self.download:
            from torchvision.datasets import OxfordIIITPet  # here: it imports torch, slowly

            needed = self._folder / "annotations/trainval.txt"
            download(
                "data=pets", self.root, ARCHIVES,
                lambda: OxfordIIITPet(self.root, download=True), LAYOUT, needed,
            )  # fmt: skip
        for name in ("trainval.txt", "test.txt"):
            needed = self._folder / "annotations" / name
            remedy = "unpack images.tar.gz and annotations.tar.gz there, or data.download=true"
            check_there("data=pets", self.root, needed, LAYOUT, remedy)

    @property
    def _folder(self) -> Path:
        return find_root(self.root, "oxford-iiit-pet", "annotations")

    @cached_property
    def _lists(self) -> Lists:
        notes: list[str] = []
        rows = {part: self._read_list(part, notes) for part in ("trainval", "test")}
        names: dict[int, str] = {}
        for name, number in (row for of_part in rows.values() for row in of_part):
            breed = name.rpartition("_")[0]
            if names.setdefault(number, breed) != breed:
                raise UserError(
                    f"{self._folder / 'annotations'}: class {number} is {names[number]!r} and "
                    f"{breed!r}; correct the lines of {name}"
                )
        numbers = sorted(names)
        classes = check_unique([names[n].replace("_", " ") for n in numbers], self.root)
        listings = {}
        for part, of_part in rows.items():
            records = [
                Record(f"{name}.jpg", numbers.index(number), f"images/{name}.jpg")
                for name, number in of_part
            ]
            listings[part], more = find_images(self._folder, records, classes, f"{part}.txt")
            notes += more
        return Lists(classes, listings["trainval"], listings["test"], notes)

    def _read_list(self, part: str, notes: list[str]) -> list[tuple[str, int]]:
        """Return name and class number of the images of a list."""
        path, rows, total = self._folder / "annotations" / f"{part}.txt", [], 0
        odd = OddRecords(path.name, "line")
        for number, line in read_lines(path):
            fields = line.split()
            if line.startswith("#"):
                continue
            total += 1
            if len(fields) < 2 or not fields[1].isdecimal() or "_" not in fields[0]:
                odd.leave_out(f"line {number}", "of another form than Abyssinian_1 1 1 1")
            else:
                rows.append((fields[0], int(fields[1])))
        odd.check_usable(path, total, len(rows))
        notes += odd.notes()
        return rows

    # -- annotations

    def _trimap(self, id: str) -> Path:
        return self._folder / "annotations/trimaps" / f"{Path(id).stem}.png"

    def _annotate(self, file: File, label: int) -> Annotation | None:
        path = self._trimap(file.id)
        if not path.is_file():
            return None
        where = f"trimaps/{path.name}"
        try:
            values = read_values(path)
            size = photo.read_size(file.path, name=file.id)
        except SkippedImage as error:
            raise BadAnnotation(where, f"with a trimap or image not read ({error})") from None
        if values.shape != size:
            raise BadAnnotation(where, "whose trimap is of another size than the image")
        if not np.isin(values, VALUES).all():
            raise BadAnnotation(where, "with other values than 1, 2 and 3: no trimap")
        return Annotation(where, (), size, [values == PET], values == OUTLINE)

    def _annotation_files(self, split: Split) -> Iterable[Path]:
        return map(self._trimap, self.ids(split))
