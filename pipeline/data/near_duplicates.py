"""Near duplicates among the image files of a data set, which one split should hold together.

An image is read once, at 32 x 32 pixels. What is measured of it is kept by name, size and time of
its file in `$XDG_CACHE_HOME/label2box/` or ~/.cache/label2box/, a file for each root, so that only
new and changed images are read again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from zipfile import BadZipFile

import numpy as np

from pipeline.data.folder_index import find_cache
from pipeline.data.listing import File, Listing
from pipeline.errors import SkippedImage, UserError
from pipeline.formats import photo
from pipeline.formats.files import atomic_write
from pipeline.ops.near_duplicates import (
    CELLS,
    GREY_SIDE,
    Signatures,
    find_near_groups,
    measure_signature,
)
from pipeline.ops.perceptual_hash import SIDE
from pipeline.ops.text import count_note
from pipeline.types import Note, Split

if TYPE_CHECKING:
    from jaxtyping import Int64

NearRule = Literal["report", "together"]
"""What is done with near duplicates: they are named, or kept in one split; None: not looked for."""
RULES = ("report", "together")
VERSION = 2  # of the kept file
ROW = np.dtype([
    ("name", np.int64), ("size", np.int64), ("time", np.int64), ("perceptual", np.uint64),
    ("grey", np.uint8, (GREY_SIDE**2,)), ("chroma", np.uint8, (2 * CELLS**2,)),
    ("contrast", np.float32), ("shorter", np.int32),
])  # fmt: skip


def check_rule(rule: str | None) -> None:
    """Raise UserError unless the value of option `data.near_duplicates` is one."""
    if rule is not None and rule not in RULES:
        raise UserError(
            f"data.near_duplicates={rule}: expected report (they are named), together (they are "
            "kept in one split) or null (they are not looked for)"
        )


def find_groups(files: Sequence[File], root: str) -> list[list[int]]:
    """Return the groups of files that look the same, each sorted.

    Args:
        files: Of a data set.
        root: Its folder, by which what is measured is kept.
    """
    rows = _measure(files, root)
    columns = ("perceptual", "grey", "chroma", "contrast", "shorter")
    signatures = Signatures(*(rows[name] for name in columns))
    return find_near_groups(signatures, np.flatnonzero(rows["shorter"] > 0))


def number_leaders(count: int, groups: Sequence[Sequence[int]]) -> Int64[np.ndarray, n]:
    """Return of each image the first of its group, or itself.

    Args:
        count: How many images there are.
        groups: Of images that belong together.
    """
    leaders = np.arange(count)
    for group in groups:
        leaders[[*group]] = group[0]
    return leaders


def describe_groups(
    listing: Listing, groups: Sequence[Sequence[int]], parts: Mapping[Split, Listing], rule: str
) -> list[Note]:
    """Return notes on near duplicates: those in several splits, or how many are kept together.

    Args:
        listing: The images.
        groups: Of near duplicates.
        parts: The listing of each split.
        rule: Option `data.near_duplicates`.
    """
    split_of = {id: split for split, part in parts.items() for id in part.ids}
    ids = listing.ids
    across = [group for group in groups if len({split_of[ids[n]] for n in group}) > 1]
    notes = []
    if across:
        names = [_name_group(ids, split_of, group) for group in across]
        why = (
            "of images that look the same lie in several splits: numbers on one say less of others"
        )
        remedy = "data.near_duplicates=together keeps each group in one split"
        if rule == "together":
            remedy = "data.split_file keeps them where they are; remove the lines of all but one"
        notes.append(count_note(names, "group", why, where="near duplicates", remedy=remedy))
    if rule == "together" and (within := [group for group in groups if group not in across]):
        names = [_name_group(ids, split_of, group) for group in within]
        why = "of images that look the same: each is in one split"
        notes.append(count_note(names, "group", why, where="near duplicates"))
    return notes


def _name_group(ids: Sequence[str], split_of: Mapping[str, Split], group: Sequence[int]) -> str:
    """Return the names of a group of images, with their splits where these differ."""
    differ = len({split_of[ids[n]] for n in group}) > 1
    shown = [f"{ids[n]} ({split_of[ids[n]]})" if differ else ids[n] for n in group[:4]]
    return " = ".join(shown) + (f" = {len(group) - 4} more" if len(group) > 4 else "")


# -- what is measured, and kept


def _measure(files: Sequence[File], root: str) -> np.ndarray:
    """Return what near duplicates are found by, a row of type ROW for each file."""
    rows = np.zeros(len(files), ROW)
    for n, file in enumerate(files):
        rows[n]["name"] = _hash_name(file.id)
        rows[n]["size"], rows[n]["time"] = file.stamp
    kept = _find_kept(root)
    known = _load(kept)
    place = {key: n for n, key in enumerate(_list_keys(known))}
    new = list[int]()
    for n, key in enumerate(_list_keys(rows)):
        if (there := place.get(key)) is None:
            new.append(n)
        else:
            rows[n] = known[there]
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for n, measured in zip(new, pool.map(lambda n: _read(files[n]), new), strict=True):
            perceptual, grey, chroma, contrast, shorter = measured
            rows[n]["perceptual"], rows[n]["grey"], rows[n]["chroma"] = perceptual, grey, chroma
            rows[n]["contrast"], rows[n]["shorter"] = contrast, shorter
    if kept is not None and (new or len(known) != len(rows)):
        with suppress(OSError), atomic_write(kept) as temporary, open(temporary, "wb") as file_:
            np.savez(file_, version=np.array(VERSION), rows=rows)
    return rows


def _read(file: File) -> tuple[int, np.ndarray, np.ndarray, float, int]:
    """Return the signature of a file, and its shorter side; zeros where it cannot be read."""
    try:
        read = photo.read(file.path, at=(SIDE, SIDE), name=file.id)
    except SkippedImage:  # the stages name it, which read it at its size
        return 0, np.zeros(GREY_SIDE**2, np.uint8), np.zeros(2 * CELLS**2, np.uint8), 0.0, 0
    return *measure_signature(read.pixels), min(read.size)


def _hash_name(id: str) -> int:
    """Return 63 bits of the hash of an id."""
    return int.from_bytes(hashlib.sha256(id.encode(errors="replace")).digest()[:8], "big") >> 1


def _list_keys(rows: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """Yield what tells whether each file is the same."""
    yield from zip(*(rows[name].tolist() for name in ("name", "size", "time")), strict=True)


def _find_kept(root: str) -> Path | None:
    """Return where what is measured of a root is kept; None: nowhere."""
    cache = find_cache()
    if cache is None:
        return None
    digest = hashlib.sha256(os.path.realpath(root).encode(errors="surrogateescape")).hexdigest()
    return cache / f"signatures-{digest[:16]}.npz"


def _load(path: Path | None) -> np.ndarray:
    """Return the kept rows; none where they cannot be used."""
    none = np.zeros(0, ROW)
    if path is None:
        return none
    try:
        with np.load(path, allow_pickle=False) as arrays:
            rows = arrays["rows"]
            is_usable = int(arrays["version"]) == VERSION and rows.dtype == ROW
            return np.asarray(rows) if is_usable else none
    except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile):
        return none
