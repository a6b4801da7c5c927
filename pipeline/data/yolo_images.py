"""The images of a data set of YOLO with the classes of their label files, and boxes apart."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.data import image_search
from pipeline.data.left_out import LeftOut
from pipeline.data.table_images import TableBox, TableImage, TableImages
from pipeline.data.table_paths import AS_WRITTEN, FoundFile, PathFinder
from pipeline.data.yolo_layout import CLASS_FILES, YoloLayout
from pipeline.formats.files import read_lines
from pipeline.formats.odd_records import BadRecord, OddRecords
from pipeline.formats.yolo_labels import YoloLabels, read_labels
from pipeline.ops.text import count_note, note_missing, printable

MARKS = ("with an empty label file", "without a label file (labels/ beside images/)")
REMEDY = "their labels are read from labels/, beside images/, under the same names"


def label_path(image: str) -> str:
    """Return where the label file of an image is.

    Args:
        image: The path of the image; of its folders the last one called images counts.

    Examples:
        >>> label_path("/data/images/train/a.jpg"), label_path("/data/a.jpg")
        ('/data/labels/train/a.txt', '/data/a.txt')
    """
    path = "/labels/".join(image.rsplit("/images/", 1))
    return f"{os.path.splitext(path)[0]}.txt"


@dataclass
class _Odd:
    """What is counted while label files are read."""

    rows: OddRecords
    files: OddRecords
    without_file: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)


def read_images(layout: YoloLayout, notes_empty: bool = True) -> TableImages:
    """Find the images of all splits and read their label files.

    Args:
        layout: Where they are.
        notes_empty: Whether notes name the images without an object, which nobody else counts.

    Raises:
        UserError: A text file of paths cannot be read.
    """
    result, left_out = TableImages(notes=list(layout.notes), marks=MARKS), LeftOut()
    odd = _Odd(OddRecords("labels", "line"), OddRecords("labels", "file"))
    read: set[str] = set()
    for split, places in layout.splits.items():
        for place in places:
            for file in _find_files(place, layout.folder, left_out, result.notes):
                if file.path in result.images:
                    known = result.images[file.path]
                    known.splits = tuple(dict.fromkeys([*known.splits, split]))
                    continue
                labels = label_path(file.path)
                read.add(labels)
                row = _shorten(file.path, layout.folder)
                image = TableImage(file, row, (), (split,))
                _add_labels(image, labels, layout, odd)
                result.images[file.path] = image
    result.notes += [*left_out.notes(), *odd.files.notes(), *odd.rows.notes()]
    result.notes += _describe_missing(odd, len(result.images)) if notes_empty else ()
    result.notes += _describe_unused(read, layout.folder)
    return result


def _find_files(
    place: Path, folder: Path, left_out: LeftOut, notes: list[str]
) -> Iterator[FoundFile]:
    """Yield the images of a folder, or of a text file of paths."""
    if place.is_dir():
        shown = printable(_shorten(os.fspath(place), folder))
        for file in image_search.search(place, "" if shown == "." else shown, left_out).files:
            yield FoundFile(file.path, file.stamp, AS_WRITTEN)
        return
    beside = os.path.dirname(os.path.abspath(place))
    finder, missing = PathFinder(list(dict.fromkeys([os.fspath(folder), beside]))), list[str]()
    total = 0
    for number, line in read_lines(place):
        total += 1
        listed = finder.find(line)
        if listed is None:
            missing.append(f"line {number}: {line}")
        else:
            yield listed
    if missing:
        why = f"whose image is not there, looked for in {folder}: left out"
        remedy = "unpack the images again, or drop these lines"
        note = note_missing(missing, "line", why, total, where=place.name, remedy=remedy)
        notes.append(note)


def _shorten(path: str, folder: Path) -> str:
    """Return a path below the folder of the data set, or as it is."""
    inside = os.path.relpath(path, folder)
    return path if inside.startswith("..") else inside


def _add_labels(image: TableImage, path: str, layout: YoloLayout, odd: _Odd) -> None:
    """Add labels and boxes of a label file to an image. Count what cannot be used."""
    name = printable(_shorten(path, layout.folder))
    try:
        labels = read_labels(Path(path), layout.key_point_numbers)
    except BadRecord as error:
        odd.files.leave_out(name, str(error))
        image.is_unclear = True
        return
    if labels is None:
        odd.without_file.append(image.row)
        return
    _count_odd(labels, name, odd.rows)
    known = []
    for item in labels.objects:
        if item.number in layout.names:
            known.append(item)
        else:
            reason = f"whose class is none of the {len(layout.names)} of {layout.where}"
            odd.rows.leave_out(f"{name}, line {item.line}: {item.number}", reason)
    if not labels.objects and not labels.faults:
        odd.empty.append(image.row)
        image.is_background = True
    image.is_unclear = not known and not image.is_background
    numbers = sorted({item.number for item in known})
    image.labels = tuple(layout.names[number] for number in numbers)
    image.boxes = [
        TableBox(item.box, layout.names[item.number], f"{name}, line {item.line}", is_relative=True)
        for item in known
    ]


def _count_odd(labels: YoloLabels, name: str, odd: OddRecords) -> None:
    for line, reason in labels.faults:
        odd.leave_out(f"{name}, line {line}", reason)
    for line in labels.repeated:
        odd.leave_out(f"{name}, line {line}", "the same as one before")
    for line in labels.with_confidence:
        odd.repair(f"{name}, line {line}", "with a sixth number, as predictions have: not read")


def _describe_missing(odd: _Odd, total: int) -> Iterator[str]:
    """Yield notes on images without an object."""
    if odd.empty:
        why = f"of {total} with an empty label file: no object"
        yield count_note(odd.empty, "image", why)
    if odd.without_file:
        why = f"of {total} without a label file: taken as without an object"
        yield count_note(odd.without_file, "image", why, remedy=REMEDY)


def _describe_unused(read: set[str], folder: Path) -> Iterator[str]:
    """Yield a note on label files of images that are not there."""
    unused = []
    for place in sorted({os.path.dirname(path) for path in read}):
        names = sorted(os.listdir(place)) if os.path.isdir(place) else []
        unused += [
            printable(_shorten(path, folder))
            for path in (f"{place}/{name}" for name in names if name.endswith(".txt"))
            if path not in read and os.path.basename(path) not in CLASS_FILES
        ]
    if unused and len(unused) < 10 * len(read):  # else these are no label files
        total = len(read) + len(unused)
        remedy = "unpack the images again, or remove these files"
        why = "without an image: not used"
        yield note_missing(unused, "label file", why, total, remedy=remedy)


def count_classes(images: Mapping[str, TableImage]) -> set[str]:
    """Return the classes that some image has.

    Args:
        images: By their paths.
    """
    return {label for image in images.values() for label in image.labels}
