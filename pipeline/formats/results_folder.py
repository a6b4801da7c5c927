"""The marker of folders that hold results, which data sets do not search for photographs.

Drawn pictures lie beside photographs where outputs= is the folder of photographs, or where somebody
copied them there. A folder that a run creates gets a small hidden file, the marker, and so do the
folders within, so that a copy of any of them under any name has it. The folder that outputs= names
has none: it can hold photographs, too.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

MARKER = ".label2box-results"
MARKER_TEXT = (
    "label2box wrote the pictures and files in this folder. As long as this file is here, no data "
    "set reads them as photographs.\n"
)
# In the folder that outputs= names, which has no marker.
OUTPUT_FILES = frozenset({".store.lock", ".human_boxes.json.lock", "human_boxes.json"})
# Version 0.2.0 and earlier wrote no marker.
STORE_KEYS = ("cache_key.json", "made_of.json")
STORE_STATES = ("DONE", ".lock")
RUN_CONFIG = "config.yaml"
RUN_CONFIG_KEYS = ("checkpoint:", "saliency:", "stages:")


def mark(folder: Path) -> None:
    """Mark a folder, and all folders within it, as results.

    Args:
        folder: An existing folder. Links in it are not followed.

    Raises:
        OSError: The folder cannot be written to.
    """
    for place, _, files in os.walk(folder):
        if MARKER not in files:
            Path(place, MARKER).write_text(MARKER_TEXT, encoding="utf-8")


def holds_results(folder: str, names: Collection[str]) -> bool:
    """Return whether a folder is one that a run wrote, by its marker or by what is in it.

    Args:
        folder: The path of the folder.
        names: The names of all files and folders in it.
    """
    if MARKER in names:
        return True
    if any(key in names for key in STORE_KEYS) and any(state in names for state in STORE_STATES):
        return True
    return RUN_CONFIG in names and "stages" in names and _is_run_config(folder)


def _is_run_config(folder: str) -> bool:
    """Return whether the config.yaml of a folder is the configuration of a run."""
    with suppress(OSError), open(os.path.join(folder, RUN_CONFIG), "rb") as file:
        lines = file.read(1 << 16).decode("utf-8", "replace").split("\n")
        return all(any(line.startswith(key) for line in lines) for key in RUN_CONFIG_KEYS)
    return False


def find_results_folder(path: Path | str) -> str | None:
    """Return the folder of results that a path is or lies in; None where it lies in none.

    Args:
        path: A file or folder. Both the path as it is written and the path with all links resolved
            are looked at.
    """
    for start in dict.fromkeys((os.path.abspath(path), os.path.realpath(path))):
        folder = start if os.path.isdir(start) else os.path.dirname(start)
        while True:
            if holds_results(folder, _existing_names(folder)):
                return folder
            parent = os.path.dirname(folder)
            if parent == folder:
                break
            folder = parent
    return None


def _existing_names(folder: str) -> list[str]:
    """Return which of the names that identify results exist in a folder.

    Listing it whole would be slow where it holds a million files.
    """
    names = (MARKER, *STORE_KEYS, *STORE_STATES, RUN_CONFIG, "stages")
    return [name for name in names if os.path.lexists(os.path.join(folder, name))]
