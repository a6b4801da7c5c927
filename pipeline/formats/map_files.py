"""What lies in a folder of maps beside those that are read: other formats, and other folders."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from pipeline.formats.wsolevaluation import Metadata
from pipeline.ops.text import to_nfc

OTHER_MAPS = (
    ".npz", ".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".pt", ".pth", ".pkl", ".mat", ".h5",
)  # fmt: skip


def find_other_files(folder: Path, metadata: Metadata) -> dict[str, list[str]]:
    """Return the files that could be maps in another format than .npy, by ending.

    Args:
        folder: The folder of the maps.
        metadata: Its images, masks and files are not listed.

    Returns:
        Sorted paths below the folder.
    """
    masks = metadata.masks.values()
    used = {path for files in masks for path in (*files.objects, files.ignore) if path}
    images, others = set(metadata.ids), dict[str, list[str]]()
    for path in sorted(folder.rglob("*")):
        ending, name = path.suffix.lower(), path.relative_to(folder).as_posix()
        is_metadata = metadata.folder != folder and path.is_relative_to(metadata.folder)
        if ending not in OTHER_MAPS or is_metadata or path in used or to_nfc(name) in images:
            continue
        others.setdefault(ending, []).append(name)
    return others


def describe_expected_maps(folder: Path, ids: Sequence[str]) -> str:
    """Say where the maps were expected, what is there, and which folder holds them if one does.

    Args:
        folder: The folder in which no image has a usable map.
        ids: The ids of the images that are scored.

    Returns:
        The end of a sentence; empty where each map is in its place, so that its content is wrong.
    """
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.npy"))
    forms = [f"{base}.npy" for id in ids for base in (os.path.splitext(id)[0], id)]
    if {to_nfc(name) for name in names} & set(forms):
        return ""
    expected = f"; expected {forms[0]!r} or {forms[1]!r} in it"
    if not names:
        return f"{expected}, and it holds no .npy file"
    by_file = {form.rpartition("/")[2]: form for form in reversed(forms)}
    for name in names:
        form, found = by_file.get(to_nfc(name.rpartition("/")[2])), to_nfc(name)
        if form is None:
            continue
        if found.endswith(f"/{form}"):
            return (
                f"{expected}, there is {name!r}; give the folder {folder / found[: -len(form) - 1]}"
            )
        above = form.removesuffix(f"/{found}")
        if above != form and folder.resolve().as_posix().endswith(f"/{above}"):
            upper = folder.resolve().parents[above.count("/")]
            return f"{expected}, there is {name!r}; give the folder {os.path.relpath(upper)}"
        return (
            f"{expected}; there is {name!r}, expected {form!r}: keep the folders of image_ids.txt"
        )
    there = f"{len(names)} .npy files, as {names[0]!r}"
    return f"{expected}; there are {there}, of no image of image_ids.txt"


def find_unknown_maps(folder: Path, ids: Iterable[str]) -> list[str]:
    """Return the paths, below the folder, of maps of images that are not among `ids`.

    Args:
        folder: The folder of the maps.
        ids: The ids of the images that are scored.
    """
    forms = map(to_nfc, ids)
    known = {name for id in forms for name in (f"{id}.npy", f"{os.path.splitext(id)[0]}.npy")}
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*.npy"))
    return sorted(name for name in names if to_nfc(name) not in known)
