"""JSON of annotation tools, which each reader looks at: parsed once and forgotten afterwards."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from pipeline.formats.coco import read_json


def load_json(path: Path) -> Any:
    """Return what a JSON file holds; the last one is kept, and must not be changed.

    Args:
        path: the file.

    Raises:
        UserError: it is missing, cannot be read, or is no JSON; with line and column.
    """
    return _load(path, path.stat().st_mtime_ns if path.exists() else 0)


def forget_json() -> None:
    """Free the memory of the last JSON file."""
    _load.cache_clear()


@lru_cache(maxsize=1)
def _load(path: Path, changed: int) -> Any:
    return read_json(path)


def is_json(path: Path) -> bool:
    """Return whether a path is a file that is named as JSON.

    Args:
        path: a file or folder.
    """
    return path.suffix.lower() == ".json" and path.is_file()
