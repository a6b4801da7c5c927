"""Hashes that are the same on all machines, and the plain form of the values that are hashed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def to_plain(value: Any) -> Any:
    """Turn tuples into lists and paths into text, so that YAML gives the same value back.

    Examples:
        >>> to_plain({"size": (224, 224), "root": Path("photos")})
        {'size': [224, 224], 'root': 'photos'}
    """
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def hash_of(value: Any) -> str:
    """Return the first 16 hex digits of the SHA-256 of a JSON-like value, keys sorted.

    Examples:
        >>> hash_of({"a": 1, "b": [2]})
        'ae8a9a5052464275'
        >>> hash_of({"a": 1, "b": [2]}) == hash_of({"b": [2], "a": 1})
        True
    """
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, allow_nan=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def hash_file(path: Path) -> str:
    """Return the first 16 hex digits of the SHA-256 of the content of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def are_unique(texts: Sequence[str]) -> bool:
    """Return whether all texts differ, as far as 64 bits tell: a set of them takes much memory.

    Examples:
        >>> are_unique(["a.jpg", "b.jpg"]), are_unique(["a.jpg", "b.jpg", "a.jpg"])
        (True, False)
    """
    hashes = np.fromiter(map(hash, texts), np.int64, len(texts))
    hashes.sort()
    return not bool((hashes[1:] == hashes[:-1]).any())
