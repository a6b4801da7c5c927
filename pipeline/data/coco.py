"""COCO 2014 and 2017: eighty classes, several in an image, with boxes, masks and crowds.

    data.root/ or data.root/images/
        train2017/000000000009.jpg              trained on
        val2017/000000000139.jpg                scored
    data.root/annotations/
        instances_train2017.json                categories of the images, boxes and masks
        instances_val2017.json
    of 2014: train2014/COCO_train2014_000000000009.jpg, and so on

An image is labelled with the categories that are annotated in it, crowds among them. Crowds
(`iscrowd`) are regions of uncounted objects: boxes there are neither right nor wrong. Images
without an annotation show no class: they are trained on and scored so, and boxes on them are wrong,
as on COCO's server.

The files are indexed once (folder_index.py), and so are the labels (coco_labels.py). An image's
size and time are compared with the index when it is read. Of a file of boxes the part is kept in
memory that is of the images that are measured. test2017/ is not read.

Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pipeline.data.annotations import MatchedAnnotations
from pipeline.data.coco_labels import CocoLabels, read_labels
from pipeline.data.folder_index import IndexedFiles, check_unchanged, find_cache, index_files
from pipeline.data.intensity import RangeOption
from pipeline.data.listing import File, Listing
from pipeline.data.published import Lists, Published, check_there, check_unique
from pipeline.data.published_truth import Annotation
from pipeline.errors import UserError
from pipeline.formats.coco import parse
from pipeline.formats.json_stream import iterate_lists
from pipeline.ops.label_sets import unpack_label_sets
from pipeline.ops.text import count_note, note_missing, printable
from pipeline.types import CocoIds, GroundTruth, Split

LAYOUT = "expected train2017/*.jpg, val2017/*.jpg and annotations/instances_*.json (2014 alike)"
PARTS = ("train", "val")
YEARS = (2014, 2017)


@dataclass(frozen=True)
class Coco(Published):
    """A data set (`pipeline.protocols.AnnotatedDataSet`) of images with several classes each.

    Args:
        root: The folder with annotations/, and train2017/ and val2017/ in it or in images/.
        year: 2014 or 2017.
        size: What images are scaled to in pixels: a side of a square, or height and width.
        held_back: Share of the train images that selects the best epoch, from 0 to below 1.
        range: What pixels of more than 8 bits are scaled from to 0 to 255: [low, high]; None: the
            0.5 and 99.5 percentiles of training images.
        no_data: Values of such pixels that stand for no measurement, and become black.

    Raises:
        UserError: An option is out of range, or a file or folder is missing.
    """

    root: str
    year: Literal[2014, 2017] = 2017
    size: int | tuple[int, int] = 224
    held_back: float = 0.1
    range: RangeOption = None
    no_data: float | Sequence[float] = ()

    def __post_init__(self) -> None:
        self._check_options()
        option = f"data=coco data.year={self.year}"
        archive = f"annotations_trainval{self.year}.zip"
        others = [year for year in YEARS if year != self.year and self._has_year(year)]
        is_other = others and not self._has_year(self.year)
        hint = f"{others[0]} is there: data.year={others[0]}" if is_other else ""
        for part in PARTS:
            remedy = hint or f"unpack {archive} there"
            check_there(option, self.root, self._file(part), LAYOUT, remedy)
            remedy = hint or f"unpack {part}{self.year}.zip there"
            check_there(option, self.root, self._images / self._folder(part), LAYOUT, remedy)

    @property
    def is_multi_label(self) -> bool:
        """Whether an image may have several classes: it may."""
        return True

    def _has_year(self, year: int) -> bool:
        """Return whether the annotations of a year are there."""
        return (Path(self.root) / "annotations" / f"instances_val{year}.json").is_file()

    def _folder(self, part: str) -> str:
        return f"{part}{self.year}"

    def _file(self, part: str) -> Path:
        return Path(self.root) / "annotations" / f"instances_{part}{self.year}.json"

    @property
    def _images(self) -> Path:
        """The folder with those of the splits."""
        places = [Path(self.root), Path(self.root) / "images"]
        there = (place for place in places if (place / self._folder("val")).is_dir())
        return next(there, places[0])

    # -- images and labels

    @cached_property
    def _indexed(self) -> IndexedFiles:
        return index_files(self._images, [self._folder(part) for part in PARTS], find_cache())

    @cached_property
    def _labels(self) -> dict[str, CocoLabels]:
        """What the files say of labels, of both splits."""
        return {part: read_labels(self._file(part), find_cache()) for part in PARTS}

    @cached_property
    def _lists(self) -> Lists:
        labels = self._labels
        train, val = (labels[part] for part in PARTS)
        if [*train.category_names] != [*val.category_names]:
            raise UserError(
                f"{self._file('val')}: its categories are not those of {self._file('train').name}; "
                "unpack both files of one release"
            )
        classes = check_unique(train.category_names, str(self._file("train")))
        notes: list[str] = [*self._indexed.notes]
        listed, scored = (self._list_part(part, classes, notes) for part in PARTS)
        return Lists(classes, listed, scored, notes)

    def _list_part(self, part: str, classes: Sequence[str], notes: list[str]) -> Listing:
        """Return the images of a split that are there, and known by their annotations."""
        labels, file = self._labels[part], self._file(part)
        notes += labels.notes
        row_of = self._rows(part)
        rows = np.array([row_of.get(name, -1) for name in labels.names], np.int64)
        is_background = ~labels.sets.any(1) & ~labels.unclear
        is_known = labels.sets.any(1) | is_background
        if missing := [labels.names[n] for n in np.flatnonzero(rows < 0).tolist()]:
            why = f"of {len(rows)} not in {self._images / self._folder(part)}: left out"
            remedy = f"unpack {self._folder(part)}.zip again"
            note = note_missing(missing, "image", why, len(rows), where=file.name, remedy=remedy)
            notes.append(note)
        kinds = (
            (is_background, "without an annotation: they show no class, and are learned and scored "
             "so"),
            (~is_known, "whose annotations cannot be used: neither trained on nor scored"),
        )  # fmt: skip
        for chosen, why in kinds:
            if names := [labels.names[n] for n in np.flatnonzero((rows >= 0) & chosen).tolist()]:
                notes.append(count_note(names, "image", f"of {len(rows)} {why}", where=file.name))
        kept = np.flatnonzero((rows >= 0) & is_known)
        if unlisted := len(row_of) - len({*row_of} & {*labels.names}):
            what = "image" if unlisted == 1 else "images"
            notes.append(f"{self._folder(part)}/: {unlisted} {what} not in {file.name}: left out")
        first, others = unpack_label_sets(labels.sets[kept])
        background = is_background[kept].tolist()
        return Listing(self._indexed.table(rows[kept]), first, classes, others, background)

    def _rows(self, part: str) -> dict[str, int]:
        """Return the row in the index of each image of a split, by its name below its folder."""
        columns, top = self._indexed.columns, self._folder(part)
        rows = dict[str, int]()
        for path, start, end in self._indexed.rows_by_folder():
            if path.split(os.sep)[0] == top:
                below = "/".join(path.split(os.sep)[1:])
                prefix = f"{below}/" if below else ""
                rows.update((prefix + columns.name(row), row) for row in range(start, end))
        return rows

    def _check_file(self, file: File) -> None:
        check_unchanged(file, self._indexed.kept)

    def coco_names(self, split: Split) -> CocoIds:
        """Return the numbers of images and categories in COCO's own files."""
        numbers = {
            self._id(part, name): number
            for part, labels in self._labels.items()
            for name, number in zip(labels.names, labels.numbers.tolist(), strict=True)
        }
        ids = self.ids(split)
        return CocoIds([numbers[id] for id in ids], ids, self._labels["train"].categories)

    def _id(self, part: str, name: str) -> str:
        return printable(f"{self._folder(part)}/{name}")

    # -- annotations

    def _annotate(self, file: File, label: int) -> Annotation | None:
        raise NotImplementedError  # COCO's files are matched as a whole

    def _get_truth(self, split: Split) -> tuple[dict[str, GroundTruth], list[str]]:
        """Return the annotations of a split and notes on them; read them once."""
        if split not in self._truth:
            truth, notes = dict[str, GroundTruth](), list[str]()
            for part in PARTS:
                matched = self._match(part, self.splits[split])
                if matched is not None:
                    truth |= matched.truth
                    notes += matched.notes
            self._truth[split] = truth, notes
        return self._truth[split]

    def _match(self, part: str, images: Listing) -> MatchedAnnotations | None:
        """Return the boxes of the images that are of a split's file; None where none is."""
        prefix = f"{self._folder(part)}/"
        ids = frozenset(id for id in images.ids if id.startswith(prefix))
        if not ids:
            return None
        content, positions = _read_part(self._file(part), prefix, ids)
        file = parse(self._file(part), content, option=None, positions=positions)
        by_name = {name: n for n, name in enumerate(self.classes)}
        return MatchedAnnotations(file, [*ids], images, by_name, has_options=False)

    def _annotation_files(self, split: Split) -> Iterable[Path]:
        parts: Mapping[Split, Sequence[str]] = {
            "val": ["val"], "train": ["train"], "held_back": ["train"], "all": PARTS,
        }  # fmt: skip
        return [self._file(part) for part in parts.get(split, ())]


def _read_part(
    path: Path, prefix: str, ids: frozenset[str]
) -> tuple[dict[str, list[Any]], list[int]]:
    """Return what a file says of some images, and where their annotations stand in its list.

    Args:
        path: The file.
        prefix: The folder of its images, which their ids begin with.
        ids: The images.
    """
    content: dict[str, list[Any]] = {"images": [], "annotations": [], "categories": []}
    numbers, positions = set[Any](), list[int]()
    for name, position, record in _images_first(path):
        if name == "categories":
            content[name].append(record)
        elif not isinstance(record, dict):
            continue  # counted where labels are read
        elif name == "images":
            id = printable(f"{prefix}{record.get('file_name')}")
            if id in ids:
                content[name].append({**record, "file_name": id})
                numbers.add(record.get("id"))
        elif record.get("image_id") in numbers:
            content[name].append(record)
            positions.append(position)
    return content, positions


def _images_first(path: Path) -> Iterator[tuple[str, int, Any]]:
    """Yield the records of a file, those of images before annotations: it is read twice."""
    yield from iterate_lists(path, ("images", "categories"))
    yield from iterate_lists(path, ("annotations",))
