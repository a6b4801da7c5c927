"""Files written whole or not at all, JSON, text, and names that any file system takes."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
import time
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.ops.text import to_nfc

SETTLED_NS = 2_000_000_000
"""Times of change are as coarse as two seconds on some file systems: what changed less than this
before it was read may have changed after it at the same time."""


def is_settled(changed: int, read: int | None = None) -> bool:
    """Return whether any change to a file or folder since it was read shows in its time of change.

    Args:
        changed: its time of change, in nanoseconds since 1970.
        read: when it was read; None: now.
    """
    return changed < (time.time_ns() if read is None else read) - SETTLED_NS


def content_hash(path: Path | None) -> str:
    """Compute a hash of the bytes of a small file.

    Args:
        path: The file, which is read into memory; None: there is no file.

    Returns:
        16 hexadecimal digits of SHA-256; `none` without a file.
    """
    if path is None or not path.is_file():
        return "none"
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def read_lines(path: Path, errors: str = "strict") -> Iterator[tuple[int, str]]:
    """Yield the lines of a text file that are not blank, with their numbers.

    Args:
        path: The file, UTF-8 with or without a byte order mark.
        errors: How bytes that are not UTF-8 are decoded, as in `bytes.decode`.

    Yields:
        The number of the line, from 1, and its text without white space at both ends.

    Raises:
        UserError: The file is missing, cannot be read, or is not UTF-8 (with errors="strict").
    """
    try:
        # One line at a time: a list of a million images has some 60 MB. splitlines() would also
        # split at characters that file names may hold, such as U+2028.
        with path.open(encoding="utf-8-sig", errors=errors) as file:
            for number, line in enumerate(file, 1):
                if text := line.strip():
                    yield number, text
    except UnicodeDecodeError:
        raise _not_utf8(path) from None
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def _not_utf8(path: Path) -> UserError:
    """Return the error for a file that is not UTF-8, with the place of the first wrong byte."""
    try:
        path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        where = f" ({error.reason} at byte {error.start})"
    except OSError:
        where = ""
    else:
        where = ""
    return UserError(f"{path}: not UTF-8 text{where}; save it as UTF-8")


def find_below(folder: Path, pattern: str) -> list[Path]:
    """List the paths below a folder that match a pattern, also while others remove some of them.

    Path.glob of Python 3.11 raises FileNotFoundError where a folder is removed meanwhile.

    Args:
        folder: The folder; one that is not there has none.
        pattern: As of `glob.glob`, relative to the folder: `*` matches no hidden name.
    """
    return [folder / name for name in glob.iglob(pattern, root_dir=folder)]


def find_spelling(path: Path) -> Path:
    """Return a path as the disk spells it, where names are equal in NFC and differ in their form.

    Args:
        path: A file or folder, in any Unicode form.

    Returns:
        The path itself where it exists, or where no other spelling of it does.
    """
    if str(path).isascii() or os.path.exists(path):
        return path
    parent = find_spelling(path.parent)
    forms = [unicodedata.normalize(form, path.name) for form in ("NFC", "NFD")]
    for name in [path.name, *forms]:
        if os.path.exists(parent / name):
            return parent / name
    with suppress(OSError):
        names = _list_spellings(str(parent), os.stat(parent).st_mtime_ns)
        return parent / names.get(to_nfc(path.name), path.name)
    return path


@lru_cache(maxsize=64)
def _list_spellings(folder: str, changed: int) -> dict[str, str]:
    """Return the names in a folder by their NFC; `changed`: its time, so that a change is seen."""
    return {to_nfc(name): name for name in sorted(os.listdir(folder), reverse=True)}


def image_file_stem(id: str) -> str:
    """Return the last part of an image id, without suffix, as a name that file systems accept.

    Args:
        id: The id of an image, a path with `/`.

    Examples:
        >>> image_file_stem("val/n01/a photo.jpg")
        'a_photo'
    """
    return to_file_name(id.rsplit("/", 1)[-1].rsplit(".", 1)[0])


# -- names and files -----------------------------------------------------------------------------


def unique_file_names(classes: Sequence[str]) -> list[str]:
    """Return a file name for each class, with the number of the class where two would be equal.

    Args:
        classes: Class names, any text.

    Returns:
        As many names, without suffix, that differ even where upper and lower case do not count.

    Examples:
        >>> unique_file_names(["tabby", "Crane", "crane", ".."])
        ['tabby', 'Crane-1', 'crane-2', '3']
    """
    names = [to_file_name(name) for name in classes]
    while True:
        lower = [name.lower() for name in names]  # some file systems ignore case
        count = Counter(lower)
        if "" not in count and len(count) == len(names):
            return names
        # A name with its number may be the name of another class: check again.
        names = [
            name if name and count[same] == 1 else f"{name}-{number}".lstrip("-")
            for number, (name, same) in enumerate(zip(names, lower, strict=True))
        ]


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path that is renamed to `path` only if the block raises nothing.

    A reader sees the old file or the whole new file, never a part. The file has the permissions of
    a file that `open` creates, whatever the library gives that writes it.

    Args:
        path: The file to write. Missing parent folders are made.

    Yields:
        A path in the same folder, where the block writes the file.

    Raises:
        OSError: The disk is full or fails. The error names the file, also where the library that
            wrote raised an error of another type.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{truncate_name(path.name, 100)}.{os.getpid()}.tmp")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        _apply_umask(temporary)
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


def _apply_umask(file: Path) -> None:
    """Give a private file the permissions that the umask, or the folder, gives a new file.

    safetensors writes files that only their owner can read.
    """
    if file.stat().st_mode & 0o077:
        return
    probe = file.with_name(f"{file.name}.mode.tmp")  # os.umask would change it for all threads
    probe.unlink(missing_ok=True)
    try:
        probe.touch()
        file.chmod(probe.stat().st_mode & 0o777)
    finally:
        probe.unlink(missing_ok=True)


def _disk_error(error: Exception, file: Path) -> int | None:
    """Return the errno behind the error of a library; None where the disk works."""
    if match := re.search(r"\(os error (\d+)\)", str(error)):  # safetensors
        return int(match[1])
    try:  # torch's errors do not say why: write to the disk again
        with open(file, "ab") as same:
            same.write(bytes(1 << 20))
    except OSError as again:
        return again.errno
    return None


def truncate_name(name: str, max_bytes: int) -> str:
    """Return the longest beginning of a name with at most `max_bytes` bytes of UTF-8.

    File systems limit bytes, not characters.

    Args:
        name: Any text.
        max_bytes: The most bytes of UTF-8 that the result may have.
    """
    return name.encode()[:max_bytes].decode(errors="ignore")


def to_file_name(name: str, max_bytes: int = 80) -> str:
    """Return a name that any file system accepts: letters, digits, `_`, `-` and `.`.

    Args:
        name: Any text.
        max_bytes: The most bytes of UTF-8 that the result may have.

    Returns:
        The name without dots at its ends, so never hidden; empty where nothing is left.

    Examples:
        >>> to_file_name("a/b: c?")
        'a_b_c_'
    """
    return truncate_name(re.sub(r"[^\w.-]+", "_", name), max_bytes).strip(".")


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically.

    Args:
        path: The file; it is replaced as a whole.
        text: What to write.
    """
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any, indent: int | None = None, ascii: bool = True) -> None:
    """Write a JSON file atomically, in ASCII, so that readers of any locale can open it.

    JSON has no NaN and no infinity: null stands for a number that is not finite.

    Args:
        path: The file; it is replaced as a whole.
        value: What JSON can hold, and numbers that are not finite.
        indent: Spaces of indentation; None: a single line.
        ascii: Whether other characters are escaped; for people they are best left as they are.
    """
    try:
        text = json.dumps(value, indent=indent, allow_nan=False, ensure_ascii=ascii)
    except ValueError:
        finite = json.loads(json.dumps(value), parse_constant=lambda _: None)
        text = json.dumps(finite, indent=indent, allow_nan=False, ensure_ascii=ascii)
    write_text(path, text + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file that this project wrote. Other people's are read by `coco.read_json`.

    Args:
        path: The file.

    Returns:
        What the JSON holds.
    """
    return json.loads(path.read_text(encoding="utf-8"))
