"""Splits of images that no folder gives one: by hash, stratified, kept in a file, in groups.

    u(image) = hash of its id, in [0, 1); of a group of near duplicates that of its first image
    by hash:      apart where u < share
    stratified:   of a class of n images the floor(n * share + v) of least u,
                  v = hash of the class name, in [0, 1)

By hash an image stays where it is when others are added, but a class of n images has its share to
sqrt(n * share * (1 - share)) images alone. Stratified it has it to one image, and the dither v
makes the whole set's share right where classes are small; the images next to the bound may change
when others are added. A file of splits (`data.split_file`) keeps each image where it is for good:
only new images are assigned, as many of each class as bring its shares nearest to those asked for.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.data.hashed_splits import find_apart, hash_to_fraction
from pipeline.data.listing import Listing
from pipeline.errors import UserError
from pipeline.formats.files import atomic_write
from pipeline.ops.text import count_note
from pipeline.types import Note, Split

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64, Int64

COLUMNS = ("image", "split")
TRAIN: Split = "train"
RECORDED: tuple[Split, ...] = ("train", "held_back", "calibration", "val")


@dataclass(frozen=True)
class Shares:
    """The splits that are set apart, in this order, and the share of what is left of each.

    Attributes:
        splits: Their names.
        shares: From 0 to below 1.
        stratified: Whether each class has its shares to one image.
    """

    splits: Sequence[Split]
    shares: Sequence[float]
    stratified: bool = False


def assign(
    listing: Listing,
    shares: Shares,
    leaders: Int64[np.ndarray, n] | None = None,
    known: Mapping[str, Split] | None = None,
) -> dict[Split, Listing]:
    """Assign each image to a split.

    Args:
        listing: The images.
        shares: The splits that are set apart.
        leaders: Of each image the first of its group, which stays in one split; None: no groups.
        known: The splits of images that keep theirs; None: of none.

    Returns:
        The listing of each split: `train`, and those that are set apart.
    """
    fixed = _find_fixed(listing, shares, leaders, known or {})
    ids, labels = listing.ids, np.asarray(listing.labels, np.int64)
    chosen = np.full(len(labels), -1, np.int64)  # the position of the split in `shares`
    chosen[fixed >= 0] = fixed[fixed >= 0]
    for number, (split, share) in enumerate(zip(shares.splits, shares.shares, strict=True)):
        pool = np.flatnonzero((chosen < 0) | (chosen >= number))
        names = (ids[n] for n in pool.tolist())
        fractions = np.fromiter((hash_to_fraction(id, split) for id in names), np.float64)
        group = np.arange(len(pool)) if leaders is None else _number_within(leaders, pool)
        state = np.where(fixed[pool] < 0, -1, (fixed[pool] == number).astype(np.int64))
        if shares.stratified:
            apart = _find_stratified(
                fractions[group], labels[pool], share, state, group, listing.classes
            )
        else:
            apart = find_apart(fractions[group], labels[pool], share)
            apart = np.where(state < 0, apart, state == 1)
        chosen[pool[apart]] = number
    parts: dict[Split, Listing] = {TRAIN: listing.take(np.flatnonzero(_are_left(chosen, shares)))}
    for number, split in enumerate(shares.splits):
        parts[split] = listing.take(np.flatnonzero(chosen == number))
    return parts


def _are_left(chosen: Int64[np.ndarray, n], shares: Shares) -> Bool[np.ndarray, n]:
    """Return which images are in none of the splits that are set apart."""
    return (chosen < 0) | (chosen >= len(shares.splits))


def _find_fixed(
    listing: Listing,
    shares: Shares,
    leaders: Int64[np.ndarray, n] | None,
    known: Mapping[str, Split],
) -> Int64[np.ndarray, n]:
    """Return the position of the split that each image keeps; that of train is the last; -1: none.

    A new image of a group keeps the split of the first that has one.
    """
    if not known:
        return np.full(len(listing.labels), -1, np.int64)
    names = [*shares.splits, TRAIN]
    fixed = np.array(
        [names.index(known[id]) if known.get(id) in names else -1 for id in listing.ids], np.int64
    ).reshape(-1)
    if leaders is None:
        return fixed
    of_group: dict[int, int] = {}
    for leader, split in zip(leaders.tolist(), fixed.tolist(), strict=True):
        if split >= 0:
            of_group.setdefault(leader, split)
    inherited = np.array([of_group.get(leader, -1) for leader in leaders.tolist()], np.int64)
    return np.where(fixed < 0, inherited, fixed)


def _number_within(
    leaders: Int64[np.ndarray, n], pool: Int64[np.ndarray, m]
) -> Int64[np.ndarray, m]:
    """Return of each image of a pool the position in it of the first of its group there."""
    first: dict[int, int] = {}
    return np.array(
        [first.setdefault(leader, n) for n, leader in enumerate(leaders[pool].tolist())], np.int64
    )


def _find_stratified(
    fractions: Float64[np.ndarray, n],
    labels: Int64[np.ndarray, n],
    share: float,
    state: Int64[np.ndarray, n],
    group: Int64[np.ndarray, n],
    classes: Sequence[str],
) -> Bool[np.ndarray, n]:
    """Return which images are set apart, as many of each class as its share says.

    Args:
        fractions: Of each image, equal in a group.
        labels: Of each image; that of a group is that of its first image.
        share: That is set apart.
        state: 1 where an image is set apart already, 0 where it is not, -1 where it is free.
        group: Of each image the position of the first of its group.
        classes: Class names.
    """
    apart = state == 1
    free: dict[int, list[int]] = {}
    for first in np.unique(group[state < 0]).tolist():
        free.setdefault(int(labels[first]), []).append(first)
    members: dict[int, list[int]] = {}
    for position in np.flatnonzero(state < 0).tolist():
        members.setdefault(int(group[position]), []).append(position)
    for label, firsts in free.items():
        of_class = labels == label
        total, there = int(of_class.sum()), int((apart & of_class).sum())
        dither = hash_to_fraction(classes[label] if label >= 0 else "", "dither")
        wanted = min(int(np.floor(total * share + dither)), total - 1) if share > 0 else 0
        for first in sorted(firsts, key=lambda n: (float(fractions[n]), n)):
            if there + len(members[first]) > wanted:
                continue
            apart[members[first]] = True
            there += len(members[first])
    return np.asarray(apart, bool)


# -- the file of splits


def read_record(path: Path) -> dict[str, Split]:
    """Read which split each image is in.

    Args:
        path: CSV with the columns `image` (its id) and `split`; one that is not there names none.

    Raises:
        UserError: A line of the file cannot be used.
    """
    if not path.exists():
        return {}
    splits: dict[str, Split] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            head = next(reader, None)
            if head is None or tuple(head) != COLUMNS:
                raise UserError(
                    f"data.split_file={path}: its first line is not {','.join(COLUMNS)}; give a "
                    "file that an earlier run wrote, or a new name"
                )
            for row in reader:
                if len(row) != len(COLUMNS) or row[1] not in RECORDED:
                    raise UserError(
                        f"data.split_file={path}, line {reader.line_num}: expected an image and "
                        f"one of {', '.join(RECORDED)}, and it is {','.join(row)[:80]!r}"
                    )
                if splits.setdefault(row[0], row[1]) != row[1]:
                    raise UserError(
                        f"data.split_file={path}, line {reader.line_num}: {row[0]} is in two "
                        "splits; remove one of its lines"
                    )
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"data.split_file={path}: cannot be read ({error})") from None
    return splits


def write_record(path: Path, known: Mapping[str, Split], parts: Mapping[Split, Listing]) -> None:
    """Add the images that the file does not have; nothing is written where it has all.

    Args:
        path: Where the file is.
        known: What it holds.
        parts: The listing of each split.

    Raises:
        UserError: It cannot be written.
    """
    new = {id: split for split, part in parts.items() for id in part.ids if id not in known}
    if not new:
        return
    try:
        with (
            atomic_write(path) as temporary,
            open(temporary, "w", encoding="utf-8", newline="") as file,
        ):
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            writer.writerows(sorted({**known, **new}.items()))
    except OSError as error:
        raise UserError(
            f"data.split_file={path}: cannot be written ({error.strerror}); name a file elsewhere"
        ) from None


def describe_record(
    path: Path, known: Mapping[str, Split], ids: Iterable[str], allowed: Mapping[Split, Listing]
) -> list[Note]:
    """Return notes on images of a file of splits that are not here, or whose split is not.

    A note says, too, where all images have a split by the file, and none is scored.

    Args:
        path: The file.
        known: What it holds.
        ids: Of the images that are assigned.
        allowed: The listing of each split that they are assigned to.
    """
    notes, here, splits = [], {*ids}, {*allowed}
    if gone := [id for id in known if id not in here]:
        why = f"of {len(known)} are not among the images: their lines are kept"
        notes.append(count_note(gone, "image", why, where=path.name))
    if other := [id for id, split in known.items() if id in here and split not in splits]:
        why = "are in a split that is not drawn from them here: assigned anew"
        remedy = "where val/ is a folder, data.split_file holds train and held_back alone"
        notes.append(count_note(other, "image", why, where=path.name, remedy=remedy))
    if "val" in allowed and not len(allowed["val"].files) and len(here & known.keys()) > 1:
        notes.append(Note(
            f"{path}: none of its {len(known)} images is in val, so none is scored; write val for "
            "some of them, or remove lines: their images are drawn anew"
        ))  # fmt: skip
    return notes
