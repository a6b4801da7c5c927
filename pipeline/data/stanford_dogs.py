"""Stanford Dogs: 120 breeds, with boxes.

    data.root/
        Images/n02085620-Chihuahua/n02085620_10074.jpg
        Annotation/n02085620-Chihuahua/n02085620_10074     XML without an ending
        train_list.mat, test_list.mat                      or in lists/; read by SciPy (extra `mat`)

Boxes count pixels from 0, and the last pixel belongs to the box, as in ImageNet, whose images these
are.

Khosla, Jayadevaprakash, Yao and Fei-Fei, "Novel Dataset for Fine-Grained Image Categorization",
FGVC workshop at CVPR 2011.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pipeline.data.intensity import RangeOption
from pipeline.data.listing import File
from pipeline.data.mat_files import read_mat
from pipeline.data.published import Lists, Published, Record, check_there, check_unique, find_images
from pipeline.data.published_truth import Annotation, voc_annotation
from pipeline.errors import UserError
from pipeline.types import Split

LAYOUT = "expected Images/, Annotation/, train_list.mat and test_list.mat"
REMEDY = "unpack images.tar, annotation.tar and lists.tar of Stanford Dogs there"
OPTION = "data=stanford_dogs"


@dataclass(frozen=True)
class StanfordDogs(Published):
    """A data set (`pipeline.protocols.AnnotatedDataSet`) of dogs with boxes.

    Args:
        root: The folder with Images/, Annotation/ and the lists.
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
        for needed in (Path(self.root) / "Images", self._list("train"), self._list("test")):
            check_there(OPTION, self.root, needed, LAYOUT, REMEDY)

    def _list(self, part: str) -> Path:
        places = [Path(self.root) / place / f"{part}_list.mat" for place in (".", "lists")]
        return next((place for place in places if place.is_file()), places[0])

    @cached_property
    def _lists(self) -> Lists:
        images = {
            part: [str(name) for name in read_mat(self._list(part), "file_list", OPTION)]
            for part in ("train", "test")
        }
        folders = sorted({name.split("/")[0] for of_part in images.values() for name in of_part})
        if not all("/" in name for of_part in images.values() for name in of_part):
            raise UserError(f"{self._list('train')}: file_list is no list of FOLDER/NAME.jpg")
        names = [folder.partition("-")[2].replace("_", " ") or folder for folder in folders]
        classes = check_unique(names if len({*names}) == len(names) else folders, self.root)
        number = {folder: n for n, folder in enumerate(folders)}
        listings, notes = {}, list[str]()
        for part, of_part in images.items():
            records = [Record(name, number[name.split("/")[0]]) for name in of_part]
            where = self._list(part).name
            listings[part], more = find_images(Path(self.root) / "Images", records, classes, where)
            notes += more
        return Lists(classes, listings["train"], listings["test"], notes)

    def _annotation(self, id: str) -> Path:
        return Path(self.root) / "Annotation" / id.rpartition(".")[0]

    def _annotate(self, file: File, label: int) -> Annotation | None:
        return voc_annotation(self._annotation(file.id), Path(self.root), None, first_pixel=0)

    def _annotation_files(self, split: Split) -> Iterable[Path]:
        return map(self._annotation, self.ids(split))
