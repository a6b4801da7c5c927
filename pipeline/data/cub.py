"""CUB-200-2011: birds of 200 kinds, a box in each image, in the layout that it is published in.

    data.root/ or data.root/CUB_200_2011/
        images.txt                  image id, path below images/
        image_class_labels.txt      image id, class id
        train_test_split.txt        image id, 1 for train, 0 for test
        classes.txt                 class id, folder name
        bounding_boxes.txt          image id, x, y, width, height in pixels
        images/001.Black_footed_Albatross/*.jpg

The test images are scored. A class is named as in classes.txt, in words: `Black footed Albatross`.
A part of the data set works too: images that are listed but not on disk are left out and counted.

Wah et al., "The Caltech-UCSD Birds-200-2011 Dataset", CNS-TR-2011-001.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from pipeline.data import listing
from pipeline.data.intensity import RangeOption, parse_no_data, parse_range
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
from pipeline.formats.odd_records import BadRecord, OddRecords
from pipeline.ops.text import count_note, list_some, printable, to_nfc
from pipeline.types import CocoIds, GroundTruth, Split

BOX_LINE = "image id, x, y, width and height"


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
        UserError: An option is out of range, a file is missing, or a line of a table is wrong.
    """

    root: str
    size: int | tuple[int, int] = 224
    held_back: float = 0.1
    range: RangeOption = None
    no_data: float | Sequence[float] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", listing.parse_input_size(self.size))
        parse_range(self.range)
        object.__setattr__(self, "no_data", parse_no_data(self.no_data))
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
        folders = dict(self._read_table("classes.txt", "class id and folder name"))
        folders = {n: to_nfc(name) for n, name in folders.items()}
        names = {n: re.sub(r"^\d+\.", "", name).replace("_", " ") for n, name in folders.items()}
        # Names identify classes in reports and options, so they must differ.
        return names if len({*names.values()}) == len(names) else folders

    @cached_property
    def _paths(self) -> dict[int, str]:
        """Paths of all listed images below images/, by CUB's image number."""
        paths = dict(self._read_table("images.txt", "image id and path"))
        if not paths:
            raise UserError(f"{self.folder / 'images.txt'}: lists no image; unpack the set again")
        return paths

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
        for path in self._paths.values():
            try:
                place = find_spelling(self.folder / "images" / path)
                files.append(File.from_path(printable(path), str(place)))
            except (OSError, ValueError):  # ValueError: a null byte in the name
                missing.append(path)
        if not files:
            raise UserError(
                f"{self.folder / 'images'}: none of the {len(missing)} images of images.txt is "
                f"there, {missing[0]!r} for one; unpack the set again"
            )
        labels = [class_of[self._numbers[file.id]] for file in files]
        apart = np.array([is_train[self._numbers[file.id]] for file in files], bool)
        val, train = Listing(files, labels, self.classes).split(apart)
        train, held_back = listing.set_apart(train, self.held_back, "held_back")
        notes = [f"images.txt: {list_some(missing, 'image')} not there"] if missing else []
        return Splits(train, held_back, val, notes)

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
        return self._read_truth(split)[0]

    def truth_notes(self) -> list[str]:
        """Return what was unusual about the boxes of the scored images, a line each."""
        return self._read_truth("val")[1]

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

    def _read_truth(self, split: Split) -> tuple[dict[str, GroundTruth], list[str]]:
        """Return ground truth by id, and what was unusual about it."""
        truth: dict[str, GroundTruth] = {}
        without: list[str] = []
        clipped: list[str] = []
        images = self.splits[split]
        boxes, odd_lines = self._boxes
        odd = OddRecords(self._boxes_file.name, "line")
        for file, label in zip(images.files, images.labels, strict=True):
            if self._numbers[file.id] not in boxes:
                without.append(file.id)
                continue
            box, where = boxes[self._numbers[file.id]]
            try:
                size = photo.read_size(file.path, name=file.id)
                box, was_clipped = clip(box, size)
            except SkippedImage:
                continue  # counted and named by the stages that read the image
            except BadRecord as error:
                odd.leave_out(where, str(error))
                without.append(file.id)
                continue
            clipped += [where] if was_clipped else []
            truth[file.id] = GroundTruth(file.id, label, size, np.array([box], np.float32))
        if odd.left_out:
            odd.check_usable(self._boxes_file, len(images.files), len(truth))
        notes: list[str] = [*odd_lines.notes(), *odd.notes()]
        if clipped:
            notes.append(describe_clipped_boxes(self._boxes_file, clipped, len(truth)))
        if without:
            why = "without a box that can be used: not scored"
            notes.append(count_note(without, "image", why, where=self._boxes_file.name))
        return truth, notes

    # -- CUB's tables: a number, then the rest of the line

    def _read_rows(self, name: str, holds: str) -> Iterator[tuple[int, str, str]]:
        """Yield number, rest and place of each line of a table.

        Args:
            name: The file.
            holds: What its lines hold, for messages.

        Raises:
            UserError: The file is missing, a line is of another form, or a number is there twice.
        """
        path, seen = self.folder / name, set[int]()
        for line_number, line in self._read_lines(path, holds):
            where = f"{path}, line {line_number}"
            number, _, rest = line.partition(" ")
            if not rest.strip():
                raise UserError(f"{where}: {line!r} is too short, expected {holds}; correct it")
            if not (number.isascii() and number.isdecimal()):
                raise UserError(
                    f"{where}: {number!r} is not a number, expected {holds}; correct it"
                )
            if int(number) in seen:
                raise UserError(f"{where}: the id {number} is there twice; drop one of the lines")
            seen.add(int(number))
            yield int(number), rest.strip(), where

    def _read_lines(self, path: Path, holds: str) -> Iterator[tuple[int, str]]:
        """Yield number and text of the lines of a table. Raise UserError where it is missing."""
        if not path.is_file():
            raise UserError(f"{path}: no such file; it belongs to the set (lines of {holds})")
        yield from read_lines(path)

    def _read_table(self, name: str, holds: str) -> Iterator[tuple[int, str]]:
        """Yield number and text of each line. Raise UserError if a text is there twice."""
        seen: set[str] = set()
        for number, text, where in self._read_rows(name, holds):
            if to_nfc(text) in seen:
                raise UserError(f"{where}: {text!r} is there twice; drop one of the lines")
            seen.add(to_nfc(text))
            yield number, text

    def _read_choices(self, name: str, what: str, choices: Mapping[int, int]) -> dict[int, int]:
        """Return the value that a table gives each image.

        Args:
            name: The file.
            what: What the table gives, for messages.
            choices: The value by the number in the table.

        Raises:
            UserError: A line has another number, or an image has no line.
        """
        values: dict[int, int] = {}
        for number, text, where in self._read_rows(name, f"image id and {what}"):
            if number not in self._paths:
                raise UserError(f"{where}: image id {number} is not in images.txt; drop the line")
            if not (text.isascii() and text.isdecimal()):
                raise UserError(f"{where}: {text!r} is not a number, expected {what}; correct it")
            if int(text) not in choices:
                unknown = "is not in classes.txt" if what == "class id" else f"is not {what}"
                raise UserError(f"{where}: {int(text)} {unknown}; correct it")
            values[number] = choices[int(text)]
        missing = next((number for number in self._paths if number not in values), None)
        if missing is not None:
            raise UserError(
                f"{self.folder / name}: no line for image id {missing} "
                f"({self._paths[missing]!r}); add it"
            )
        return values
