"""Boxes that a person corrected, as annotation tools write them."""

from __future__ import annotations

from pathlib import Path

from pipeline.types import CorrectionFile


def read_corrections(path: Path) -> CorrectionFile:
    """Read a file or folder of any known format."""
    raise NotImplementedError
