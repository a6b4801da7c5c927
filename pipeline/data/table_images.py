"""Rows of tables joined to images: a file each, with its labels, its split, and its boxes apart."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.data.table_columns import Columns
from pipeline.data.table_files import TableFile
from pipeline.data.table_marks import MarkReader, UncertainRule
from pipeline.data.table_paths import AS_WRITTEN, FoundFile, PathFinder
from pipeline.data.table_values import (
    is_empty_list,
    is_missing,
    parse_box,
    parse_boxes,
    parse_labels,
    replace_decimal_comma,
    to_text,
)
from pipeline.errors import UserError
from pipeline.formats.coco_boxes import Box, is_fraction
from pipeline.formats.odd_records import BadRecord, OddRecords
from pipeline.ops.text import count_note, list_some, note_missing, printable, to_nfc
from pipeline.types import Note

MAX_SHOWN = 80  # letters of a box that messages show
MAX_ROWS = 3  # further rows of an image that messages name
MARKS_OF_COLUMNS = (
    "with no 1 in data.label_columns", "with no field of data.label_columns filled in"
)  # fmt: skip
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
        is_background: Whether it is known to show no class: it is labelled, and with none.
        is_unclear: Whether it has labels that cannot be used, so that it may show any class.
        other_rows: The rows that give it another label or split than the first.
    """

    file: FoundFile
    row: str
    labels: tuple[str, ...]
    splits: tuple[str, ...] = ()
    boxes: list[TableBox] = field(default_factory=list)
    is_contradictory: bool = False
    is_background: bool = False
    is_unclear: bool = False
    other_rows: tuple[str, ...] = ()

    def describe_rows(self) -> str:
        """Return the rows that name it differently, and the name of its file, for messages."""
        rows = dict.fromkeys((self.row, *self.other_rows[:MAX_ROWS]))
        return f"{' and '.join(rows)}, {printable(os.path.basename(self.file.path))}"


@dataclass(frozen=True, kw_only=True)
class LabelOptions:
    """How labels are read.

    Attributes:
        separator: What joins several labels in a field; None: it is found.
        uncertain: What -1 in a column of 0 and 1 is.
    """

    separator: str | None = None
    uncertain: UncertainRule = "refuse"


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
        has_whole_labels: Whether no label may be several that a comma joins, as the user said what
            joins them, or they are names of columns.
        marks: How an image is labelled with no class, and how it lacks a label, for messages.
    """

    images: dict[str, TableImage] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    box_notes: list[str] = field(default_factory=list)
    has_whole_labels: bool = False
    marks: tuple[str, str] = ("with an empty list of labels", "with an empty label")


def read_images(
    sources: Sequence[TableSource], root: Path | None, options: LabelOptions
) -> TableImages:
    """Read the rows of tables.

    Args:
        sources: The tables.
        root: What paths are relative to; None: the folder of the table.
        options: How labels are read.

    Raises:
        UserError: No row of a table names an image that is there, with the reasons; or labels are
            uncertain, and no option says what this is.
    """
    has_marks = any(source.columns.has_marks for source in sources)
    result = TableImages(has_whole_labels=has_marks or options.separator is not None)
    result.marks = MARKS_OF_COLUMNS if has_marks else result.marks
    for source in sources:
        _Reader(source, root, options, result).read_all()
    return result


class _Reader:
    """Reads a table; adds its images and notes to those of others.

    Args:
        source: The table.
        root: What paths are relative to; None: the folder of the table.
        options: How labels are read.
        result: Where images and notes are added.
    """

    def __init__(
        self, source: TableSource, root: Path | None, options: LabelOptions, result: TableImages
    ) -> None:
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
        self.sets: dict[tuple[str, ...], tuple[str, ...]] = {}  # of columns of 0 and 1
        self.splits: dict[str, tuple[str, ...]] = {}
        self.separator, self.is_separated = options.separator, False
        self.marks: MarkReader | None = None
        if self.columns.has_marks:
            names = [to_text(name) for name in self.columns.labels]
            self.marks = MarkReader(
                names, options.uncertain, self.table.path.name, self.table.odd.what
            )
        self.row_count = self.box_count = self.fraction_count = 0

    def read_all(self) -> None:
        """Read all rows. Raise UserError where none can be used."""
        for number, values in self.table.read(self.columns.names):
            self.row_count += 1
            try:
                self._add(self.table.name_row(number), values)
            except BadRecord as error:
                self.odd.leave_out(self.table.name_row(number), str(error))
        where = self.table.path.name
        self.result.notes += [*self.table.notes, *self.columns.notes]
        notes: list[str] = [*self.odd.notes()]
        if self.missing:
            what = f"whose image is not there, looked for in {self.folders[0]}: left out"
            notes.append(note_missing(
                self.missing, self.odd.what, what, self.row_count, where=where, remedy=ROOT_REMEDY
            ))  # fmt: skip
        if self.repeated:
            why = "with an image that another row names with the same label: counted once"
            notes.append(count_note(self.repeated, self.odd.what, why, where=where))
        notes += self._label_notes()
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
        file = self.finder.find(text)
        if file is None:
            self.missing.append(f"{row}: {text}")
            return
        count = len(self.columns.labels)
        labels = self._parse_labels(row, values[1 : 1 + count])
        if labels is None:
            return
        if file.how != AS_WRITTEN:
            self.odd.repair(f"{row}: {text}", file.how)
        splits = self._parse_split(values[1 + count :])
        boxes = list(self._parse_boxes(row, labels, values[-len(self.columns.boxes) :]))
        known = self.result.images.get(file.path)
        is_background = self._is_background(labels, values[1 : 1 + count])
        if known is None:
            self.result.images[file.path] = TableImage(
                file, row, labels, splits, boxes, is_background=is_background
            )
            return
        known.is_background |= is_background
        if labels != known.labels or not {*splits} <= {*known.splits}:
            known.other_rows += (row,)
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

    def _parse_labels(self, row: str, values: Sequence[Any]) -> tuple[str, ...] | None:
        """Return the labels of a row; None where it is left out, as they are uncertain.

        It is the same tuple for all rows with the same text.
        """
        if self.marks is not None:
            labels = self.marks.read(row, values)
            return None if labels is None else self.sets.setdefault(labels, labels)
        (value,) = values
        if not isinstance(value, str):
            return parse_labels(value, self.separator)
        if value not in self.labels:
            self.labels[value] = parse_labels(value, self.separator)
            self.is_separated |= len(self.labels[value]) > 1
        return self.labels[value]

    def _is_background(self, labels: tuple[str, ...], values: Sequence[Any]) -> bool:
        """Return whether a row says that its image shows no class: by an empty list, or by 0.

        Where columns are of 0 and 1 an empty field is taken as 0, but a row of these alone says
        nothing, as an empty field of labels.
        """
        if self.marks is None:
            return is_empty_list(values[0])
        return not labels and not all(map(is_missing, values))

    def _label_notes(self) -> list[Note]:
        """Return what was odd about the labels. Raise UserError where they are uncertain."""
        if self.marks is not None:
            return self.marks.notes()
        if self.separator is None or self.is_separated or not self.result.images:
            return []
        joined = [text for text in self.labels if len(parse_labels(text)) > 1]
        remedy = ""
        if joined:
            labels = list_some(joined, "label")
            remedy = f"; | or ; joins several in {labels}: leave data.label_separator away"
        text = (
            f"{self.table.path.name}: data.label_separator={self.separator!r} occurs in none of "
            f"{len(self.labels)} different fields of column {self.columns.labels[0]!r}: each is "
            f"a single label{remedy}"
        )
        return [Note(text)]

    def _parse_split(self, values: Sequence[Any]) -> tuple[str, ...]:
        """Return the split of a row, if any; an empty text where its column is empty.

        Args:
            values: From that of the split on, if there is such a column.
        """
        if self.columns.split is None:
            return () if self.split is None else (self.split,)
        value = values[0]
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
                if all(map(is_missing, values)):
                    return
                boxes = [(parse_box(self._read_decimals(row, values), box_format), None)]
            else:
                boxes = parse_boxes(values[0], box_format) if columns else []
        except BadRecord as error:
            shown = "; ".join(map(str, values))[:MAX_SHOWN]
            self.odd_boxes.leave_out(f"{row}: {shown}", str(error))
            return
        for box, label in boxes:
            self.box_count += 1
            self.fraction_count += is_fraction(box)
            yield TableBox(box, label, row, labels)

    def _read_decimals(self, row: str, values: Sequence[Any]) -> Sequence[Any]:
        """Return numbers with a point where the table writes them with a comma; count the row."""
        if not self.table.has_decimal_commas:
            return values
        read = [replace_decimal_comma(value) for value in values]
        if read != list(values):
            self.odd.repair(row, "with decimal commas in the box: read as numbers")
        return read


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
    names = [f"{image.describe_rows()}: {to_nfc(', '.join(image.labels[:4]))}" for image in images]
    if is_left_out:
        return count_note(names, "image", f"of {total} have several labels: left out")
    return count_note(
        names, "image", f"of {total} have several labels, and an image is to have one",
        remedy="data.several=keep learns each of them as an image of all its classes; or give each "
        "the label of its object, or leave them out by data.several=leave_out",
    )  # fmt: skip
