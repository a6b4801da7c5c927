"""Boxes corrected in annotation tools, or marked on our own page; each module reads a format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from pipeline.errors import UserError
from pipeline.formats.corrections import coco, cvat, label_studio, labelme, marks, yolo
from pipeline.formats.corrections.loading import forget_json, is_json, load_json
from pipeline.types import CorrectionFile


class CorrectionReader(Protocol):
    """What a module of this package has: it reads a format."""

    __name__: str

    def matches(self, path: Path) -> bool:
        """Return whether a file or folder has the format."""

    def read(self, path: Path) -> CorrectionFile:
        """Read it."""


MANY_KEYS = 6  # of an object in an error

# In the order in which they are asked: formats that others could be taken for come last.
READERS: tuple[CorrectionReader, ...] = (
    marks,
    label_studio,
    cvat,
    labelme,
    yolo,
    coco,
)


def read_corrections(path: Path) -> CorrectionFile:
    """Read what an annotation tool wrote, in the format that its content shows.

    Args:
        path: a file, or a folder of files.

    Raises:
        UserError: nothing is there, it cannot be read, or it has none of the formats.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; expected an export of an annotation tool")
    if path.suffix.lower() in (".zip", ".gz", ".tar"):
        raise UserError(f"{path}: an archive; unpack it, and give the file or folder in it")
    try:
        if is_json(path):
            load_json(path)  # says where the JSON is broken
        for reader in READERS:
            if reader.matches(path):
                return reader.read(path)
        content = _describe_json(path)
    finally:
        forget_json()
    names = ", ".join(reader.__name__.rpartition(".")[2] for reader in READERS)
    kind = "folder" if path.is_dir() else "file"
    raise UserError(
        f"{path}: a {kind} of no format that is known{content}; expected what a tool "
        f"exports in one of the formats {names} (docs/tools.md has the clicks, and the fields of a "
        "file by hand)"
    )


def _describe_json(path: Path) -> str:
    """Return what is at the top of a JSON file; nothing for other files."""
    if not is_json(path):
        return ""
    content = load_json(path)
    first = content[0] if isinstance(content, list) and content else content
    what = "a list of objects" if isinstance(content, list) else "an object"
    if not isinstance(first, Mapping):
        return " (JSON that holds no object)"
    return f" ({what} with the keys {', '.join(map(str, list(first)[:MANY_KEYS]))})"
