"""Files written whole or not at all, JSON, text, and names that any file system takes."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.errors import UserError


def content_hash(path: Path | None) -> str:
    """Of an annotation file, which is small enough to be read; `none` where there is none."""
    if path is None or not path.is_file():
        return "none"
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def read_lines(path: Path, errors: str = "strict") -> Iterator[tuple[int, str]]:
    """Numbered lines of a small text file that are not blank. Raises UserError if not UTF-8."""
    try:
        text = path.read_text(encoding="utf-8-sig", errors=errors)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from None
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    # Not splitlines(): names may hold its rarer line ends, and editors do not count them.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, line.strip()


def image_file_stem(id: str) -> str:
    """An image's name as a file's, with nothing in it that a system could stumble over."""
    return to_file_name(id.rsplit("/", 1)[-1].rsplit(".", 1)[0])


# -- names and files -----------------------------------------------------------------------------


def unique_file_names(classes: Sequence[str]) -> list[str]:
    """Return a file name for each class; with its number where two would have the same.

    Examples:
        >>> unique_file_names(["tabby", "Crane", "crane", ".."])
        ['tabby', 'Crane-1', 'crane-2', '3']
    """
    names = [to_file_name(name) for name in classes]
    while True:
        lower = [name.lower() for name in names]  # some systems do not tell A from a
        count = Counter(lower)
        if "" not in count and len(count) == len(names):
            return names
        # A name with its number may be the name of another class: then look again.
        names = [
            name if name and count[same] == 1 else f"{name}-{number}".lstrip("-")
            for number, (name, same) in enumerate(zip(names, lower, strict=True))
        ]


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its name only when the block ends well.

    Raises OSError with the file's name for whatever a disk does, also where a library that writes
    has an error of its own for it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{truncate_name(path.name, 100)}.{os.getpid()}.tmp")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
    except Exception as error:
        if code := _disk_error(error, temporary):
            raise OSError(code, os.strerror(code), str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _disk_error(error: Exception, file: Path) -> int | None:
    """The system's number of what a library says in its own words; None if the disk is well."""
    if told := re.search(r"\(os error (\d+)\)", str(error)):  # safetensors
        return int(told[1])
    try:  # torch says nothing of use: ask the disk again
        with open(file, "ab") as same:
            same.write(bytes(1 << 20))
    except OSError as again:
        return again.errno
    return None


def truncate_name(name: str, most: int) -> str:
    """A file's name of at most so many bytes: that is what systems count, not letters."""
    return name.encode()[:most].decode(errors="ignore")


def to_file_name(name: str, most: int = 80) -> str:
    """A name as a file's, with nothing in it that a system could stumble over; perhaps empty."""
    return truncate_name(re.sub(r"[^\w.-]+", "_", name), most).strip(".")


def write_text(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any, indent: int | None = None) -> None:
    write_text(path, json.dumps(value, indent=indent, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
