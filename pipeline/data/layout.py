"""Which folders of an image folder are its splits, and what is left beside them.

    train/ and val/ (or valid/, validation/, test/), whatever the case: the splits
    training/, dev/, eval/, testing/, train_set/ ...: read as train or val where there is none
    test/ (testing/) beside the scored folder: gets boxes, is neither trained on nor scored
    no such folders: each folder is a class

What no split uses is counted and named, with the folder that it may be meant to be.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pipeline.data import image_search
from pipeline.data.left_out import LeftOut
from pipeline.data.listing import File
from pipeline.data.split_names import (
    CONTAINERS,
    find_repeated_folder,
    find_split_part,
    is_sharing,
    suggest_renaming,
)
from pipeline.data.stored_folder import TreeFolder
from pipeline.data.system_files import describe_system_folder
from pipeline.errors import UserError, suggest_choices
from pipeline.ops.text import count_note, list_some, printable, to_nfc
from pipeline.types import Note

Place = Path | TreeFolder
"""A folder on disk, or one that is known by the names of its files."""
SCORED = ("val", "valid", "validation", "test")  # names of the folder that is scored
TRAIN_WORDS = ("train", "training")
SCORED_WORDS = (*SCORED[:3], "dev", "eval", "evaluation", "test", "testing")
UNSCORED_WORDS = ("test", "testing")  # of a folder that is in no other split
LIKENESS = 0.75  # of a name to a split's from which a typing error is assumed
MAX_FOLDERS_SHOWN = 20


@dataclass(frozen=True)
class Layout:
    """The folders of a data set.

    Attributes:
        root: The data set.
        train: Name of the folder that is trained on; empty: the root itself; None: there is none.
        val: Name of the folder that is scored; None: there is none.
        calibration: Name of the folder that chooses the threshold; None: there is none.
        test: Name of the folder that only gets boxes; None: there is none.
    """

    root: Place
    train: str | None
    val: str | None
    calibration: str | None = None
    test: str | None = None

    @property
    def splits(self) -> dict[str, str]:
        """Folders by the split, `train` and `val`, that they are of."""
        both = {"train": self.train, "val": self.val}
        return {split: name for split, name in both.items() if name is not None}

    @property
    def is_of_classes(self) -> bool:
        """Whether each folder in the root is a class."""
        return self.train == ""

    @cached_property
    def unused(self) -> list[str]:
        """Folders in the root that no split uses."""
        if self.is_of_classes:
            return []
        used = (self.train, self.val, self.calibration, self.test)
        return [name for name in _list_folders(self.root) if name not in used]


def read_layout(root: Place, calibration: str | None = None, val: str | None = None) -> Layout:
    """Find the folders of the splits.

    Args:
        root: The data set.
        calibration: A folder that is neither trained on nor scored.
        val: The folder that is scored; None: the first of SCORED with class folders, else one
            whose name means the same.

    Raises:
        UserError: There is no folder `val`, or it is one of the others.
    """
    folders = _list_folders(root)
    calibration = _match_folder(folders, calibration)
    free = [name for name in folders if name != calibration]
    given = None if val is None else _check_val(root, val, free)
    by_name = {name.lower(): name for name in reversed(free)}
    with_classes = [name for name in free if _holds_folders(root / name)]
    scored = given or next(
        (by_name[name] for name in SCORED if by_name.get(name) in with_classes), None
    )
    train = by_name.get("train")
    if train is None or (scored is None and train not in with_classes):
        train = _find_synonym(root, with_classes, TRAIN_WORDS, scored) or train
    if scored is None and train in with_classes:
        scored = _find_synonym(root, with_classes, SCORED_WORDS, train)
    # Alone, `train` may be a class of that name; a split holds folders.
    if scored is None and train not in with_classes:
        return Layout(root, "", None, calibration)
    others = [name for name in free if name not in (train, scored)]
    return Layout(root, train, scored, calibration, _find_unscored(others))


def _find_unscored(folders: Sequence[str]) -> str | None:
    """Return the folder named test, or else one whose name means the same, or None."""
    meant = [name for name in folders if _reduce(name) in UNSCORED_WORDS]
    exact = [name for name in meant if name.lower() == UNSCORED_WORDS[0]]
    return next(iter([*exact, *meant]), None)


def _check_val(root: Place, val: str, folders: Sequence[str]) -> str:
    """Return the folder that option `val_folder` names. Raise UserError where it cannot be."""
    name = _match_folder(folders, val)
    if name is None:
        raise UserError(
            f"data.val_folder={val}: no such folder in data.root={root}, or it is "
            f"data.calibration; {suggest_choices(val, map(to_nfc, folders))}"
        )
    if name.lower() == "train":
        raise UserError(
            f"data.val_folder={val}: images that are trained on are not scored; without the "
            "option and without val/, a share of them (data.val) is held out by hash"
        )
    return name


def _match_folder(folders: Sequence[str], name: str | None) -> str | None:
    """Return the folder of a name in any Unicode form, as the disk spells it."""
    return next((folder for folder in folders if name and to_nfc(folder) == to_nfc(name)), None)


def _find_synonym(
    root: Place, folders: Sequence[str], words: Sequence[str], other: str | None
) -> str | None:
    """Return the folder whose name is one of the words, and whose class folders are the other's.

    Without another split, any folder whose name is for the other split counts as such, and a folder
    that is alone needs none.
    """
    scored = words is TRAIN_WORDS
    others = [other] if other else [
        name for name in folders if scored and _reduce(name) in SCORED_WORDS
    ]  # fmt: skip
    for word in words:
        for name in folders:
            if _reduce(name) == word and name not in others:
                classes = _names_in(root / name)
                if any(classes & _names_in(root / each) for each in others):
                    return name
                if scored and _list_folders(root) == [name]:
                    return name
    return None


# -- what a name means


def _reduce(name: str) -> str:
    """Return a name in lower case without separators and without `set` at its end.

    Examples:
        >>> _reduce("Training_Set")
        'training'
    """
    return re.sub(r"[\W_]+", "", name.lower()).removesuffix("set")


def guess_split(name: str) -> str | None:
    """Return the split, `train` or `val`, that the name of a folder may be meant for, or None.

    Args:
        name: As `dev`, `train2017`, or with a typing error.

    Examples:
        >>> guess_split("vaild"), guess_split("train2017"), guess_split("robin")
        ('val', 'train', None)
    """
    reduced = _reduce(name)
    start = re.match(r"[^\W\d_]*", name.lower())
    for split, words in (("train", TRAIN_WORDS), ("val", SCORED_WORDS)):
        if reduced in words or (start and start[0] in words):
            return split
    # Few typing errors are in the first letter, and `brain` is no split.
    alike = [word for word in (*TRAIN_WORDS, *SCORED_WORDS) if word[0] == reduced[:1]]
    close = difflib.get_close_matches(reduced, alike, 1, LIKENESS)
    return None if not close else "train" if close[0] in TRAIN_WORDS else "val"


def check_classes(layout: Layout, folders: Sequence[str]) -> list[str]:
    """Check that class folders are no splits.

    Args:
        layout: The layout of the data set.
        folders: Names of the class folders with images.

    Returns:
        Notes on folders that may be splits.

    Raises:
        UserError: All are named as splits are, or one is and holds the folders of the others, or
            a split holds nothing but a folder that is no class, or the layout is that of YOLO.
    """
    _check_yolo(layout, folders)
    if not layout.is_of_classes:
        _check_split_folders(layout)
        return []
    if len(folders) == 0:
        return []
    root = layout.root
    inside: dict[str, set[str]] = {name: set() for name in folders}
    for name in _list_folders(root):
        inside.setdefault(printable(name), set()).update(_names_in(root / name))
    _check_split_parts(root, folders, inside)
    meant = [name for name in folders if guess_split(name) or find_split_part(name)]
    are_plain = all(_reduce(name) in (*TRAIN_WORDS, *SCORED_WORDS) for name in folders)
    like = [name for name in meant if _shares_names(name, inside)]
    around = [name for name in folders if inside[name] & {*folders} - {name}]
    if len(folders) > 1 and (are_plain or like == list(folders)):
        raise UserError(
            f"data.root={root}: its folders {', '.join(map(repr, folders))} are named as splits, "
            "and would be classes; expected train/<class>/<image> and val/<class>/<image>: rename "
            "them so, with a folder for each class in them"
        )
    if split := [name for name in around if name in meant]:
        raise UserError(
            f"data.root={root}: its folder {split[0]!r} is named as a split, holds folders of the "
            "same names as those beside it, and would be a class; expected train/<class>/<image> "
            "and val/<class>/<image>: move the class folders beside it into train/"
        )
    return _describe_doubtful_classes(root, inside, like, around)


def _check_yolo(layout: Layout, folders: Sequence[str]) -> None:
    """Raise UserError if all images are in folders `images` that have `labels` beside them."""
    if [*folders] != ["images"]:
        return
    root = layout.root
    around = [root / name if name else root for name in layout.splits.values()]
    if any("labels" in _names_in(place) for place in around):
        raise UserError(
            f"data.root={root}: all images are in folders called images, with labels beside them: "
            f"no folders of classes, but the layout of YOLO; data=yolo data.root={root}"
        )


def _check_split_parts(root: Place, folders: Sequence[str], inside: Mapping[str, set[str]]) -> None:
    """Raise UserError if folders whose names hold the names of splits would be classes."""
    unwrapped = {}
    for name in folders:
        # Archives are unpacked into folders of their names: seg_train/seg_train/<class>.
        is_wrapped = {each.lower() for each in inside[name]} == {name.lower()}
        path = f"{name}/{next(iter(inside[name]))}" if is_wrapped else name
        unwrapped[path] = _names_in(root / path) if is_wrapped else inside[name]
    if remedy := suggest_renaming(unwrapped):
        shared = ", ".join(repr(name) for name in unwrapped if is_sharing(name, unwrapped))
        raise UserError(
            f"data.root={root}: its folders {shared} are named as splits, hold folders of the same "
            "names, and would be classes; expected train/<class>/<image> and val/<class>/<image>: "
            f"{remedy}"
        )


def _check_split_folders(layout: Layout) -> None:
    """Raise UserError if the only class folder of a split is no class."""
    root = layout.root
    for folder in layout.splits.values():
        classes = _list_folders(root / folder)
        only = classes if len(classes) == 1 else []  # a folder beside others is a class
        inside = {name: _names_in(root / folder / name) for name in only}
        if repeated := find_repeated_folder(folder, classes, inside):
            path = f"{printable(folder)}/{printable(repeated)}"
            raise UserError(
                f"data.root={root}: {path}, with {list_some(sorted(inside[repeated]), 'folder')}, "
                f"would be a class; expected train/<class>/<image> and val/<class>/<image>: move "
                f"the folders in {path} into {printable(folder)}"
            )
    if layout.train and layout.val:
        classes = _list_folders(root / layout.val)
        known = _names_in(root / layout.train)
        if len(classes) == 1 and classes[0].lower() in CONTAINERS and not known & {*classes}:
            val, images = printable(layout.val), f"{printable(layout.val)}/{printable(classes[0])}"
            raise UserError(
                f"data.root={root}: {images} is no class of {printable(layout.train)}, and would "
                f"be the only one that is scored; expected {val}/<class>/<image>: sort its images "
                "into folders of their classes, as a list beside them may name them, or move "
                f"{val} out of data.root to score a share of the others (data.val)"
            )


def _shares_names(name: str, inside: Mapping[str, set[str]]) -> bool:
    """Return whether another folder holds folders of the same names."""
    return any(inside[name] & names for other, names in inside.items() if other != name)


def _describe_doubtful_classes(
    root: Place, inside: Mapping[str, set[str]], like: Sequence[str], around: Sequence[str]
) -> list[str]:
    """Return notes on class folders that may be no classes.

    Args:
        root: The data set.
        inside: Names of the folders in each folder.
        like: Folders that are named like splits, and hold folders as others do.
        around: Folders that hold folders of the same names as those beside them.
    """
    notes: list[str] = []
    if like:
        why = "named like a split, with folders of the same names as others, but read as a class"
        remedy = "is it meant to be train or val? rename it"
        notes.append(count_note(like, "folder", why, remedy=remedy))
    if around:
        why = "with folders of the same names as those beside it, read as a class of its own"
        remedy = "if it is no class, move it out of data.root"
        notes.append(count_note(around, "folder", why, remedy=remedy))
    nested = [name for name, names in inside.items() if _holds_splits(names)]
    if nested:
        hint = f"data.root={root / nested[0]}" if len(inside) == 1 else "train/<class>/<image>"
        why = "with folders called train and val inside, which are not read as splits"
        notes.append(count_note(nested, "class folder", why, remedy=f"expected {hint}"))
    alike = [name for name in inside if is_sharing(name, inside)]
    if not notes and len(alike) == len(inside) and len(set.union(*inside.values())) > 1:
        why = "with folders of the same names in them, read as classes"
        remedy = "if they are splits, rename them to train and val"
        notes.append(count_note(alike, "folder", why, remedy=remedy))
    return notes


def _holds_splits(names: Collection[str]) -> bool:
    lower = {name.lower() for name in names}
    return "train" in lower and not lower.isdisjoint(SCORED)


# -- notes on what is beside the splits


@dataclass(frozen=True)
class Unused:
    """A folder that no split uses: its images, and the names of the folders with images in it."""

    name: str
    image_count: int
    classes: frozenset[str]


def _classes_of(name: str, files: Sequence[File]) -> frozenset[str]:
    """Return the names of the folders with images in a folder."""
    below = (file.id.removeprefix(f"{printable(name)}/").split("/") for file in files)
    return frozenset(parts[0] for parts in below if len(parts) > 1)


def describe_layout(
    layout: Layout, classes: Collection[str], tables: Collection[str] = ()
) -> list[str]:
    """Return notes on splits of another name than usual, and on images that no split uses.

    Args:
        layout: The layout of the data set.
        classes: Names of the class folders with images.
        tables: Absolute paths of files that are read though they are no images.
    """
    if layout.is_of_classes:
        return []
    notes: list[str] = []
    for split, name in layout.splits.items():
        if name.lower() not in ("train", *SCORED) and _reduce(name) in (
            *TRAIN_WORDS,
            *SCORED_WORDS,
        ):
            notes.append(f"{printable(name)}: read as {split}/, as there is no folder of that name")
    if isinstance(layout.root, TreeFolder):
        return notes  # what is unused in an archive is known by other means
    by_remedy: dict[str, list[Unused]] = {}
    for name in layout.unused:
        left_out = LeftOut(tables=tables)
        contents = image_search.search(layout.root / name, printable(name), left_out)
        if not contents.files:
            notes += contents.notes
            if name.lower() in SCORED and not _holds_folders(layout.root / name):
                notes.append(f"{name}: no class folder in it, so it is not the scored split")
            continue
        unused = Unused(printable(name), len(contents.files), _classes_of(name, contents.files))
        remedy = _find_remedy(layout, name, not unused.classes.isdisjoint(classes))
        by_remedy.setdefault(remedy, []).append(unused)
    return notes + [_describe_unused(each, remedy, classes) for remedy, each in by_remedy.items()]


def _find_remedy(layout: Layout, name: str, holds_classes: bool) -> str:
    """Return what the user can do about a folder that no split uses."""
    split = guess_split(name)
    if split == "train" and holds_classes:
        if layout.train is None:
            return "is it meant to be train? rename it"
        return f"{printable(layout.train)} is trained on; move its class folders there"
    given = f"data.val_folder={printable(name)}"
    if split == "val" and layout.val is None:
        if not holds_classes and name.lower() in SCORED[:3]:
            shown = printable(name)
            return f"its images are to be in folders of the classes: {shown}/<class>/<image>"
        if not holds_classes:
            return "is it meant to be val? its images are to be in folders of the classes"
        return f"is it meant to be val? rename it, or give {given}"
    if not holds_classes:
        return "class folders are to be in train/ or val/: move it there"
    if layout.val is None:
        return f"{given} scores it; or move its class folders into train/"
    return f"{printable(layout.val)} is scored, {given} scores it instead"


def _describe_unused(folders: Sequence[Unused], remedy: str, classes: Collection[str]) -> Note:
    """Return a note on folders that no split uses, with their images and classes."""
    names = []
    for folder in folders:
        count = f"{folder.image_count} image{'s' * (folder.image_count != 1)}"
        only = sorted(folder.classes.difference(classes))
        # Folders in a class folder are no classes.
        if only and (guess_split(folder.name) or not folder.classes.isdisjoint(classes)):
            count += f"; {list_some(only, 'class')} in no split"
        names.append(f"{folder.name} ({count})")
    shown = ", ".join(names[:MAX_FOLDERS_SHOWN])
    more = f" and {len(names) - MAX_FOLDERS_SHOWN} more" if len(names) > MAX_FOLDERS_SHOWN else ""
    total = sum(folder.image_count for folder in folders)
    return Note(f"{shown}{more}: in no split, not used; {remedy}", names, total)


# -- folders


def _list_folders(root: Place) -> list[str]:
    """Return the names of the folders in a folder, sorted; not those that systems keep."""
    if isinstance(root, TreeFolder):
        return list(root.folders)
    with os.scandir(root) as scan:
        # A folder may hold a million images: the system says without a stat that each is a file.
        names = [entry.name for entry in scan if not entry.is_file(follow_symlinks=False)]
    return sorted(
        name
        for name in names
        if (root / name).is_dir()
        and not name.startswith(".")
        and not describe_system_folder(name, root.name)
    )


def _names_in(folder: Place) -> set[str]:
    """Return the names, in NFC, of the folders in a folder that are not hidden."""
    with suppress(OSError):
        return set(map(to_nfc, _list_folders(folder)))
    return set()


def _holds_folders(folder: Place) -> bool:
    return bool(_names_in(folder))
