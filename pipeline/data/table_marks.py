"""Columns of 0 and 1, a class each, as tables of several labels an image often have them.

    path,Edema,Fracture,Pneumonia      data.label_columns=[Edema,Fracture,Pneumonia]
    a.png,1,0,0                        1 or true: the image has this label; 0 or false: it has not
    b.png,1,,-1                        empty: it has not, counted; -1: uncertain, data.uncertain

An image with 0 and no 1 has no label, and where an image may have several it is known to show no
class. One of empty fields alone is as where the field of a single column of labels is empty.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal

from pipeline.data.table_files import TableFile
from pipeline.data.table_values import is_missing
from pipeline.errors import UserError
from pipeline.formats.odd_records import BadRecord
from pipeline.ops.text import count_note, list_some
from pipeline.types import Note

UncertainRule = Literal["refuse", "absent", "present", "leave_out"]
"""What -1 in a column of 0 and 1 is: the table is refused, 0, 1, or its image is left out."""

Mark = Literal["absent", "present", "uncertain", "empty"]
MARKS: Mapping[str, Mark] = {
    "0": "absent", "0.0": "absent", "false": "absent", "1": "present", "1.0": "present",
    "true": "present", "-1": "uncertain", "-1.0": "uncertain",
}  # fmt: skip
MAX_SAMPLED = 1000  # rows by which columns of 0 and 1 are known
MANY_COLUMNS = 40  # that an error still names
PLAIN_NAME = re.compile(r"(?!(?:true|false|null|yes|no|on|off|nan|inf)$)[A-Za-z_][\w ]*\w", re.I)
UNCERTAIN_REMEDY = (
    "data.uncertain=absent takes it as 0 (also where -1 means that the class is not there, as in "
    "CelebA), data.uncertain=present as 1, data.uncertain=leave_out leaves these images out"
)


def parse_mark(value: Any) -> Mark:
    """Return what a field says of a class.

    Args:
        value: Text, a number or a boolean; or nothing.

    Raises:
        BadRecord: It is something else.

    Examples:
        >>> parse_mark("1.0"), parse_mark(0), parse_mark(-1.0), parse_mark("")
        ('present', 'absent', 'uncertain', 'empty')
    """
    if is_missing(value):
        return "empty"
    mark = MARKS.get(str(value).strip().casefold())
    if mark is None:
        raise BadRecord("with something else than 0, 1, -1 or nothing in data.label_columns")
    return mark


def find_mark_columns(table: TableFile, columns: Sequence[str]) -> list[str]:
    """Return the columns that hold 0, 1, -1 or nothing, and 0 or 1 at least once.

    Args:
        table: The table, of which the first rows are read.
        columns: Those that are looked at.
    """
    left = dict.fromkeys(columns, False)
    for _, values in islice(table.read(columns), MAX_SAMPLED):
        for name, value in zip(columns, values, strict=False):
            if name not in left:
                continue
            try:
                left[name] |= parse_mark(value) in ("absent", "present")
            except BadRecord:
                del left[name]
    return [name for name, has_mark in left.items() if has_mark]


def explain_marks(table: TableFile, columns: Sequence[str]) -> str:
    """Return the option that reads the columns of 0 and 1, if there are two or more.

    Args:
        table: The table.
        columns: Those that may be columns of 0 and 1.
    """
    names = find_mark_columns(table, columns)
    if len(names) < 2:
        return ""
    listed = ",".join(map(_quote_name, names[:MANY_COLUMNS]))
    more = f", and so on for all {len(names)}" if len(names) > MANY_COLUMNS else ""
    return (
        f"; {list_some(names, 'column')} have 0 or 1: where each is a class, give "
        f"'data.label_columns=[{listed}]'{more}, without those that are none, and "
        "data.several=keep where an image may have several"
    )


def _quote_name(name: str) -> str:
    """Return the name of a column as a list of the command line has it."""
    if PLAIN_NAME.fullmatch(name):
        return name
    return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'


@dataclass
class MarkReader:
    """Reads the labels of rows from columns of 0 and 1, and counts what is neither.

    Attributes:
        names: The names of the columns.
        uncertain: What -1 is.
        where: The name of the table, which begins the notes.
        unit: The singular of what a row is called.
        row_count: How many rows were read.
        empty_count: How many fields were empty.
        unmarked: Rows of which all fields are empty.
        uncertain_rows: Rows with -1, with its columns.
    """

    names: Sequence[str]
    uncertain: UncertainRule
    where: str
    unit: str
    row_count: int = 0
    empty_count: int = 0
    unmarked: list[str] = field(default_factory=list)
    uncertain_rows: list[str] = field(default_factory=list)

    def read(self, row: str, values: Sequence[Any]) -> tuple[str, ...] | None:
        """Return the labels of a row; None where it is left out, as it is uncertain.

        Args:
            row: What messages call it.
            values: Of the columns.

        Raises:
            BadRecord: A field is neither 0, 1, -1 nor empty.
        """
        marks = [parse_mark(value) for value in values]
        self.row_count += 1
        self.empty_count += (empty := marks.count("empty"))
        if empty == len(marks):
            self.unmarked.append(row)
        pairs = list(zip(self.names, marks, strict=True))
        if unsure := [name for name, mark in pairs if mark == "uncertain"]:
            self.uncertain_rows.append(f"{row}: {', '.join(unsure[:3])}")
            if self.uncertain == "leave_out":
                return None
        present = ("present", "uncertain") if self.uncertain == "present" else ("present",)
        return tuple(name for name, mark in pairs if mark in present)

    def notes(self) -> list[Note]:
        """Return what was neither 0 nor 1, and what it was taken as, a line each.

        Raises:
            UserError: There is -1, and nothing says what it is.
        """
        notes = list[Note]()
        if self.empty_count:
            total = self.row_count * len(self.names)
            text = f"{self.where}: {self.empty_count} of {total} fields of data.label_columns are "
            text += "empty, and taken as 0"
            if self.unmarked:
                text += f"; {list_some(self.unmarked, self.unit)} with no field filled in"
            notes.append(Note(text, self.unmarked))
        if not self.uncertain_rows:
            return notes
        rows = list_some(self.uncertain_rows, self.unit)
        if self.uncertain == "refuse":
            raise UserError(
                f"{self.where}: {rows} of {self.row_count} with -1, uncertain, in "
                f"data.label_columns: {UNCERTAIN_REMEDY}"
            )
        why = {"absent": "taken as 0", "present": "taken as 1", "leave_out": "left out"}
        why_all = f"with -1, uncertain: {why[self.uncertain]} (data.uncertain={self.uncertain})"
        return [*notes, count_note(self.uncertain_rows, self.unit, why_all, where=self.where)]
