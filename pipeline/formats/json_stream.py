"""The elements of the lists of a large JSON file, one at a time: the file is never in memory.

COCO's annotations of 118,000 images are 450 MB of text, and some gigabytes as Python objects.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, Any

from pipeline.errors import UserError

CHUNK = 1 << 22  # bytes that are read at once
LONGEST = 1 << 23  # characters of a string: what cannot be read at so many from the end is wrong
_SPACE = re.compile(r"[ \t\n\r]*")
_DECODE = json.JSONDecoder().raw_decode


def iterate_lists(path: Path, names: Collection[str]) -> Iterator[tuple[str, int, Any]]:
    """Yield the elements of some lists of a JSON object.

    Args:
        path: The file, UTF-8, with an object.
        names: The fields whose lists are wanted; all others are skipped.

    Yields:
        The name of the list, the position of the element in it, and the element.

    Raises:
        UserError: The file cannot be read, ends early or is no JSON, with line and column.
    """
    try:
        with open(path, "rb") as file:
            yield from _Reader(path, file).iterate(names)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


class _Reader:
    """A part of the file's text, and where in it the next value begins."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self.path, self.file = path, file
        self.text, self.at, self.is_ended = "", 0, False
        self.lines, self.column = 1, 1  # of the beginning of `text`
        self._decode = codecs.getincrementaldecoder("utf-8-sig")().decode

    def iterate(self, names: Collection[str]) -> Iterator[tuple[str, int, Any]]:
        self._take("{", "an object")
        if self._peek() == "}":
            return
        while True:
            name = self._value()
            self._take(":", "a colon")
            if self._peek() == "[":
                for n, element in enumerate(self._elements()):
                    if name in names:
                        yield name, n, element
            else:
                self._value()
            if self._take(",}", "a comma or the end of the object") == "}":
                return

    def _elements(self) -> Iterator[Any]:
        """Yield the elements of the list that begins here."""
        self._take("[", "a list")
        if self._peek() == "]":
            self.at += 1
            return
        while True:
            yield self._value()
            if self._take(",]", "a comma or the end of the list") == "]":
                return

    def _value(self) -> Any:
        """Return the value that begins here."""
        self._peek()
        while True:
            try:
                value, end = _DECODE(self.text, self.at)
            except json.JSONDecodeError as error:
                if self.is_ended or len(self.text) - error.pos > LONGEST:
                    raise self._error(error.msg, error.pos) from None
            except (ValueError, RecursionError) as error:  # a number of 5,000 digits
                raise self._error(str(error), self.at) from None
            else:
                # A number may go on: of 12.5e+1 that is cut after the sign 12.5 is read.
                if end + 2 < len(self.text) or self.is_ended:
                    self.at = end
                    return value
            self._fill()

    def _take(self, expected: str, what: str) -> str:
        """Return the next character, which must be one of those expected."""
        character = self._peek()
        if not character or character not in expected:
            raise self._error(f"expected {what}", self.at)
        self.at += 1
        return character

    def _peek(self) -> str:
        """Return the next character that is no space; empty at the end of the file."""
        while True:
            match = _SPACE.match(self.text, self.at)
            assert match is not None
            self.at = match.end()
            if self.at < len(self.text):
                return self.text[self.at]
            if self.is_ended:
                return ""
            self._fill()

    def _fill(self) -> None:
        """Read more text, and drop what was read before."""
        done = self.text[: self.at]
        self.lines += done.count("\n")
        newline = done.rfind("\n")
        self.column = self.column + len(done) if newline < 0 else len(done) - newline
        content = self.file.read(CHUNK)
        self.is_ended = not content
        try:
            self.text = self.text[self.at :] + self._decode(content, self.is_ended)
        except UnicodeDecodeError:
            raise UserError(f"{self.path}: not UTF-8 text; expected a COCO file (JSON)") from None
        self.at = 0

    def _error(self, why: str, at: int) -> UserError:
        """Return the error for what is wrong at a place of the text."""
        before = self.text[:at]
        line, newline = self.lines + before.count("\n"), before.rfind("\n")
        column = self.column + at if newline < 0 else at - newline
        where = f"{self.path}, line {line}, column {column}"
        if self.is_ended and not self.text[at:].strip():
            return UserError(f"{where}: the file ends early; unpack or download it again")
        return UserError(f"{where}: not JSON ({why}); correct it there, or download it again")
