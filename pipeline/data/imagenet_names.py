"""Names of ImageNet's classes, whose folders are called by WordNet ids such as n01440764."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import UserError
from pipeline.formats.files import read_lines
from pipeline.ops.text import count_note

SYNSET = re.compile(r"n\d{8}")
TABLES = (
    "LOC_synset_mapping.txt", "synset_words.txt", "words.txt", "classes.txt"
)  # fmt: skip
IMAGENET_CLASSES = 1000


def name_synsets(root: Path, folders: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the names of class folders that are called by WordNet ids.

    The names are those of the first file of `TABLES` in the root, in which a line is an id, white
    space, and names with commas between, of which the first counts. Without such a file, folders
    of all 1000 classes of ILSVRC2012 have torchvision's names. Equal names get the id beside them.

    Args:
        root: The folder of the data set.
        folders: The names of the class folders, in the order of the classes.

    Returns:
        A name for each folder, itself where there is none, and notes.

    Raises:
        UserError: A file of names cannot be read.
    """
    if not folders or not all(map(SYNSET.fullmatch, folders)):
        return [*folders], []
    tables = [root / name for name in TABLES if (root / name).is_file()]
    if tables:
        given = _read_table(tables[0])
    elif len(folders) == IMAGENET_CLASSES and list(folders) == sorted(folders):
        given = dict(zip(folders, _list_torchvision_names(), strict=True))
    else:
        remedy = f"put {TABLES[0]} (lines of id and name) there"
        return [*folders], [f"{root}: classes are called by their WordNet ids; {remedy}"]
    names = [given.get(folder, folder) for folder in folders]
    times = Counter(names)
    unique = [
        name if times[name] == 1 else f"{name} ({folder})"
        for name, folder in zip(names, folders, strict=True)
    ]
    unnamed = [folder for folder in folders if folder not in given]
    if unnamed:
        why = "without a line: called by their id"
        return unique, [count_note(unnamed, "class folder", why, where=tables[0].name)]
    return unique, []


def _read_table(path: Path) -> dict[str, str]:
    """Return the first name by WordNet id of a file of names."""
    names: dict[str, str] = {}
    for _, line in read_lines(path):
        id, _, text = line.replace("\t", " ").partition(" ")
        name = text.split(",")[0].strip()
        if SYNSET.fullmatch(id) and name:
            names.setdefault(id, name)
    if not names:
        raise UserError(
            f"{path}: no line of a WordNet id and a name, as 'n01440764 tench, Tinca tinca'"
        )
    return names


def _list_torchvision_names() -> list[str]:
    """Return torchvision's names of the classes, in the order of their WordNet ids."""
    from torchvision.models import ResNet50_Weights  # here: it imports torch, slowly

    return list(ResNet50_Weights.IMAGENET1K_V1.meta["categories"])
