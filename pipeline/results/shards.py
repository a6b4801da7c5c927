"""The files of a result's shards."""

from __future__ import annotations

from pathlib import Path

import numpy as np

Arrays = dict[str, np.ndarray]
Skipped = list[tuple[int, str]]
"""Positions of images that could not be used, and why."""


def shard_path(folder: Path, number: int) -> Path:
    """Return the file of a shard."""
    return folder / f"shard-{number:06d}.safetensors"


def list_shards(folder: Path) -> list[Path]:
    """List the files of the shards of a result, in the order of their numbers."""
    return sorted(folder.glob("shard-*.safetensors"))
