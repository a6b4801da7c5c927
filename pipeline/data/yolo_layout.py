"""What data.yaml, or the folders where there is none, say of a data set of YOLO.

data.yaml               path, train, val, test: folders, lists of folders, .txt files of paths
                        names: a list, or numbers with names; nc, kpt_shape
images/train            without data.yaml: splits below images/,
train/images            or images/ below folders of splits, as Roboflow writes them,
images                  or all images in one folder; then classes.txt has the names

Paths of data.yaml are relative to its `path`, or to the file where that folder is not there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pipeline.data.split_names import find_split_part
from pipeline.errors import UserError
from pipeline.formats.coco_values import parse_key
from pipeline.formats.files import read_lines
from pipeline.ops.text import count_note, printable, to_nfc

NAMES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
SPLITS = ("train", "val", "test")
SPELLINGS = {"val": ("val", "valid", "validation")}  # of the key of a split
CLASS_FILES = ("classes.txt", "obj.names")
EXPECTED = (
    "expected data.yaml with train, val and names; or images/train, images/val, labels/train, "
    "labels/val and classes.txt; or train/images, train/labels, valid/images, valid/labels"
)


@dataclass(frozen=True)
class YoloLayout:
    """Where the images of a data set of YOLO are, and what its classes are called.

    Attributes:
        folder: Of the data set, absolute.
        splits: For each split the folders and text files of its images.
        names: Class names by number; a number that has none is no class.
        where: The file with the names, for messages.
        key_point_numbers: How many numbers of key points follow each box.
        notes: What was odd, a line each.
    """

    folder: Path
    splits: Mapping[str, Sequence[Path]]
    names: Mapping[int, str]
    where: str
    key_point_numbers: int = 0
    notes: Sequence[str] = field(default_factory=list)


def read_layout(root: Path) -> YoloLayout:
    """Read data.yaml, or look at the folders.

    Args:
        root: A folder, or its data.yaml of any name.

    Raises:
        UserError: There are neither a data.yaml nor folders of YOLO, or the file cannot be used.
    """
    if root.is_file():
        return _read_yaml(root)
    for name in NAMES:
        if (root / name).is_file():
            return _read_yaml(root / name)
    others = sorted(path for path in root.glob("*.y*ml") if path.suffix in (".yaml", ".yml"))
    if len(others) == 1:
        return _read_yaml(others[0])
    if others:
        named = ", ".join(path.name for path in others)
        raise UserError(f"data.root={root}: {named}: which one? give data.root={others[0]}")
    return _read_folders(root)


# -- data.yaml


def _read_yaml(path: Path) -> YoloLayout:
    content, notes = _load(path), list[str]()
    folder = _find_folder(path, content, notes)
    splits: dict[str, list[Path]] = {}
    for split in SPLITS:
        keys = SPELLINGS.get(split, (split,))
        given = next((content[key] for key in keys if content.get(key)), None)
        listed = given if isinstance(given, list) else [given] if given else []
        places = [_resolve(path, folder, split, text) for text in listed]
        missing = [str(text) for text, place in zip(listed, places, strict=True) if place is None]
        if missing and split == "train":
            raise UserError(
                f"{path}: {split}: {missing[0]} is not there, looked for in {folder}; correct "
                f"`path` and `{split}` of the file, or unpack the images"
            )
        if missing:
            remedy = "unpack the images, or drop the entry"
            why = f"of `{split}` not there: left out"
            notes.append(count_note(missing, "place", why, where=path.name, remedy=remedy))
        if existing := [place for place in places if place is not None]:
            splits[split] = existing
    if "train" not in splits:
        raise UserError(f"{path}: no `train`; {EXPECTED}")
    names = _read_names(path, content, notes)
    shape = content.get("kpt_shape")
    is_shape = isinstance(shape, list) and all(isinstance(n, int) for n in shape)
    points = int(shape[0] * shape[1]) if isinstance(shape, list) and is_shape else 0
    return YoloLayout(folder, splits, names, path.name, points, notes)


def _load(path: Path) -> dict[str, Any]:
    """Return what a YAML file holds. Raise UserError where it is none."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        mark = getattr(error, "problem_mark", None)
        line = "" if mark is None else f", line {mark.line + 1}"
        reason = getattr(error, "problem", None) or error
        raise UserError(f"{path}{line}: cannot be read as YAML ({reason})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: no data.yaml of YOLO; {EXPECTED}")
    return content


def _find_folder(path: Path, content: Mapping[str, Any], notes: list[str]) -> Path:
    """Return the folder that paths are relative to: `path`, as far as it is there."""
    beside = Path(os.path.abspath(path)).parent
    given = content.get("path")
    if not isinstance(given, str) or not given.strip():
        return beside
    place = Path(os.path.normpath(beside / os.path.expanduser(given)))
    if place.is_dir():
        return place
    notes.append(
        f"{path.name}: path: {printable(given)} is not there: paths are taken as relative to "
        "the file itself"
    )
    return beside


def _resolve(path: Path, folder: Path, split: str, text: Any) -> Path | None:
    """Return the folder or file that an entry names; None where it is not there."""
    if not isinstance(text, str):
        raise UserError(
            f"{path}: {split}: {text!r} is no path; expected a folder, a .txt file, or a list"
        )
    spelling = text.strip().replace("\\", "/")
    # Roboflow writes ../train/images and means train/images.
    spellings = (spelling, spelling.removeprefix("../"))
    for each in spellings:
        place = Path(os.path.normpath(folder / os.path.expanduser(each)))
        if place.exists():
            return place
    return None


def _read_names(path: Path, content: Mapping[str, Any], notes: list[str]) -> dict[int, str]:
    """Return class names by number. Raise UserError where there are none, or one is there twice."""
    given, count = content.get("names"), content.get("nc")
    if isinstance(given, Mapping):
        numbers = {parse_key(key): name for key, name in given.items()}
        wrong = [repr(key) for key in given if not isinstance(parse_key(key), int)]
        if wrong:
            raise UserError(f"{path}: names: {wrong[0]} is no number of a class")
        names = {n: to_nfc(str(name)) for n, name in numbers.items() if isinstance(n, int)}
    elif isinstance(given, list) and given:
        names = {n: to_nfc(str(name)) for n, name in enumerate(given)}
    elif isinstance(count, int) and count > 0:
        names = {n: f"class{n}" for n in range(count)}
        notes.append(f"{path.name}: no names: classes are called class0 to class{count - 1}")
    else:
        raise UserError(f"{path}: no `names`; expected a list of class names, by number")
    if isinstance(count, int) and count != len(names):
        notes.append(f"{path.name}: nc is {count}, but there are {len(names)} names, which count")
    return check_names(names, path)


def check_names(names: Mapping[int, str], path: Path) -> dict[int, str]:
    """Return class names. Raise UserError where two are equal, or one is empty.

    Args:
        names: By number.
        path: The file that they are from.

    Raises:
        UserError: Two are equal, or one is empty.
    """
    first: dict[str, int] = {}
    for number, name in names.items():
        if not name.strip():
            raise UserError(f"{path}: the class {number} has no name")
        if name in first:
            raise UserError(
                f"{path}: the classes {first[name]} and {number} are both called {name!r}; give "
                "each its own name"
            )
        first[name] = number
    return dict(names)


# -- folders alone


def _read_folders(root: Path) -> YoloLayout:
    folder, splits = Path(os.path.abspath(root)), dict[str, list[Path]]()
    for place in sorted(_list_folders(folder / "images")):
        if (split := find_split_part(place.name)) is not None:
            splits.setdefault(split, []).append(place)
    for place in sorted(_list_folders(folder)) if not splits else ():
        split = find_split_part(place.name)
        if split is not None and (place / "images").is_dir():
            splits.setdefault(split, []).append(place / "images")
    if not splits and (folder / "images").is_dir() and (folder / "labels").is_dir():
        splits["train"] = [folder / "images"]
    if "train" not in splits:
        raise UserError(f"data.root={root}: no data set of YOLO; {EXPECTED}")
    for name in CLASS_FILES:
        path = folder / name
        if path.is_file():
            names = dict(enumerate(to_nfc(line) for _, line in read_lines(path)))
            return YoloLayout(folder, splits, check_names(names, path), name)
    raise UserError(
        f"data.root={root}: neither data.yaml nor classes.txt, so the classes have no names; write "
        "classes.txt, a name a line, in the order of the numbers of the label files"
    )


def _list_folders(place: Path) -> list[Path]:
    return [path for path in place.iterdir() if path.is_dir()] if place.is_dir() else []
