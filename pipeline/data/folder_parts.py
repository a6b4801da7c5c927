"""The files of class folders by split and class, and notes on what looks like a mistake there."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence

from pipeline.data.file_table import join_files
from pipeline.data.listing import File, Listing
from pipeline.ops.text import count_note

Parts = Mapping[str, Mapping[str, Sequence[File]]]
"""Image files by the split that a folder is of, and by the name of the class folder."""


def describe_parts(parts: Parts, folders: Sequence[str]) -> list[str]:
    """Return notes on what looks like a mistake in the layout of the folders.

    Args:
        parts: The files of each split and class folder.
        folders: Names of the class folders.
    """
    notes = []
    if len(folders) == 1:
        notes.append(
            f"all images are of one class, {folders[0]!r}: expected train/<class>/<image>, a "
            "folder a class; are the class folders one level deeper?"
        )
    if "train" in parts and "val" in parts:
        unlearned, unscored = (
            [name for name in folders if not parts[split].get(name)] for split in ("train", "val")
        )
        if unlearned:
            why = "with images in val but none in train: not learned"
            remedy = _find_like(unlearned, unscored)
            notes.append(count_note(unlearned, "class", why, remedy=remedy))
        if unscored and any(parts["val"].values()):
            why = "with images in train but none in val: not scored"
            notes.append(count_note(unscored, "class", why))
    if "val" in parts and not any(parts["val"].values()):
        notes.append("val: no image in its class folders, so nothing is scored; fill or remove it")
    return notes


def describe_share(scored: int, total: int, share: float) -> str:
    """Return a note on images of train/ that are scored because there is no val/.

    Args:
        scored: How many are scored.
        total: Of how many.
        share: Option `data.val`.
    """
    if not scored:
        return f"no val/, and data.val={share:g}: none of the {total} images of train/ is scored"
    return (
        f"no val/: {scored} of the {total} images of train/, chosen by hash of their names, are "
        f"scored and not trained on (data.val={share:g})"
    )


def _find_like(names: Sequence[str], others: Sequence[str]) -> str:
    """Return a question whether the first name that is like another is meant to be that."""
    lower = {other.lower(): other for other in others}
    for name in names:
        if close := difflib.get_close_matches(name.lower(), lower, 1, cutoff=0.8):
            return f"is {name!r} meant to be {lower[close[0]]!r}? rename the folder"
    return ""


def list_files(parts: Parts, part: str) -> Iterator[File]:
    """Yield the files of a split.

    Args:
        parts: The files of each split and class folder.
        part: The split.
    """
    return (file for files in parts.get(part, {}).values() for file in files)


def join_classes(by_class: Sequence[Sequence[File]], classes: Sequence[str]) -> Listing:
    """Return the listing of the files of all classes, class by class.

    Args:
        by_class: The files of each class.
        classes: Class names.
    """
    labels = [n for n, files in enumerate(by_class) for _ in range(len(files))]
    return Listing(join_files(by_class), labels, classes)
