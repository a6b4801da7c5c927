"""Where the years of PASCAL VOC are below a folder, and which folder to name where they are not.

A root is the folder with VOC2007/ and VOC2012/, the folder with VOCdevkit/, or that of a year.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

YEARS = (2007, 2012)
YEAR_NAME = re.compile(r"VOC(\d{4})")
MANY_ENTRIES = 100  # folders of a folder, among which the right one is looked for


def find_year(root: Path, year: int, is_single: bool) -> Path | None:
    """Return the folder of a year; None where it is not there.

    Args:
        root: Option `data.root`.
        year: The year.
        is_single: Whether no other year is asked for: then the root may be that of the year.
    """
    name = f"VOC{year}"
    places = [root / name, root / "VOCdevkit" / name]
    if is_single and _year_of(root) in (None, year):
        places.append(root)
    return next((place for place in places if (place / "ImageSets").is_dir()), None)


def suggest(root: Path, years: Sequence[int]) -> str | None:
    """Return what to give where the years are not below the root; None where that is not known.

    Args:
        root: Option `data.root`.
        years: All years that are asked for.
    """
    other = _year_of(root)
    if other is not None and other not in years and (root / "ImageSets").is_dir():
        return f"the folder is that of {other}: data.year={other}"
    for place in _list_near(root):
        if all(find_year(place, year, len(years) == 1) is not None for year in years):
            return f"it is in data.root={place}"
    there = [year for year in YEARS if find_year(root, year, False) is not None]
    return f"VOC{there[0]} is there: data.year={there[0]}" if there else None


def _year_of(root: Path) -> int | None:
    """Return the year that the name of a folder says."""
    match = YEAR_NAME.fullmatch(os.path.basename(os.path.abspath(root)))
    return int(match[1]) if match else None


def _list_near(root: Path) -> Iterator[Path]:
    """Yield the two folders around the root, then the folders in it and in those."""
    yield from Path(os.path.abspath(root)).parents[:2]
    inside = _list_folders(root)
    yield from inside
    for folder in inside:
        yield from _list_folders(folder)


def _list_folders(folder: Path) -> list[Path]:
    """Return the folders in a folder; none where it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir())
    except OSError:
        return []
    return [folder / name for name in names[:MANY_ENTRIES]]
