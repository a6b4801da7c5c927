"""Corrections as YOLO's label files: a folder with label files and data.yaml or classes.txt.

    labels/.../a.txt    class cx cy width height, as fractions of the image; a line a box
                        class x y x y x y ..., the outline of an object: its box is used

Label files lie below labels/, PART/labels/ (Roboflow) or obj_PART_data/ (CVAT), images in images/
beside labels/. Names of classes are those of `names` in data.yaml, or the lines of classes.txt or
obj.names. Names of images are those of images.csv, which stage export writes; else that of the
label file, with the ending of an image of the same name. YOLO has no mark of review and no size of
images.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pipeline.errors import UserError
from pipeline.formats.files import read_lines
from pipeline.formats.odd_records import BadRecord, OddRecords
from pipeline.types import CorrectedImage, CorrectionFile, Note

CLASS_FILES = ("classes.txt", "obj.names")
NAME_FILES = ("data.yaml", "data.yml", "dataset.yaml", *CLASS_FILES)
IMAGE_TABLE = "images.csv"
TOLERANCE = 1e-3
"""How far a box may stick out of its image by rounding, as a fraction of it."""
HOW = (
    "expected a YOLO data set: a folder with label files in labels/ and data.yaml (names: ...) or "
    "classes.txt (a name a line)"
)


def matches(path: Path) -> bool:
    """Return whether a path is a YOLO data set: its folder, or the file with its classes.

    Args:
        path: a file or folder.
    """
    folder, names = _locate(path)
    return names is not None and bool(_list_label_folders(folder))


def read(path: Path) -> CorrectionFile:
    """Read all label files of a data set. Odd lines are left out, and counted.

    Args:
        path: its folder, or its data.yaml, classes.txt or obj.names.

    Raises:
        UserError: there are no label files or no names of classes, or no line can be used.
    """
    folder, names_file = _locate(path)
    if names_file is None or not (label_folders := _list_label_folders(folder)):
        raise UserError(f"{path}: {HOW}")
    odd = OddRecords(path.name, "line")
    ids, notes = _read_ids(folder)
    reader = _LabelReader(folder, _read_classes(names_file), odd)
    images = []
    for labels in label_folders:
        names = _list_image_names(labels)
        for file in sorted(labels.rglob("*.txt")):
            if file.name not in CLASS_FILES:
                key = file.relative_to(labels).with_suffix("").as_posix()
                name = ids.get(key) or ids.get(file.stem) or names.get(key) or key
                images.append(reader.read(file, name))
    if not images:
        raise UserError(f"{path}: no label file (*.txt); {HOW}")
    odd.check_usable(path, reader.line_count, reader.box_count)
    return CorrectionFile("yolo", images, [*odd.notes(), *notes])


def _list_label_folders(folder: Path) -> list[Path]:
    """Return the folders that label files lie below."""
    if (folder / "labels").is_dir():
        return [folder / "labels"]
    parts = [path for pattern in ("*/labels", "obj_*_data") for path in folder.glob(pattern)]
    return sorted(path for path in parts if path.is_dir())


def _locate(path: Path) -> tuple[Path, Path | None]:
    """Return the folder of a data set and the file with its classes; None where there is none."""
    if path.is_file():
        return path.parent, path if path.name in NAME_FILES else None
    for name in NAME_FILES:
        for folder in (path, path / "labels"):
            if (folder / name).is_file():
                return path, folder / name
    return path, None


def _read_classes(path: Path) -> Mapping[int, str]:
    """Return the names of the classes by number."""
    if path.name in CLASS_FILES:
        text = path.read_text(encoding="utf-8-sig", errors="replace")
        return dict(enumerate(line.strip() for line in text.rstrip().splitlines()))
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not YAML in UTF-8 ({error}); correct it") from None
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names:
        raise UserError(
            f"{path}: names, the classes by number, are missing; add names: with a line "
            "'0: NAME' for each class"
        )
    return {_to_number(path, key): str(name) for key, name in names.items()}


def _to_number(path: Path, key: Any) -> int:
    """Return the number of a class."""
    try:
        return int(key)
    except (TypeError, ValueError):
        raise UserError(
            f"{path}: names: {key!r} is no number of a class; expected 0, 1, ..."
        ) from None


def _read_ids(folder: Path) -> tuple[dict[str, str], list[Note]]:
    """Return the name of each image in the data set that it is from, by its label file.

    Label files are named by their path below labels/ without the ending, and by its last part where
    no other has the same.
    """
    path = folder / IMAGE_TABLE
    if not path.is_file():
        return {}, []
    ids: dict[str, str] = {}
    by_stem: dict[str, set[str]] = {}
    with path.open(encoding="utf-8-sig", newline="") as file:
        for row in csv.DictReader(file):
            name, id = row.get("file") or "", row.get("image")
            if id and "/" in name:
                key = name.split("/", 1)[1].rsplit(".", 1)[0]
                ids[key] = id
                by_stem.setdefault(key.rsplit("/", 1)[-1], set()).add(id)
    if not ids:
        why = f"{path.name}: has no columns file and image; images are named by their label files"
        return {}, [Note(why)]
    unique = {stem: min(given) for stem, given in by_stem.items() if len(given) == 1}
    return unique | ids, []


def _list_image_names(labels: Path) -> dict[str, str]:
    """Return the path of each image below the folder of images, by that path without its ending."""
    images = labels.parent / "images" if labels.name == "labels" else labels
    paths = (path.relative_to(images) for path in sorted(images.rglob("*")) if path.is_file())
    return {
        path.with_suffix("").as_posix(): path.as_posix() for path in paths if path.suffix != ".txt"
    }


class _LabelReader:
    """Reads label files, and counts their lines and those that can be used."""

    def __init__(self, folder: Path, classes: Mapping[int, str], odd: OddRecords) -> None:
        self.line_count = self.box_count = 0
        self._folder, self._classes, self._odd = folder, classes, odd

    def read(self, path: Path, name: str) -> CorrectedImage:
        """Return the boxes of a label file; `name` is that of its image."""
        where = path.relative_to(self._folder).as_posix()
        boxes: list[list[float]] = []
        names: list[str] = []
        before = self._odd.left_out_count
        for number, line in read_lines(path):
            self.line_count += 1
            try:
                label, box = self._parse(line)
            except BadRecord as error:
                self._odd.leave_out(f"{where}, line {number}", str(error))
                continue
            boxes.append(box)
            names.append(label)
        self.box_count += len(boxes)
        return CorrectedImage(
            name=name,
            size=None,
            boxes=np.array(boxes, np.float32).reshape(-1, 4),
            classes=names,
            are_predictions=[False] * len(boxes),
            where=where,
            are_fractions=True,
            unread=self._odd.left_out_count - before,
        )

    def _parse(self, line: str) -> tuple[str, list[float]]:
        """Return class and box of a line. Raise BadRecord where it cannot be used."""
        try:
            number, *sides = map(float, line.split())
        except ValueError:
            raise BadRecord("that are no numbers") from None
        if not all(map(math.isfinite, (number, *sides))):
            raise BadRecord("whose numbers are not finite")
        if number != int(number) or int(number) not in self._classes:
            raise BadRecord("of a class that has no name")
        return self._classes[int(number)], _to_box(sides)


def _to_box(sides: list[float]) -> list[float]:
    """Return x0, y0, x1, y1 as fractions, of a centre and size or of an outline."""
    if len(sides) == 4:
        x, y, width, height = sides
        box = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
    elif len(sides) >= 6 and len(sides) % 2 == 0:
        box = [min(sides[::2]), min(sides[1::2]), max(sides[::2]), max(sides[1::2])]
    else:
        raise BadRecord("that are neither class and box (5 numbers) nor class and outline")
    if max(box) > 1 + TOLERANCE or min(box) < -TOLERANCE:
        raise BadRecord("that stick out of the image: YOLO's numbers are fractions of it")
    box = [min(max(side, 0.0), 1.0) for side in box]
    if not (np.float32(box[0]) < np.float32(box[2]) and np.float32(box[1]) < np.float32(box[3])):
        raise BadRecord("whose box is empty")
    return box
