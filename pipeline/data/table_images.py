"""Rows of tables joined to images: a file each, with its labels, its split, and its boxes apart."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.data.table_columns import Columns
from pipeline.data.table_files import TableFile
from pipeline.data.table_paths import AS_WRITTEN, FoundFile, PathFinder
from pipeline.data.table_values import is_missing, parse_box, parse_boxes, parse_labels, to_text
from pipeline.errors import UserError
from pipeline.formats.coco_boxes import Box, is_fraction
from pipeline.formats.odd_records import BadRecord, OddRecords
from pipeline.ops.text import count_note, to_nfc

ROOT_REMEDY = "data.root=FOLDER names the folder that paths are relative to"


@dataclass(frozen=True, slots=True)
class TableBox:
    """A box of a table, which only measures.

    Attributes:
        box: Half-open `xyxy`, not clipped.
        label: The label that stands beside the box alone; None: that of the row, or of the image.
        row: The row that it stands in, for messages.
        row_labels: The labels of that row.
        is_relative: Whether the box is in fractions of the image, and not in pixels.
    """

    box: Box
    label: str | None
    row: str
    row_labels: tuple[str, ...] = ()
    is_relative: bool = False

    @property
    def own_label(self) -> str | None:
        """The label of the box, or the only one of its row; None: neither says it."""
        if self.label is None and len(self.row_labels) == 1:
            return self.row_labels[0]
        return self.label

    def is_same(self, other: TableBox) -> bool:
        """Return whether two boxes of an image are one, as far as their labels tell."""
        labels = {self.own_label, other.own_label} - {None}
        return (self.box, self.label) == (other.box, other.label) and len(labels) < 2


@dataclass(slots=True)
class TableImage:
    """An image of a table.

    Attributes:
        file: Its file.
        row: The first row that names it, for messages.
        labels: Its labels, as in the table; none where it has none.
        splits: The values of the split column.
        boxes: Its boxes.
        is_contradictory: Whether rows that stand for the image alone give it different labels.
    """

    file: FoundFile
    row: str
    labels: tuple[str, ...]
    splits: tuple[str, ...] = ()
    boxes: list[TableBox] = field(default_factory=list)
    is_contradictory: bool = False


@dataclass(frozen=True)
class TableSource:
    """A table with its columns.

    Attributes:
        table: The table.
        columns: Which of its columns are used.
        split: The split of all its rows, where its folder is one; None: as the column says.
    """

    table: TableFile
    columns: Columns
    split: str | None = None


@dataclass
class TableImages:
    """The images of tables.

    Attributes:
        images: By the absolute path of the file, in the order of the tables.
        notes: What was left out or repaired, a line each.
        box_notes: The same of the boxes.
    """

    images: dict[str, TableImage] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    box_notes: list[str] = field(default_factory=list)


def read_images(sources: Sequence[TableSource], root: Path | None) -> TableImages:
    """Read the rows of tables.

    Args:
        sources: The tables.
        root: What paths are relative to; None: the folder of the table.

    Raises:
        UserError: No row of a table names an image that is there, with the reasons.
    """
    result = TableImages()
    for source in sources:
        _Reader(source, root, result).read_all()
    return result


class _Reader:
    """Reads a table; adds its images and notes to those of others.

    Args:
        source: The table.
        root: What paths are relative to; None: the folder of the table.
        result: Where images and notes are added.
    """

    def __init__(self, source: TableSource, root: Path | None, result: TableImages) -> None:
        self.table, self.columns, self.split = source.table, source.columns, source.split
        beside = os.path.dirname(os.path.abspath(self.table.path))
        first = beside if root is None else os.path.abspath(root)
        self.folders = list(dict.fromkeys([first, beside]))
        self.finder = PathFinder(self.folders)
        self.result = result
        self.odd, self.missing = self.table.odd, list[str]()
        self.odd_boxes = OddRecords(self.table.path.name, self.odd.what)
        self.repeated: list[str] = []
        self.labels: dict[str, tuple[str, ...]] = {}  # of texts that were parsed already
        self.splits: dict[str, tuple[str, ...]] = {}
        self.box_count = self.fraction_count = 0

    def read_all(self) -> None:
        """Read all rows. Raise UserError where none can be used."""
        for number, values in self.table.read(self.columns.names):
            try:
                self._add(self.table.name_row(number), values)
            except BadRecord as error:
                self.odd.leave_out(self.table.name_row(number), str(error))
        where = self.table.path.name
        self.result.notes += [*self.table.notes, *self.columns.notes]
        notes: list[str] = [*self.odd.notes()]
        if self.missing:
            what = f"whose image is not there, looked for in {self.folders[0]}: left out"
            notes.append(
                count_note(self.missing, self.odd.what, what, where=where, remedy=ROOT_REMEDY)
            )
        if self.repeated:
            why = "with an image that another row names with the same label: counted once"
            notes.append(count_note(self.repeated, self.odd.what, why, where=where))
        self.result.notes += notes
        self.result.box_notes += self.odd_boxes.notes()
        if not self.result.images:
            reasons = "".join(f"\n  {note}" for note in notes) or "\n  it has no rows"
            raise UserError(f"{self.table.path}: no image of it can be used:{reasons}")
        if self.box_count and self.fraction_count == self.box_count:
            raise UserError(
                f"{self.table.path}: all {self.box_count} boxes lie within 0 to 1: fractions of "
                "the image? boxes are to be in pixels; multiply x by the width and y by the height"
            )

    def _add(self, row: str, values: Sequence[Any]) -> None:
        """Add the image of a row. Raise BadRecord where it cannot be used."""
        text = _parse_path(values[0])
        labels = self._parse_labels(values[1])
        file = self.finder.find(text)
        if file is None:
            self.missing.append(f"{row}: {text}")
            return
        if file.how != AS_WRITTEN:
            self.odd.repair(f"{row}: {text}", file.how)
        splits = self._parse_split(values)
        boxes = list(self._parse_boxes(row, labels, values[-len(self.columns.boxes) :]))
        known = self.result.images.get(file.path)
        if known is None:
            self.result.images[file.path] = TableImage(file, row, labels, splits, boxes)
            return
        known.splits = tuple(dict.fromkeys([*known.splits, *splits]))
        there = tuple(known.boxes)
        for box in boxes:
            if any(box.is_same(other) for other in there):
                self.odd_boxes.leave_out(row, "with a box that another row has, too")
            else:
                known.boxes.append(box)
        if labels != known.labels:
            # Where rows are boxes, an image has as many labels as classes of its boxes.
            known.is_contradictory |= not self.columns.boxes and bool(labels and known.labels)
            known.labels = tuple(dict.fromkeys([*known.labels, *labels]))
        elif not self.columns.boxes:
            self.repeated.append(f"{row}: {text}")

    def _parse_labels(self, value: Any) -> tuple[str, ...]:
        """Return the labels of a row; the same tuple for all rows with the same text."""
        if not isinstance(value, str):
            return parse_labels(value)
        if value not in self.labels:
            self.labels[value] = parse_labels(value)
        return self.labels[value]

    def _parse_split(self, values: Sequence[Any]) -> tuple[str, ...]:
        """Return the split of a row, if any; an empty text where its column is empty."""
        if self.columns.split is None:
            return () if self.split is None else (self.split,)
        value = values[2]
        whole = isinstance(value, float) and value.is_integer()
        text = "" if is_missing(value) else to_text(int(value) if whole else value)
        return self.splits.setdefault(text, (text,))

    def _parse_boxes(
        self, row: str, labels: tuple[str, ...], values: Sequence[Any]
    ) -> Iterator[TableBox]:
        """Yield the boxes of a row; count those that cannot be right."""
        columns, box_format = self.columns.boxes, self.columns.box_format
        boxes: list[tuple[Box, str | None]]
        try:
            if len(columns) == 4:
                empty = [is_missing(value) for value in values]
                if all(empty):
                    return
                boxes = [(parse_box(values, box_format), None)]
            else:
                boxes = parse_boxes(values[0], box_format) if columns else []
        except BadRecord as error:
            self.odd_boxes.leave_out(row, str(error))
            return
        for box, label in boxes:
            self.box_count += 1
            self.fraction_count += is_fraction(box)
            yield TableBox(box, label, row, labels)


def _parse_path(value: Any) -> str:
    """Return the path of a field. Raise BadRecord where there is none."""
    if is_missing(value):
        raise BadRecord("without a path")
    if isinstance(value, bytes) or (isinstance(value, Mapping) and value.get("bytes")):
        raise BadRecord(
            "whose image lies in the table itself (save the images as files, and their paths in it)"
        )
    if isinstance(value, Mapping):
        value = value.get("path") or value.get("file_name")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise BadRecord("whose path is no text")
    return str(value).encode("utf-8", "backslashreplace").decode().strip()


def describe_several(images: Sequence[TableImage], total: int, is_left_out: bool) -> str:
    """Return what is said of images with several labels.

    Args:
        images: At least an image.
        total: How many images there are.
        is_left_out: Whether they are left out.
    """
    names = [f"{image.row}: {to_nfc(', '.join(image.labels[:4]))}" for image in images]
    if is_left_out:
        return count_note(names, "image", f"of {total} have several labels: left out")
    return count_note(
        names, "image", f"of {total} have several labels, and an image is to have one",
        remedy="data.several=keep learns each of them as an image of all its classes; or give each "
        "the label of its object, or leave them out by data.several=leave_out",
    )  # fmt: skip
