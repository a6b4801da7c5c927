"""Text files with a path a line, in the encodings and spellings in which people have them.

UTF-8, UTF-16 and UTF-32 are known by their bytes. Where a line is none of these, or where its text
names no file, other readings are tried: code pages, quotes, backslashes of Windows, a comment or
labels behind the path, a label or a number before it, the path of another machine. Only a reading
that names an existing file counts.
"""

from __future__ import annotations

import codecs
import glob
import os
import re
import unicodedata
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

from pipeline.data.listing import SUFFIXES
from pipeline.errors import UserError
from pipeline.formats import signature
from pipeline.ops.text import printable

BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16: its mark begins with that
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
CODE_PAGES = ("cp1252", "latin-1", "cp850", "mac_roman", "shift_jis", "gb18030", "euc_kr", "big5",
              "cp1250", "cp1251", "koi8_r")  # fmt: skip
QUOTES = ('""', "''", "``", "\u201c\u201d", "<>")
FIELD_MARKS = re.compile(r"[\t,;]")
MAX_WORDS = 40  # of a line in which a path is searched
MAX_PATH = 4096  # characters, as in Linux
MAX_SHOWN = 80  # characters of a line
LIST_ENDINGS = (".txt", ".lst", ".list", ".csv", ".tsv")  # read as lists unless they are images
WINDOWS_DRIVE = re.compile(r"[A-Za-z]:/|//")


def is_path_list(path: str) -> bool:
    """Return whether a file is read as a list of paths: by its ending, or as it is a text.

    Args:
        path: A file.
    """
    ending = os.path.splitext(path)[1].lower()
    if ending in SUFFIXES:
        return False
    try:
        file_type = signature.identify(path)
    except OSError:
        file_type = None  # that it cannot be read is said where it is read
    if ending in LIST_ENDINGS:
        return file_type is None or not file_type.is_image
    return file_type == signature.TEXT


def read_path_list(path: Path) -> list[list[str]]:
    """Read the lines of a list that are neither blank nor comments.

    Args:
        path: The text file.

    Returns:
        For each line its texts: the first is as it should be, the others are by code pages.

    Raises:
        UserError: The file cannot be read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    lines = ([text.strip() for text in texts] for texts in _decode_lines(data))
    return [texts for texts in lines if texts[0]]


def _decode_lines(data: bytes) -> Iterator[list[str]]:
    """Yield the readings of each line, the first by UTF-8 with bytes that are none as they are."""
    encoding = "utf-8"
    for mark, marked in BYTE_ORDER_MARKS:
        if data.startswith(mark):
            data, encoding = data[len(mark) :], marked
            break
    else:
        if b"\0" in data and not re.search(rb"\0[^\0]\0", data):  # as `find -print0` writes it
            data = data.replace(b"\0", b"\n")
        elif b"\0" in data:  # PowerShell and Notepad leave the mark out at times
            encoding = "utf-16-le" if data[1::2].count(0) >= data[::2].count(0) else "utf-16-be"
    if encoding != "utf-8":
        data = data.decode(encoding, "replace").encode("utf-8", "surrogatepass")
    end = b"\n" if b"\n" in data else b"\r"
    for line in data.split(end):
        texts = [line.decode("utf-8", "surrogateescape")]
        try:
            line.decode("utf-8")
        except UnicodeDecodeError:
            texts += [line.decode(page, "replace") for page in CODE_PAGES]
        yield texts


def is_comment(text: str) -> bool:
    """Return whether a line that names no file is a comment, not an image that is missing."""
    return text.startswith(("#", "//")) and (
        " " in text or os.path.splitext(text)[1].lower() not in SUFFIXES
    )


def shorten(text: str) -> str:
    """Return the beginning of a line, as long as a message can show.

    Args:
        text: A line of a list, perhaps of a file that is no list.
    """
    # Escapes of unprintable characters make the line longer.
    shown = printable(text[:MAX_SHOWN])
    return shown if len(shown) <= MAX_SHOWN and len(text) <= MAX_SHOWN else f"{shown[:77]}..."


def find_path(texts: list[str], folder: str) -> str | None:
    """Return the path, or the glob, that a line of a list stands for.

    Args:
        texts: The readings of the line.
        folder: The folder of the list. Paths are relative to it, or to the working directory.

    Returns:
        An absolute path or glob that exists or matches; None where no reading does.
    """
    spellings = list(dict.fromkeys(each for text in texts for each in _spell(text)))
    places = [
        os.path.join(base, os.path.expanduser(spelling))
        for spelling in spellings
        for base in (folder, os.getcwd())
    ]
    for place in places:
        if os.path.lexists(place) and "\0" not in place:
            return os.path.abspath(place)
    for place in places:
        if glob.has_magic(place) and next(glob.iglob(place, recursive=True), None) is not None:
            return os.path.abspath(place)
    place_beside = next((tail for each in spellings for tail in _tails(each, folder)), None)
    return place_beside or next(_find_parts(texts[0], folder), None)


def _find_parts(text: str, folder: str) -> Iterator[str]:
    """Yield the files that a part of a line names, without what is before and behind it.

    A folder of such a name is no match: `photos of cats/a.png` does not stand for all of `photos`.
    """
    words = text.split(" ")
    ends = range(len(words) - 1, 0, -1) if len(words) <= MAX_WORDS else ()
    parts = [" ".join(words[:end]) for end in ends]
    parts += [" ".join(words[-end:]) for end in ends]
    parts += FIELD_MARKS.split(text) if len(text) <= MAX_PATH else []
    parts += words if len(words) <= MAX_WORDS else []
    for part in dict.fromkeys(parts):
        for spelling in _spell(part.strip()):
            for base in (folder, os.getcwd()):
                place = os.path.join(base, os.path.expanduser(spelling))
                if spelling and os.path.isfile(place):
                    yield os.path.abspath(place)


def _spell(text: str) -> Iterator[str]:
    """Yield the ways in which a line may be meant as a path, the literal way first."""
    if "\0" in text:
        return
    yield text
    plain = text.rstrip(",;").strip()
    for quotes in QUOTES:
        if len(plain) > 1 and plain[0] + plain[-1] == quotes:
            plain = plain[1:-1]
    if plain.lower().startswith("file://"):
        plain = urllib.parse.unquote(plain[len("file://") :])
    bare = [plain]
    for mark in ("\t", ",", ";"):  # a label behind the path
        bare += [plain.partition(mark)[0].strip().strip("\"'")] if mark in plain else []
    bare += [plain.rpartition(" ")[0].strip()] if " " in plain else []
    for name in filter(None, bare):
        for slashes in (name, name.replace("\\", "/")):
            yield from (slashes, *(unicodedata.normalize(form, slashes) for form in ("NFC", "NFD")))


def _tails(spelling: str, folder: str) -> Iterator[str]:
    """Yield the files beside the list that an absolute path of another machine ends in."""
    spelling = spelling.replace("\\", "/")
    if not (spelling.startswith("/") or WINDOWS_DRIVE.match(spelling)):
        return
    parts = [part for part in spelling.split("/")[1:] if part not in ("", ".", "..")]
    for start in range(len(parts)):
        place = os.path.join(folder, *parts[start:])
        if os.path.isfile(place):
            yield os.path.abspath(place)
