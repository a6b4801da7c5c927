r"""Tables as text: fields between separators, in the encodings and forms that people save them in.

    path,label                      a comma, a semicolon, a tab or | between fields
    a.png,robin                     fields in quotes may hold the separator and ends of lines
    sep=;                           Excel's first line, which names the separator
    a.png robin                     without any of these, white space

A line that has another separator than the first line is read by its own. Lines are numbered as
editors do, also where a field in quotes goes over several.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from pipeline.data.listing import SUFFIXES
from pipeline.data.path_list import BYTE_ORDER_MARKS
from pipeline.errors import UserError
from pipeline.formats.odd_records import BadRecord, OddRecords
from pipeline.ops.text import count_note, to_nfc

SEPARATORS = ("\t", ",", ";", "|")
WHITE_SPACE = " "
SAMPLE_LINES = 200  # that the separator is chosen by
MAX_QUOTED_LINES = 100  # of a field; more are a quote that nobody closed
UNUSED_IN_CP1252 = {0x81, 0x8D, 0x8F, 0x90, 0x9D}
UNCLOSED = "with a quote that is not closed"


@dataclass(frozen=True)
class TextTable:
    """A table of text.

    Attributes:
        columns: Names of the columns; their numbers from 1 on where the first line is no header.
        has_header: Whether the first line names the columns.
        notes: What was unusual about the file as a whole, a line each.
        odd: Lines that were left out or repaired; complete once all rows were read.
    """

    columns: tuple[str, ...]
    has_header: bool
    notes: Sequence[str]
    odd: OddRecords
    _lines: Sequence[str]
    _first: int
    _separator: str
    _others: tuple[str, ...] = field(default=SEPARATORS)

    @property
    def separator(self) -> str:
        """What stands between the fields."""
        return self._separator

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yield line number and fields, without white space around them, of each row.

        Lines with too few fields get empty ones. Lines with more are left out, unless the further
        fields are empty.
        """
        count = len(self.columns)
        for number, record in _split_records(self._lines, self._first, self._separator, count):
            try:
                if isinstance(record, BadRecord):
                    raise record
                yield number, self._fit(number, record)
            except BadRecord as error:
                self.odd.leave_out(f"line {number}", str(error))

    def _fit(self, number: int, fields: list[str]) -> list[str]:
        """Return as many fields as there are columns. Raise BadRecord where they are too many."""
        count, where = len(self.columns), f"line {number}"
        if len(fields) == count:
            return fields
        if len(fields) == 1:
            for separator in self._others:
                other = next(_split_records([fields[0]], 0, separator), (0, []))[1]
                if separator != self._separator and isinstance(other, list) and len(other) == count:
                    self.odd.repair(where, f"with {separator!r} between the fields: read so")
                    return other
        if len(fields) < count:
            self.odd.repair(where, f"with fewer than {count} fields: the last are taken as empty")
            return [*fields, *[""] * (count - len(fields))]
        if not any(fields[count:]):
            self.odd.repair(where, "with separators at the end: not used")
            return fields[:count]
        raise BadRecord(
            f"with more than {count} fields (a field that holds {self._separator!r} is to be in "
            "quotes)"
        )


def decode_text(path: Path, data: bytes) -> tuple[str, list[str]]:
    """Decode a text file: Unicode with or without a mark; lines that are none as Windows-1252.

    Args:
        path: The file, for messages.
        data: Its bytes.

    Returns:
        The text, and notes on its encoding.

    Raises:
        UserError: It is no text.
    """
    if data.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        raise UserError(f"{path}: a workbook or an archive, no text; save the table as CSV (UTF-8)")
    if data.startswith(b"\x1f\x8b"):
        raise UserError(f"{path}: compressed by gzip; unpack it (gunzip) and name the result")
    for mark, encoding in BYTE_ORDER_MARKS:
        if data.startswith(mark):
            return _refuse_binary(path, data[len(mark) :].decode(encoding, "replace")), []
    if b"\0" in data[:4096]:  # PowerShell and Notepad leave the mark of UTF-16 out at times
        encoding = "utf-16-le" if data[1::2].count(0) >= data[::2].count(0) else "utf-16-be"
        return _refuse_binary(path, data.decode(encoding, "replace")), []
    try:
        return _refuse_binary(path, data.decode("utf-8")), []
    except UnicodeDecodeError:
        text, odd = _decode_lines(data)
    why = "are not UTF-8: read as Windows-1252"
    remedy = "if names look wrong there, save the table as UTF-8"
    note = count_note(odd, "line", why, where=path.name, remedy=remedy)
    return _refuse_binary(path, text), [note]


def _decode_lines(data: bytes) -> tuple[str, list[str]]:
    """Decode each line as UTF-8, else as Windows-1252; return the text and the names of those."""
    texts, odd = list[str](), list[str]()
    for number, line in enumerate(data.split(b"\n"), 1):
        try:
            texts.append(line.decode("utf-8"))
        except UnicodeDecodeError:
            odd.append(f"line {number}")
            # Of the bytes that this code page does not have, Latin-1 has a control character.
            is_complete = not {*line} & UNUSED_IN_CP1252
            texts.append(line.decode("cp1252" if is_complete else "latin-1"))
    return "\n".join(texts), odd


def _refuse_binary(path: Path, text: str) -> str:
    """Return the text. Raise UserError where it holds a character that no text has."""
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise UserError(f"{path}, line {line}: no text; expected a table (CSV, TSV, JSON Lines)")
    return text


def read_text_table(path: Path, text: str) -> TextTable:
    """Find the separator and the columns of a table of text.

    Args:
        path: The file, for messages.
        text: Its content.

    Raises:
        UserError: There is no line in it.
    """
    lines = re.split(r"\r\n|\r|\n", text)
    start, separator = 0, None
    if match := re.fullmatch(r"\"?sep=(.|\\t)\"?", lines[0].strip(" "), re.IGNORECASE):
        start, separator = 1, match[1].replace("\\t", "\t")
    filled = [line for line in islice(lines, start, None) if line.strip()]
    if not filled:
        raise UserError(f"{path}: an empty file; expected a line of column names, and a line each")
    separator = separator or _find_separator(filled[:SAMPLE_LINES])
    number, header = next(_split_records(lines, start, separator))
    if isinstance(header, BadRecord):
        raise UserError(f"{path}, line {number}: column names {header}; close it")
    has_header = not any(_is_image_name(name) for name in header)
    columns = _name_columns(header) if has_header else tuple(map(str, range(1, len(header) + 1)))
    first = start if not has_header else number + _count_lines(lines, number - 1, separator) - 1
    return TextTable(
        columns, has_header, [], OddRecords(path.name, "line"), lines, first, separator
    )


def _is_image_name(text: str) -> bool:
    return os.path.splitext(text)[1].lower() in SUFFIXES


def _name_columns(header: Sequence[str]) -> tuple[str, ...]:
    """Return names that differ: one that is empty or repeated gets the place of its column."""
    names: list[str] = []
    for n, name in enumerate(map(to_nfc, header), 1):
        names.append(name if name and name not in names else f"{name} (column {n})".strip())
    return tuple(names)


def _find_separator(lines: Sequence[str]) -> str:
    """Return the separator that most lines have as often as the first line."""
    best, best_score = "", (0.0, 1)
    for separator in (*SEPARATORS, WHITE_SPACE):
        counts = [
            len(record) for _, record in _split_records(lines, 0, separator)
            if not isinstance(record, BadRecord)
        ]  # fmt: skip
        if not counts or counts[0] < 2 or (separator == WHITE_SPACE and best):
            continue
        score = (counts.count(counts[0]) / len(counts), counts[0])
        if separator == WHITE_SPACE and score[0] <= 0.5:
            continue  # words of a text, not fields
        if score > best_score:
            best, best_score = separator, score
    return best or ","


def _count_lines(lines: Sequence[str], start: int, separator: str) -> int:
    """Return how many lines the record takes that begins at a position."""
    if '"' not in lines[start] or separator == WHITE_SPACE:
        return 1
    return max(1, _read_quoted(lines, start, separator)[1])


def _split_records(
    lines: Sequence[str], start: int, separator: str, count: int | None = None
) -> Iterator[tuple[int, list[str] | BadRecord]]:
    """Yield number and fields of each record that is not blank, or why it cannot be read.

    Where the number of fields is known, a record of several lines that has another is a line with
    a quote that nobody closed, and the next line is read by itself.
    """
    position = start
    while position < len(lines):
        line, number = lines[position], position + 1
        position += 1
        if not line.strip():
            continue
        if separator == WHITE_SPACE:
            yield number, line.split()
        elif '"' not in line:
            yield number, [text.strip() for text in line.split(separator)]
        else:
            fields, taken = _read_quoted(lines, number - 1, separator)
            if taken == 0 or (taken > 1 and count is not None and len(fields) != count):
                yield number, BadRecord(UNCLOSED)
                continue
            position = number - 1 + taken
            yield number, [text.strip() for text in fields]


def _read_quoted(lines: Sequence[str], start: int, separator: str) -> tuple[list[str], int]:
    """Return fields of a record with quotes, and how many lines it takes; 0: a quote is open."""
    reader = _make_reader(lines, start, separator)
    try:
        return next(reader), int(reader.line_num)
    except csv.Error:
        if lines[start].count('"') % 2:
            return [], 0
        # Quotes within a field, not around it.
        return next(csv.reader([lines[start]], delimiter=separator, skipinitialspace=True)), 1


def _make_reader(lines: Sequence[str], start: int, separator: str) -> csv._reader:
    """Return a reader of the lines that a record can take."""
    taken = islice(lines, start, start + MAX_QUOTED_LINES)
    return csv.reader(
        (f"{line}\n" for line in taken), delimiter=separator, strict=True, skipinitialspace=True
    )
