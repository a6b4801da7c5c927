"""Boxes of a person in place of those that a program found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import suggest_classes
from pipeline.formats import human_boxes
from pipeline.ops.hashing import hash_file, hash_of
from pipeline.ops.text import count_note, count_notes, to_nfc
from pipeline.types import Boxes, FoundBoxes, HumanBoxes, Note, Size, WrongMark

if TYPE_CHECKING:
    from pipeline.types import ImageSource

UNKNOWN_SIZE = 0
FILE = "human_boxes.json"
"""In the folder of outputs: boxes of all data sets whose results lie there."""


def match_images(
    images: Sequence[HumanBoxes],
    wrong: Sequence[WrongMark],
    ids: Sequence[str],
    source: ImageSource,
) -> tuple[dict[str, HumanBoxes], list[Note]]:
    """Find the images that boxes of a person are of, by their content.

    Images may have been renamed or moved. An image that was changed since has lost its boxes. Where
    images of the random sample are marked as wrong and wait for a correction, the others would say
    that nearly all boxes are right: then none of them is random.

    Args:
        images: with boxes of a person.
        wrong: whose boxes a person called wrong.
        ids: the name of each image of the data set, by position.
        source: where the images are.

    Returns:
        The boxes by the present name of the image, and notes on images that were changed and on
        those that wait for a correction.
    """
    matched, lost = _match_content([*images, *wrong], ids, source)
    human = {id: image for id, image in matched.items() if isinstance(image, HumanBoxes)}
    waiting = [id for id, mark in matched.items() if isinstance(mark, WrongMark) and mark.is_random]
    notes = []
    if lost:
        why = "changed since a person reviewed it: the review is left out"
        remedy = "review them again, or restore the files"
        notes.append(count_note(lost, "image", why, where=FILE, remedy=remedy))
    if waiting and any(image.is_random for image in human.values()):
        human = {id: replace(image, is_random=False) for id, image in human.items()}
        why = (
            "of the random sample marked as wrong and not corrected yet: the reviewed images "
            "choose no threshold and calibrate nothing, as the wrong ones are missing"
        )
        remedy = "correct them in a tool, and ingest its file"
        notes.append(count_note(waiting, "image", why, where=FILE, remedy=remedy))
    return human, notes


def follow_renaming(
    human: Mapping[str, HumanBoxes], classes: Sequence[str], folders: Sequence[str]
) -> tuple[dict[str, HumanBoxes], list[Note]]:
    """Give boxes the present name of their class, where classes.txt renamed its folder.

    A class is the same if its folder is. A file that does not know the folders of its boxes may
    still name a class by its folder, as it was called without classes.txt. A name that another
    folder has now stays as it is: what the person meant cannot be known.

    Args:
        human: boxes of a person by the name of their image.
        classes: the present names of the classes.
        folders: the folder of each class; empty: the classes are no folders.

    Returns:
        The boxes, and notes on those whose class was renamed.
    """
    present = {to_nfc(name) for name in classes}
    name_of = {to_nfc(f): name for f, name in zip(folders, classes, strict=bool(folders))}
    renamed: list[str] = []
    moved: list[str] = []

    def find_name(image: HumanBoxes, n: int) -> str:
        before = image.classes[n]
        folder = to_nfc(image.folders[n] if image.folders else "") or to_nfc(before)
        now = name_of.get(folder, before)
        if to_nfc(now) == to_nfc(before):
            return before
        if to_nfc(before) in present:
            if image.folders and image.folders[n]:
                moved.append(f"{image.id}: {before}, of folder {folder}")
            return before
        renamed.append(f"{image.id}: {before}, now {now}")
        return now

    followed = {
        id: replace(image, classes=[find_name(image, n) for n in range(len(image.classes))])
        for id, image in human.items()
    }
    why = (
        "by a person of a class that has another name now: used under that, as its folder is the "
        "same"
    )
    doubt = "by a person of a class whose name is that of another folder now: used under that name"
    remedy = "if the person meant the folder, review these images again"
    kinds = [(renamed, why, ""), (moved, doubt, remedy)]
    return followed, count_notes(kinds, "box", where=FILE)


def _match_content(
    images: Sequence[HumanBoxes | WrongMark], ids: Sequence[str], source: ImageSource
) -> tuple[dict[str, HumanBoxes | WrongMark], list[str]]:
    """Return what is known of images by their present names, and the names of changed images."""
    matched: dict[str, HumanBoxes | WrongMark] = {}
    by_content = {image.content: image for image in images}
    contents: dict[str, set[str]] = {}  # of a name: data sets may share names
    for image in images:
        contents.setdefault(image.id, set()).add(image.content)
    position_of = {id: n for n, id in enumerate(ids) if id in contents}
    changed = []
    for id, position in position_of.items():
        content = image_content(source, position)
        if content in contents[id]:
            matched[id] = replace(by_content[content], id=id)
        else:
            changed.append(id)
    for image in matched.values():
        by_content.pop(image.content, None)
    sizes = {
        image.file_size if isinstance(image, HumanBoxes) else UNKNOWN_SIZE
        for image in by_content.values()
    }
    if by_content and len(matched) < len(images):
        for position, id in enumerate(ids):
            if id in matched or source.path(position) is None:
                continue
            if UNKNOWN_SIZE not in sizes and file_size(source, position) not in sizes:
                continue
            moved = by_content.get(image_content(source, position))
            if moved is not None:
                matched[id] = replace(moved, id=id)
    return matched, [id for id in changed if id not in matched]


def image_content(source: ImageSource, position: int) -> str:
    """Return a hash of an image's file, or of its pixels where it is drawn.

    Args:
        source: where the images are.
        position: of the image.
    """
    path = source.path(position)
    if path is None:
        return hash_of(["drawn", source.read(position).tobytes().hex()])
    stat = path.stat()
    return _hash_once(path, stat.st_size, stat.st_mtime_ns)


def file_size(source: ImageSource, position: int) -> int:
    """Return the bytes of an image's file; UNKNOWN_SIZE where it is drawn.

    Args:
        source: where the images are.
        position: of the image.
    """
    path = source.path(position)
    return UNKNOWN_SIZE if path is None else path.stat().st_size


@lru_cache(maxsize=1 << 17)
def _hash_once(path: Path, size: int, changed: int) -> str:
    """Return the hash of a file as it is at its size and time: several stages ask for it."""
    return hash_file(path)


def hash_boxes(images: Mapping[str, HumanBoxes]) -> str | None:
    """Return a hash of boxes of a person by the name of their image; None where there are none."""
    if not images:
        return None
    return hash_of([
        [id, image.content, image.boxes.tolist(), list(image.classes), image.is_random,
         *([] if image.masks is None else [list(image.masks)])]
        for id, image in sorted(images.items())
    ])  # fmt: skip


def load(path: Path) -> tuple[list[HumanBoxes], list[WrongMark]]:
    """Return the boxes of a file and its marks of wrong boxes; none where it does not exist.

    Raises:
        UserError: it is damaged.
    """
    return human_boxes.read(path) if path.is_file() else ([], [])


def replace_by_human(
    detections: FoundBoxes, human: Mapping[str, HumanBoxes]
) -> tuple[FoundBoxes, list[Note]]:
    """Put the boxes of a person in place of those that were found in the same images.

    Args:
        detections: all boxes.
        human: boxes of a person by the name of their image.

    Returns:
        All boxes, a note on these images, and one on boxes of classes that the run does not have,
        which are left out.
    """
    if not human:
        return detections, []
    number = {to_nfc(name): n for n, name in enumerate(detections.classes)}
    reviewed = {n: human[id] for n, id in enumerate(detections.ids) if id in human}
    unknown = [
        (image.id, name)
        for image in reviewed.values()
        for name in image.classes
        if to_nfc(name) not in number
    ]
    # Without its only boxes an image would say that there is no object.
    positions = {
        n: image
        for n, image in reviewed.items()
        if not len(image.classes) or any(to_nfc(name) in number for name in image.classes)
    }

    def boxes() -> Iterator[tuple[int, Boxes]]:
        pending = detections.boxes()
        item = next(pending, None)
        for position, size in detections.sizes():
            while item is not None and item[0] == position:
                if position not in positions:
                    yield item
                item = next(pending, None)
            if position in positions:
                for each in _by_class(positions[position], detections.ids[position], size, number):
                    yield position, each

    names = [detections.ids[position] for position in positions]
    instead = "have the boxes of a person in place of those that were found"
    undo = "human_boxes=none writes those"
    notes = [
        *count_notes([(names, instead, undo)], "image", where=FILE),
        *_note_unknown(unknown, detections.classes),
    ]
    return replace(detections, boxes=boxes), notes


def _note_unknown(unknown: Sequence[tuple[str, str]], classes: Sequence[str]) -> list[Note]:
    """Return a note on boxes, each an image and a class that the run does not have, if any."""
    why = (
        "by a person of a class that this run does not have: left out; where an image has no "
        "other, its found boxes stay"
    )
    remedy = (
        "add images of that class to the data set, rename it in the tool and ingest its file, or "
        "give its folder this name in classes.txt; "
        f"{suggest_classes([name for _, name in unknown], classes)}"
    )
    names = [f"{id}: {name}" for id, name in unknown]
    return count_notes([(names, why, remedy)], "box", where=FILE)


def _by_class(image: HumanBoxes, id: str, size: Size, number: Mapping[str, int]) -> Iterator[Boxes]:
    """Yield the boxes of each class; no box of the first class where a person saw no object."""
    labels = np.array([number.get(to_nfc(name), -1) for name in image.classes], int)
    kept = sorted(set(labels.tolist()) - {-1})
    for label in kept or [0]:
        rows = np.flatnonzero(labels == label) if kept else np.zeros(0, int)
        masks = None if image.masks is None else [image.masks[n] for n in rows.tolist()]
        complete = masks is not None and all(mask is not None for mask in masks)
        yield Boxes(
            id=id,
            label=label,
            boxes=image.boxes[rows],
            scores=np.ones(len(rows), np.float32),
            size=size,
            masks=[mask for mask in masks or () if mask is not None] if complete else None,
            is_human=True,
        )
