"""YOLO: data.yaml, images/<part>/ and labels/<part>/, which ultralytics trains on.

    labels/train/a.txt   class cx cy width height, as fractions of the upright image; a line a box
                         with outlines=polygon: class x y x y ..., the outline of its mask
    images.csv           the name of each image in the data set, its size, rank and sample
    confidence.csv       score and confidence of each line of a label file

YOLO's lines have no place for a score. An image without boxes has an empty label file: YOLO trains
on it as on an image without objects. Label files are not renamed into place one by one; the folder
of the stage counts only once it is complete.
"""

from __future__ import annotations

import csv
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import yaml

from pipeline.exporter.image_folder import ImageFolder, ImageMode, Placed
from pipeline.formats.files import atomic_write, write_text
from pipeline.formats.outlines import Outline, OutlineCounter, join_polygons, trace_outline
from pipeline.formats.text_files import Folders, replace_text
from pipeline.ops.text import count_notes
from pipeline.types import FoundBox, FoundBoxes, ImageBoxes, ImageWork, Note, Part, Size

if TYPE_CHECKING:
    from collections.abc import Sequence

SUFFIXES = frozenset([".bmp", ".dng", ".jpeg", ".jpg", ".mpo", ".png", ".tif", ".tiff", ".webp"])
"""Endings of image files that all releases of ultralytics read."""
MIN_SIDE = 10
"""Ultralytics takes smaller images as corrupt."""
PARTS: tuple[Part, ...] = get_args(Part)

IMAGE_COLUMNS = (
    "file", "image", "width", "height", "source", "review_rank", "review_sample",
)  # fmt: skip
BOX_COLUMNS = ("file", "line", "class", "score", "confidence", "source")


@dataclass(frozen=True)
class Yolo:
    """An exporter of a data set for detection, or for segmentation with outlines=polygon.

    Args:
        images: how image files get into images/.
        upright: whether images that their EXIF data turn are written upright.
        outlines: `polygon` writes outlines in place of boxes.
    """

    images: ImageMode = "link"
    upright: bool = False
    outlines: Literal["rle", "polygon"] = "rle"

    def __call__(self, detections: FoundBoxes, folder: Path) -> list[Note]:
        """Write the data set into a folder. Returns notes on what YOLO cannot hold."""
        images = ImageFolder(detections, self.images, upright=self.upright, suffixes=SUFFIXES)
        has_outlines = self.outlines == "polygon"
        labels = _LabelFiles(folder, images, has_outlines)
        encode = (lambda mask, _: trace_outline(mask)) if has_outlines else None
        with ExitStack() as stack:
            tables = [
                _open_table(stack, folder / name, columns)
                for name, columns in (("images.csv", IMAGE_COLUMNS),
                                      ("confidence.csv", BOX_COLUMNS))
            ]  # fmt: skip
            tables_of_set = _Tables(detections, images, *tables)
            work = ImageWork(labels.write, encode, writes_files=True)
            for image, written in detections.map_images(work):
                tables_of_set.add(image, written)
        write_text(folder / "data.yaml", _describe(detections, tables_of_set.counts))
        return [*tables_of_set.notes(), *images.notes()]


def _open_table(stack: ExitStack, path: Path, columns: tuple[str, ...]) -> Any:
    """Open a CSV file that is renamed into place when the stack closes, and write its header."""
    temporary = stack.enter_context(atomic_write(path))
    file: IO[str] = stack.enter_context(temporary.open("w", encoding="utf-8", newline=""))
    table = csv.writer(file)
    table.writerow(columns)
    return table


class _Written(NamedTuple):
    """What was written of an image.

    Attributes:
        part: of the image.
        file: its label file, from the folder of the data set.
        placed: where the image is.
        ious: of the outlines of its masks.
    """

    part: Part
    file: str
    placed: Placed
    ious: list[float]


@dataclass(frozen=True)
class _LabelFiles:
    """Places images, and writes their label files.

    Attributes:
        folder: of the data set.
        images: places the images.
        has_outlines: whether lines are outlines of masks.
        folders: of the parts.
    """

    folder: Path
    images: ImageFolder
    has_outlines: bool
    folders: Folders = field(default_factory=Folders)

    def write(self, image: ImageBoxes, outlines: Sequence[Outline | None]) -> _Written:
        """Write an image and its label file."""
        part = self.images.part(image.position)
        for kind in ("images", "labels"):
            self.folders.make(f"{self.folder}/{kind}/{part}")
        placed = self.images.place(image, self.folder / "images" / part)
        label_file = f"labels/{part}/{self.images.stems[image.position]}.txt"
        lines = map(self._to_line, [image] * len(image.boxes), image.boxes, outlines)
        replace_text(f"{self.folder}/{label_file}", "".join(lines))
        ious = [outline.iou for outline in outlines if outline is not None and outline.polygons]
        return _Written(part, label_file, placed, ious)

    def _to_line(self, image: ImageBoxes, box: FoundBox, outline: Outline | None) -> str:
        """Return the line of a box."""
        if not self.has_outlines:
            return _to_row(box.label, _to_fractions(box.box, image.size))
        height, width = image.size
        x0, y0, x1, y1 = box.box
        points: Any = ((x0, y0), (x1, y0), (x1, y1), (x0, y1))
        if outline is not None and outline.polygons:
            points = join_polygons(outline.polygons).tolist()
        return _to_row(box.label, [side for x, y in points for side in (x / width, y / height)])


class _Tables:
    """Writes the tables beside images and label files, and counts."""

    def __init__(
        self, found: FoundBoxes, images: ImageFolder, image_table: Any, box_table: Any
    ) -> None:
        self.counts: dict[Part, int] = {}
        self._found, self._images = found, images
        self._image_table, self._box_table = image_table, box_table
        self._outlines = OutlineCounter()
        self._without_box: list[str] = []
        self._without_file: list[str] = []
        self._small: list[str] = []
        self._human: list[str] = []

    def add(self, image: ImageBoxes, written: _Written) -> None:
        """Add the rows of an image, and count."""
        part, label_file, placed, ious = written
        self.counts[part] = self.counts.get(part, 0) + 1
        file = f"images/{part}/{placed.path}" if placed.is_in_folder else label_file
        self._add_rows(image, file, label_file)
        self._images.count(image, placed)
        self._outlines.add(image.id, ious)
        self._count(image, placed.is_in_folder)

    def _add_rows(self, image: ImageBoxes, file: str, label_file: str) -> None:
        """Add the image and its boxes to the tables."""
        review = self._found.review
        rank, is_sampled = ("", "") if review is None else (
            int(review.ranks[image.position]), int(review.sampled[image.position])
        )  # fmt: skip
        height, width = image.size
        source = "human" if image.is_human else "label2box"
        self._image_table.writerow((file, image.id, width, height, source, rank, is_sampled))
        for n, box in enumerate(image.boxes, 1):
            score: float | str = "" if box.is_human else round(box.score, 5)
            confidence = "" if box.confidence is None else round(box.confidence, 5)
            source = "human" if box.is_human else "label2box"
            self._box_table.writerow(
                (label_file, n, self._found.classes[box.label], score, confidence, source)
            )

    def _count(self, image: ImageBoxes, is_placed: bool) -> None:
        """Count what a note is about."""
        if not image.boxes:
            self._without_box.append(image.id)
        if not is_placed:
            self._without_file.append(image.id)
        if min(image.size) < MIN_SIDE:
            self._small.append(image.id)
        if image.is_human:
            self._human.append(image.id)

    def notes(self) -> list[Note]:
        """Return what was counted."""
        empty = "have no box and an empty label file: YOLO learns that they have no object"
        reasons = (
            (self._without_box, empty, "delete those that have one"),
            (self._without_file, "are not in images/, which YOLO needs beside labels/",
             "export.images=link places them"),
            (self._small, f"have a side below {MIN_SIDE} pixels: ultralytics leaves them out", ""),
            (self._human, "have been reviewed by a person, which labels cannot say: images.csv and "
             "confidence.csv do", ""),
        )  # fmt: skip
        notes = count_notes(reasons, "image")
        return [*notes, *_describe_parts(self.counts), *self._outlines.notes()]


def _to_fractions(box: tuple[float, float, float, float], size: Size) -> list[float]:
    """Return centre, width and height of a box as fractions of its image."""
    height, width = size
    x0, y0, x1, y1 = box
    return [(x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height]


def _to_row(label: int, fractions: list[float]) -> str:
    """Return a line. Seven digits are a thousandth of a pixel in an image of 10,000."""
    return f"{label} {' '.join(f'{fraction:.7f}' for fraction in fractions)}\n"


def _describe_parts(counts: dict[Part, int]) -> list[Note]:
    """Return a note where ultralytics, which wants a train and a val part, gets the same twice."""
    present = [part for part in PARTS if counts.get(part)]
    if not present or {"train", "val"} <= set(present):
        return []
    missing, other = ("val", "train") if "train" in present else ("train", present[0])
    return [
        Note(
            f"no image is of part {missing}, which ultralytics asks for: data.yaml names images/"
            f"{other} as {missing}, so its accuracy is of images that it trains on"
        )
    ]


def _describe(detections: FoundBoxes, counts: dict[Part, int]) -> str:
    """Return data.yaml. Without `path`, readers take the folder that the file lies in."""
    present = [part for part in PARTS if counts.get(part)] or ["train"]
    folders = {part: f"images/{part}" for part in present}
    for part in ("train", "val"):
        folders.setdefault(part, folders.get("train", f"images/{present[0]}"))
    content: dict[str, Any] = {part: folders[part] for part in PARTS if part in folders}
    content["names"] = dict(enumerate(detections.classes))
    head = (
        "# Boxes found by label2box; score and confidence are in confidence.csv.\n"
        f"# supervision: {detections.supervision}\n"
    )
    return head + yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=10_000)
