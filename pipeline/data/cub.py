"""CUB-200-2011: birds of 200 kinds, a box in each image, in the layout that it is published in.

    data.root/ or data.root/CUB_200_2011/
        images.txt                  image id, path below images/
        image_class_labels.txt      image id, class id
        train_test_split.txt        image id, 1 for train, 0 for test
        classes.txt                 class id, folder name
        bounding_boxes.txt          image id, x, y, width, height in pixels
        images/001.Black_footed_Albatross/*.jpg

The test images are scored. A class is named as in classes.txt, in words: `Black footed Albatross`.
A part of the data set works too: images that are listed but not on disk are left out and counted,
as are lines that cannot be used and images without a class or a split.

Wah et al., "The Caltech-UCSD Birds-200-2011 Dataset", CNS-TR-2011-001.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from pipeline.data import hashed_splits, listing
from pipeline.data.intensity import RangeOption
from pipeline.data.listing import File, Listing, OnDisk, Splits
from pipeline.errors import SkippedImage, UserError
from pipeline.formats import photo
from pipeline.formats.coco_boxes import (
    Box,
    clip,
    describe_clipped_boxes,
    parse_bbox,
    xywh_to_xyxy,
)
from pipeline.formats.coco_values import parse_key
from pipeline.formats.files import content_hash, find_spelling, read_lines
from pipeline.formats.odd_records import BadRecord, OddRecords, no_usable_records
from pipeline.ops.text import count_note, note_missing, printable, to_nfc
from pipeline.types import CocoIds, GroundTruth, Note, Split

BOX_LINE = "image id, x, y, width and height"

T = TypeVar("T")


@dataclass(frozen=True)
class _Table(Generic[T]):
    """What a table gives images, by CUB's image number, and its lines that cannot be used."""

    values: dict[int, T]
    odd: OddRecords


@dataclass(frozen=True)
class Cub(OnDisk):
    """A data set (`pipeline.protocols.AnnotatedDataSet`) in the layout of CUB-200-2011.

    Args:
        root: The folder with images.txt, or the folder around it.
        size: What images are scaled to in pixels: a side of a square, or height and width.
        held_back: Share of the train images that selects the best epoch, from 0 to below 1.
        range: What pixels of more than 8 bits are scaled from to 0 to 255: [low, high]; None: the
            0.5 and 99.5 percentiles of training images.
        no_data: Values of such pixels that stand for no measurement, and become black.

    Raises:
        UserError: An option is out of range, a file is missing, a line of classes.txt is wrong, or
            no line of another table can be used.
    """

    root: str
    size: int | tuple[int, int] = 224
    held_back: float = 0.1
    range: RangeOption = None
    no_data: float | Sequence[float] = ()

    def __post_init__(self) -> None:
        self._parse_image_options()
        listing.check_share("held_back", self.held_back)
        if not (self.folder / "images.txt").is_file():
            raise UserError(
                f"data.root={self.root}: no images.txt there, nor in CUB_200_2011 below it; "
                "expected the folder that CUB_200_2011.tgz unpacks to, or the one around it"
            )

    @property
    def folder(self) -> Path:
        """The folder with images.txt."""
        root = Path(self.root)
        inside = root / "CUB_200_2011"
        return inside if (inside / "images.txt").is_file() else root

    # -- images and labels

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of classes.txt."""
        return tuple(self._classes.values())

    @cached_property
    def _classes(self) -> dict[int, str]:
        """Class names by CUB's class number, in the order of classes.txt."""
        folders = {n: to_nfc(name) for n, name in self._read_classes()}
        names = {n: re.sub(r"^\d+\.", "", name).replace("_", " ") for n, name in folders.items()}
        # Names identify classes in reports and options, so they must differ.
        return names if len({*names.values()}) == len(names) else folders

    @cached_property
    def _images(self) -> _Table[str]:
        """Paths of all listed images below images/, by CUB's image number."""
        seen: set[str] = set()

        def check(number: int, path: str) -> str:
            if to_nfc(path) in seen:
                raise BadRecord("with a path that another line has, too")
            seen.add(to_nfc(path))
            return path

        table = self._read_table("images.txt", "image id and path", check)
        if not table.values:
            raise UserError(f"{self.folder / 'images.txt'}: lists no image; unpack the set again")
        return table

    @property
    def _paths(self) -> dict[int, str]:
        return self._images.values

    @cached_property
    def _numbers(self) -> dict[str, int]:
        """CUB's image number by image id."""
        return {printable(path): number for number, path in self._paths.items()}

    @cached_property
    def splits(self) -> Splits:
        """The listed images that are on disk: `train` and `held_back` to learn from, `val`.

        Raises:
            UserError: a file that lists images cannot be read, or no listed image is on disk.
        """
        position = {number: n for n, number in enumerate(self._classes)}
        class_of = self._read_choices("image_class_labels.txt", "class id", position)
        is_train = self._read_choices("train_test_split.txt", "1 or 0", {1: 1, 0: 0})
        files: list[File] = []
        missing: list[str] = []
        for number, path in self._paths.items():
            if number not in class_of.values or number not in is_train.values:
                continue
            try:
                place = find_spelling(self.folder / "images" / path)
                files.append(File.from_path(printable(path), str(place)))
            except (OSError, ValueError):  # ValueError: a null byte in the name
                missing.append(path)
        notes = [note for table in (self._images, class_of, is_train) for note in table.odd.notes()]
        for table, what in ((class_of, "class"), (is_train, "split")):
            notes += self._note_images_without(table, what)
        if not files:
            raise self._no_image(missing, notes)
        labels = [class_of.values[self._numbers[file.id]] for file in files]
        apart = np.array([is_train.values[self._numbers[file.id]] for file in files], bool)
        val, train = Listing(files, labels, self.classes).split(apart)
        train, held_back = hashed_splits.set_apart(train, self.held_back, "held_back")
        if missing:
            why = f"of {len(self._paths)} not there: left out"
            remedy = "unpack the set again, or drop their lines"
            total = len(self._paths)
            note = note_missing(missing, "image", why, total, where="images.txt", remedy=remedy)
            notes.append(note)
        return Splits(train, held_back, val, notes)

    def _note_images_without(self, table: _Table[int], what: str) -> list[Note]:
        """Return a note on listed images that have no line that can be used in a table."""
        without = [path for number, path in self._paths.items() if number not in table.values]
        if not without:
            return []
        why = f"of {len(self._paths)} have no {what}: left out, neither trained on nor scored"
        where = table.odd.where
        return [count_note(without, "image", why, where=where, remedy="add or correct their lines")]

    def _no_image(self, missing: Sequence[str], notes: Sequence[str]) -> UserError:
        """Return the error for tables of which no image can be used."""
        if not missing:
            return no_usable_records(
                self.folder / "images.txt", f"none of its {len(self._paths)} images", notes
            )
        return UserError(
            f"{self.folder / 'images'}: none of the {len(missing)} images of images.txt is "
            f"there, {missing[0]!r} for one; unpack the set again"
        )

    def coco_names(self, split: Split) -> CocoIds:
        """Return CUB's image and class numbers, and ids as file names."""
        ids = self.ids(split)
        return CocoIds([self._numbers[id] for id in ids], ids, list(self._classes))

    # -- annotations: for evaluate and calibrate

    def truth(self, split: Split) -> Mapping[str, GroundTruth]:
        """Return the box of each image by id; images without one or that are broken are left out.

        Raises:
            UserError: No line of bounding_boxes.txt can be used.
        """
        return self._get_truth(split)[0]

    def truth_notes(self) -> list[str]:
        """Return what was unusual about the boxes of the scored images, a line each."""
        return self._get_truth("val")[1]

    def truth_fingerprint(self, split: Split) -> str:
        """Hash bounding_boxes.txt."""
        return content_hash(self._boxes_file)

    @property
    def _boxes_file(self) -> Path:
        return self.folder / "bounding_boxes.txt"

    @cached_property
    def _boxes(self) -> tuple[dict[int, tuple[Box, str]], OddRecords]:
        """Boxes, not clipped, with their lines, by CUB's image number; and the odd lines."""
        boxes: dict[int, tuple[Box, str]] = {}
        odd, total = OddRecords(self._boxes_file.name, "line"), 0
        for line_number, line in self._read_lines(self._boxes_file, BOX_LINE):
            where, total = f"line {line_number}", total + 1
            try:
                number, box = self._parse_box(line)
                if number in boxes:
                    same = boxes[number][0] == box
                    raise BadRecord(
                        "that are there twice" if same else "with a second box of an image"
                    )
                boxes[number] = box, where
            except BadRecord as error:
                odd.leave_out(where, str(error))
        odd.check_usable(self._boxes_file, total, len(boxes))
        return boxes, odd

    def _parse_box(self, line: str) -> tuple[int, Box]:
        """Return image number and box of a line. Raise BadRecord where it cannot be used."""
        text, *values = line.split()
        number = parse_key(text)
        if number not in self._paths:
            raise BadRecord("of no image of images.txt")
        assert isinstance(number, int)
        bbox, _ = parse_bbox(values)
        return number, xywh_to_xyxy(bbox)

    @cached_property
    def _truth(self) -> dict[Split, tuple[dict[str, GroundTruth], list[str]]]:
        """Ground truth, and what was unusual about it, of the splits that were asked for."""
        return {}

    def _get_truth(self, split: Split) -> tuple[dict[str, GroundTruth], list[str]]:
        """Return ground truth by id, and what was unusual about it; read each image's size once."""
        if split not in self._truth:
            self._truth[split] = self._read_truth(split)
        return self._truth[split]

    def _read_truth(self, split: Split) -> tuple[dict[str, GroundTruth], list[str]]:
        """Return ground truth by id, and what was unusual about it."""
        truth: dict[str, GroundTruth] = {}
        clipped: list[str] = []
        images = self.splits[split]
        boxes, odd_lines = self._boxes
        odd = OddRecords(self._boxes_file.name, "line")
        for file, label in zip(images.files, images.labels, strict=True):
            if self._numbers[file.id] not in boxes:
                continue  # counted and named by evaluate, as images without annotation
            box, where = boxes[self._numbers[file.id]]
            try:
                size = photo.read_size(file.path, name=file.id)
                box, was_clipped = clip(box, size)
            except SkippedImage:
                continue  # counted and named by the stages that read the image
            except BadRecord as error:
                odd.leave_out(where, str(error))
                continue
            clipped += [where] if was_clipped else []
            truth[file.id] = GroundTruth(file.id, label, size, np.array([box], np.float32))
        if odd.left_out:
            odd.check_usable(self._boxes_file, len(images.files), len(truth))
        notes: list[str] = [*odd_lines.notes(), *odd.notes()]
        if clipped:
            notes.append(describe_clipped_boxes(self._boxes_file, clipped, len(truth)))
        return truth, notes

    # -- CUB's tables: a number, then the rest of the line

    def _read_lines(self, path: Path, holds: str) -> Iterator[tuple[int, str]]:
        """Yield number and text of the lines of a table. Raise UserError where it is missing."""
        if not path.is_file():
            raise UserError(f"{path}: no such file; it belongs to the set (lines of {holds})")
        yield from read_lines(path)

    def _read_classes(self) -> Iterator[tuple[int, str]]:
        """Yield number and name of each class.

        Raises:
            UserError: A line is of another form, or a number or a name is there twice: what the
                classes are is not certain then.
        """
        path, holds, seen = self.folder / "classes.txt", "class id and folder name", set[str]()
        for line_number, line in self._read_lines(path, holds):
            try:
                number, name = _parse_line(line, holds)
            except BadRecord as error:
                raise UserError(
                    f"{path}, line {line_number}: {line!r} {error}; correct it"
                ) from None
            for key in (str(number), to_nfc(name)):
                if key in seen:
                    raise UserError(
                        f"{path}, line {line_number}: {key!r} is there twice; drop one of the lines"
                    )
                seen.add(key)
            yield number, name

    def _read_table(self, name: str, holds: str, parse: Callable[[int, str], T]) -> _Table[T]:
        """Read a table of images. Lines that cannot be used are left out and counted.

        Args:
            name: The file.
            holds: What its lines hold, for messages.
            parse: Returns the value of an image number and the rest of its line, or raises
                BadRecord.

        Raises:
            UserError: The file is missing, or it has lines and none can be used.
        """
        path, total = self.folder / name, 0
        table = _Table[T]({}, OddRecords(name, "line"))
        lines: dict[int, str] = {}
        for line_number, line in self._read_lines(path, holds):
            total += 1
            try:
                number, rest = _parse_line(line, holds)
                if number in lines:
                    same = lines[number] == rest
                    raise BadRecord(
                        "that are there twice" if same else "with a second entry of an image id"
                    )
                table.values[number] = parse(number, rest)
                lines[number] = rest
            except BadRecord as error:
                table.odd.leave_out(f"line {line_number}", str(error))
        table.odd.check_usable(path, total, len(table.values))
        return table

    def _read_choices(self, name: str, what: str, choices: Mapping[int, int]) -> _Table[int]:
        """Read the value that a table gives each image.

        Args:
            name: The file.
            what: What the table gives, for messages.
            choices: The value by the number in the table.

        Raises:
            UserError: The file is missing, or it has lines and none can be used.
        """

        def choose(number: int, text: str) -> int:
            if number not in self._paths:
                raise BadRecord("of no image of images.txt")
            key = parse_key(text)
            if not isinstance(key, int) or key not in choices:
                where = "a class id of classes.txt" if what == "class id" else what
                raise BadRecord(f"whose value is not {where}")
            return choices[key]

        return self._read_table(name, f"image id and {what}", choose)


def _parse_line(line: str, holds: str) -> tuple[int, str]:
    """Return number and rest of a line. Raise BadRecord where it is of another form."""
    number, *rest = line.split(maxsplit=1)
    if not (number.isascii() and number.isdecimal()):
        raise BadRecord(f"without a number at the start, expected {holds}")
    if not rest:
        raise BadRecord(f"too short, expected {holds}")
    return int(number), rest[0].strip()
