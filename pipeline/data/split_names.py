"""Folders whose names hold the name of a split as a part, and folders that hold a split once more.

    seg_train/{cat,dog} seg_test/{cat,dog}    a part of each name is the name of a split
    fold0/{cat,dog} fold1/{cat,dog}           the parts of a cross-validation
    train/train/{cat,dog}                     an archive that was unpacked into a folder of its name
    val/images/                               images of all classes in a single folder

Read as they are, the folders would be classes.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

TRAIN_PARTS = {"train", "training", "trainset", "trn", "tr"}
VAL_PARTS = {"val", "valid", "validation", "valset", "dev", "eval", "evaluation", "holdout"}
TEST_PARTS = {"test", "testing", "testset", "tst", "te"}
NUMBERED_PARTS = {
    "fold",
    "folds",
    "kfold",
    "cv",
    "split",
    "splits",
    "part",
    "subset",
    "batch",
    "shard",
}
# Names of a folder that only says that images are in it.
CONTAINERS = {"images", "image", "imgs", "img", "pictures", "photos", "jpegimages", "data"}
WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[^\W\d_A-Za-z]+")


def find_split_part(name: str) -> str | None:
    """Return the split, `train`, `val` or `test`, that a part of a name is the name of, or None.

    Args:
        name: Of a folder.

    Examples:
        >>> find_split_part("seg_train"), find_split_part("X-test"), find_split_part("constrain")
        ('train', 'test', None)
    """
    words = [word.lower() for word in WORD.findall(name)]
    parts = (("train", TRAIN_PARTS), ("val", VAL_PARTS), ("test", TEST_PARTS))
    return next((split for split, known in parts if known.intersection(words)), None)


def is_numbered_part(name: str) -> bool:
    """Return whether a name is that of a part of a data set, with its number.

    Args:
        name: Of a folder.

    Examples:
        >>> is_numbered_part("fold_1"), is_numbered_part("folder"), is_numbered_part("part2")
        (True, False, True)
    """
    words = {word.lower() for word in WORD.findall(name)}
    return bool(words & NUMBERED_PARTS) and re.search(r"\d", name) is not None


def suggest_renaming(inside: Mapping[str, Collection[str]]) -> str:
    """Return what makes splits of folders that would be classes; empty where they may be classes.

    Folders are splits where at least two share names of folders in them, are named as different
    splits or as parts with a number, and no folder of another name shares these.

    Args:
        inside: Names of the folders in each folder.
    """
    shared = [name for name in inside if is_sharing(name, inside)]
    splits = {name: find_split_part(name) for name in shared}
    if len(shared) > 1 and None not in splits.values() and len(set(splits.values())) > 1:
        return "rename " + " and ".join(f"{name!r} to {split}" for name, split in splits.items())
    if len(shared) > 1 and all(map(is_numbered_part, shared)):
        return (
            f"move the class folders in {shared[-1]!r} into val/, which is scored, and those of "
            "the other parts into train/"
        )
    return ""


def is_sharing(name: str, inside: Mapping[str, Collection[str]]) -> bool:
    """Return whether another folder holds at least half of the folders that a folder holds.

    Args:
        name: The folder.
        inside: Names of the folders in each folder.
    """
    names = set(inside[name])
    most = max((len(names & set(inside[other])) for other in inside if other != name), default=0)
    return bool(names) and 2 * most >= len(names)


def find_repeated_folder(
    folder: str, classes: Sequence[str], inside: Mapping[str, Collection[str]]
) -> str | None:
    """Return the only class folder of a split if it is the split once more; None where it is not.

    Args:
        folder: The folder of the split.
        classes: Names of its class folders.
        inside: Names of the folders in each class folder.
    """
    if len(classes) != 1 or not inside[classes[0]]:
        return None
    name = classes[0]
    return name if name.lower() == folder.lower() or find_split_part(name) else None
