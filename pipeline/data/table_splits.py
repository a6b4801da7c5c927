"""The images of tables by class and split; what cannot be used is left out and counted."""

from __future__ import annotations

import difflib
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pipeline.data import hashed_splits, listing
from pipeline.data.listing import File, Listing, Splits
from pipeline.data.table_images import TableBox, TableImage, TableImages, describe_several
from pipeline.data.table_values import assign_splits, name_classes, split_joined, suggest_split
from pipeline.errors import UserError
from pipeline.ops.text import count_note, count_notes, fold_name, printable
from pipeline.types import Split

SeveralRule = Literal["refuse", "leave_out", "keep"]
"""What is done where images have several labels: the table is refused, they are left out, or they
are images of several classes."""
MissingRule = Literal["none", "unlabelled"]
"""What an image without a label is where images may have several: of no class, or not labelled."""


def refuse_negatives(several: SeveralRule, negatives: Sequence[str]) -> None:
    """Raise UserError where images of several classes and classes without an object meet.

    Args:
        several: Option `data.several`.
        negatives: Option `data.negatives`.

    Raises:
        UserError: Both are given.
    """
    if several == "keep" and negatives:
        raise UserError(
            f"data.negatives={list(negatives)}: with data.several=keep an image shows all that its "
            "labels name, so no class stands for images without an object; leave these classes, "
            "or data.several=keep, away"
        )


def refuse_missing(several: SeveralRule, missing: MissingRule | None) -> None:
    """Raise UserError where it is said what images of no class are, and each has one class.

    Args:
        several: Option `data.several`.
        missing: Option `data.missing`.

    Raises:
        UserError: The second is given without `keep` of the first.
    """
    if missing is not None and several != "keep":
        raise UserError(
            f"data.missing={missing}: it says what images without a label are where an image may "
            "have several (data.several=keep); give both, or leave data.missing away"
        )


# The split of an image that rows name in several: the first of these, so that no scored image, and
# none whose boxes choose the threshold, is learned from.
ORDER: tuple[Split, ...] = ("val", "calibration", "test", "train")


@dataclass(frozen=True, kw_only=True)
class SplitOptions:
    """How images are sorted into splits.

    Attributes:
        val: Share of the images that is scored where the table has no split that is.
        held_back: Share of the train images that selects the best epoch.
        val_split: The value of the split column that is scored; None: by its name.
        calibration: The value whose boxes choose the threshold; None: none.
        several: What is done with images of several labels.
        missing: What an image without a label is where images may have several: `none`, it shows no
            class; `unlabelled`, nobody knows; None: no class where a split is trained on or scored
            by name, as an image that nobody labelled is of no use there, and else not known.
    """

    val: float
    held_back: float
    val_split: str | None
    calibration: str | None
    several: SeveralRule
    missing: MissingRule | None = None


@dataclass(frozen=True)
class TableContents:
    """What was read from the tables.

    Attributes:
        classes: The class names.
        splits: The listings.
        boxes: Boxes by image id; images without any are not there.
        class_of: The class of each label.
        box_notes: What was left out of the boxes, a line each.
    """

    classes: tuple[str, ...]
    splits: Splits
    boxes: Mapping[str, Sequence[TableBox]]
    class_of: Mapping[str, int]
    box_notes: Sequence[str] = ()


@dataclass
class _Sorted:
    """Images by split, and notes."""

    by_split: dict[Split, list[TableImage]] = field(
        default_factory=lambda: {split: [] for split in ORDER}
    )
    notes: list[str] = field(default_factory=list)


def sort_images(
    read: TableImages,
    where: str,
    root: str,
    class_order: Sequence[str],
    options: SplitOptions,
) -> TableContents:
    """Sort the images of tables into classes and splits.

    Args:
        read: The images, and what was said of the tables already.
        where: The table, for messages.
        root: The folder that ids are relative to where all images are below it.
        class_order: Labels whose order is given.
        options: How they are sorted.

    Raises:
        UserError: No image is left, some have several labels and that is not allowed, or an option
            names a split that is not there.
    """
    sorted_images = _Sorted(notes=list(read.notes))
    images = list(read.images.values())
    usable = _leave_out_unclear(
        images, where, options.several, sorted_images, read.has_whole_labels
    )
    _assign(usable, where, options, sorted_images)
    labelled = {
        split: {label for image in of_split for label in image.labels}
        for split, of_split in sorted_images.by_split.items()
    }
    names = name_classes(labelled["train"] | labelled["val"], class_order)
    classes = tuple(names.values())
    class_of = {label: n for n, label in enumerate(names)}
    if options.several == "keep":
        sorted_images.notes += _find_background(sorted_images, where, options, read.marks)
    _move_unlabelled(sorted_images, where, class_of, options)
    if not classes:
        shown = "".join(f"\n  {note}" for note in sorted_images.notes[:10])
        raise UserError(
            f"{where}: no image with a label can be used; images without labels are given by "
            f"images={where}{shown}"
        )
    ids = _name_images([image for each in ORDER for image in sorted_images.by_split[each]], root)
    parts = {
        split: _list(of_split, ids, classes, class_of, options.several)
        for split, of_split in sorted_images.by_split.items()
    }
    boxes = {
        ids[image.file.path]: image.boxes
        for of_split in sorted_images.by_split.values() for image in of_split if image.boxes
    }  # fmt: skip
    splits = _split(parts, where, options, sorted_images.notes)
    return TableContents(classes, splits, boxes, class_of, read.box_notes)


def _list(
    images: Sequence[TableImage],
    ids: Mapping[str, str],
    classes: tuple[str, ...],
    class_of: Mapping[str, int],
    several_rule: SeveralRule,
) -> Listing:
    """Return the images as a listing; labels that are no class are left out."""
    numbers = [
        sorted({class_of[label] for label in image.labels if label in class_of}) for image in images
    ]
    return Listing(
        [File(ids[image.file.path], image.file.path, image.file.stamp) for image in images],
        [each[0] if each else -1 for each in numbers],
        classes,
        [tuple(each[1:]) for each in numbers] if several_rule == "keep" else None,
        [image.is_background for image in images] if several_rule == "keep" else None,
    )


def _leave_out_unclear(
    images: Sequence[TableImage],
    where: str,
    several_rule: SeveralRule,
    result: _Sorted,
    has_whole_labels: bool,
) -> list[TableImage]:
    """Return the images that may be used. Raise UserError where several labels are not allowed."""
    alone = {image.labels[0] for image in images if len(image.labels) == 1}
    for image in images:
        if len(image.labels) == 1 and "," in image.labels[0] and not has_whole_labels:
            image.labels = split_joined(image.labels[0], alone)
    if several_rule == "keep":
        result.notes += [] if has_whole_labels else _note_joined(images, where)
        return list(images)
    contradictory = [image for image in images if image.is_contradictory]
    several = [image for image in images if len(image.labels) > 1 and not image.is_contradictory]
    if several:
        text = describe_several(several, len(images), several_rule == "leave_out")
        if several_rule == "refuse":
            raise UserError(f"{where}: {text}")
        result.notes.append(f"{where}: {text}")
    if contradictory:
        rows = [
            f"{image.describe_rows()}: {', '.join(image.labels[:4])}" for image in contradictory
        ]
        why = "with another label in another row: left out"
        remedy = "keep the row that is right"
        result.notes.append(count_note(rows, "image", why, where=where, remedy=remedy))
    return [image for image in images if len(image.labels) < 2]


def _note_joined(images: Sequence[TableImage], where: str) -> list[str]:
    """Return a note where no image has several labels, and some may be several that were joined."""
    if any(len(image.labels) > 1 for image in images):
        return []
    labels = dict.fromkeys(label for image in images for label in image.labels)
    joined = [label for label in labels if "," in label or len(label.split()) > 1]
    if not joined:
        return []
    why = "with spaces or commas are a class each, and no image has several labels"
    remedy = (
        "where these are several labels of an image, join them by | or ;, give each a row, or name "
        "what joins them: 'data.label_separator=\" \"'"
    )
    return [count_note(joined, "label", why, where=where, remedy=remedy)]


def _assign(
    images: Sequence[TableImage], where: str, options: SplitOptions, result: _Sorted
) -> None:
    """Sort images into splits by the values of the split column. Count those of no split."""
    values = Counter(value for image in images for value in image.splits)
    chosen = assign_splits(
        [value for value in values if value], options.val_split, options.calibration
    )
    if not values:
        result.by_split["train"] += images
        return
    shared = list[str]()
    strange: dict[str, list[str]] = {}
    for image in images:
        splits = {chosen[value] for value in image.splits if value in chosen}
        if not splits:
            strange.setdefault(image.splits[0], []).append(image.row)
            continue
        shared += [f"{image.describe_rows()}: {', '.join(image.splits)}"] if len(splits) > 1 else []
        result.by_split[next(split for split in ORDER if split in splits)].append(image)
    for value, rows in strange.items():
        why = (
            f"of split {value!r}, which is none: left out" if value else "without a split: left out"
        )
        remedy = suggest_split(value) if value else "name the split of each, or of none"
        result.notes.append(count_note(rows, "image", why, where=where, remedy=remedy))
    if shared:
        why = "are named in several splits: used for the scored one alone, never learned from"
        result.notes.append(count_note(shared, "image", why, where=where))


def _find_background(
    result: _Sorted, where: str, options: SplitOptions, marks: tuple[str, str]
) -> list[str]:
    """Mark the images that show no class, and return notes on them.

    An image of `test` that merely lacks a label is not labelled: nothing asks for its label.

    Args:
        result: Images by split; their marks are set.
        where: The table, for messages.
        options: Of these `missing`.
        marks: How an image is labelled with no class, and how it lacks a label.
    """
    said, taken, total = list[str](), list[str](), sum(map(len, result.by_split.values()))
    for split, of_split in result.by_split.items():
        for image in of_split:
            if image.labels or image.boxes or image.is_unclear:
                image.is_background = False
            elif image.is_background:
                said.append(image.row)
            elif split != "test":
                is_named = any(image.splits)
                rule = options.missing or ("none" if is_named else "unlabelled")
                image.is_background = rule == "none"
                taken += [image.row] if image.is_background else []
    learned = "no class, and are learned and scored so"
    kinds = (
        (said, f"of {total} {marks[0]}: they show {learned}", ""),
        (taken, f"of {total} {marks[1]}: taken to show {learned}",
         "where they are not labelled yet, data.missing=unlabelled does neither"),
    )  # fmt: skip
    return [*count_notes(kinds, "image", where=where)]


def _move_unlabelled(
    result: _Sorted, where: str, class_of: Mapping[str, int], options: SplitOptions
) -> None:
    """Move images without a label into test, and leave out those that calibrate no class."""
    keeps = options.several == "keep"
    unlabelled: list[TableImage] = []
    for split in ("train", "val", "calibration"):
        of_split = result.by_split[split]
        is_used = [bool(image.labels) or (keeps and image.is_background) for image in of_split]
        pairs = [*zip(of_split, is_used, strict=True)]
        unlabelled += [image for image, used in pairs if not used]
        result.by_split[split] = [image for image, used in pairs if used]
    if unlabelled:
        why = "without a label: neither trained on nor scored"
        remedy = "explain.split=all gives boxes to all images, explain.split=test to these"
        if keeps and any(not image.is_unclear and not image.boxes for image in unlabelled):
            remedy += "; data.missing=none learns and scores them as images that show no class"
        rows = [image.row for image in unlabelled]
        result.notes.append(count_note(rows, "image", why, where=where, remedy=remedy))
    unknown = {label for i in result.by_split["test"] for label in i.labels} - set(class_of)
    if unknown:
        names = sorted(unknown)
        why = "of images that are not scored, which train and val do not have: without label there"
        result.notes.append(count_note(names, "class", why, where=where))
    result.by_split["test"] += unlabelled
    calibration = result.by_split["calibration"]
    strange = {label for image in calibration for label in image.labels} - set(class_of)
    if strange:
        why = "of the calibration images that train and val do not have: its images are left out"
        result.notes.append(count_note(sorted(strange), "class", why, where=where))
        result.by_split["calibration"] = [
            image for image in calibration
            if set(image.labels).intersection(class_of) or not image.labels
        ]  # fmt: skip


def _name_images(images: Sequence[TableImage], root: str) -> dict[str, str]:
    """Return an id for each path: the part below the root, or below the folder that all share."""
    paths = [image.file.path for image in images]
    folder = root
    if any(not path.startswith(f"{root.rstrip('/')}/") for path in paths):
        folder = os.path.commonpath([os.path.dirname(path) for path in paths])
    start = len(folder.rstrip("/")) + 1
    files = [
        File(printable(image.file.path[start:]), image.file.path, image.file.stamp)
        for image in images
    ]
    unique, _ = listing.make_ids_unique(files)
    return {file.path: file.id for file in unique}


def _split(
    parts: Mapping[Split, Listing], where: str, options: SplitOptions, notes: list[str]
) -> Splits:
    """Return the splits; where nothing is scored, a share of the train images is."""
    train, val = parts["train"], parts["val"]
    if not val.files:
        total = len(train.files)
        train, val = hashed_splits.set_apart(train, options.val, "val")
        scored = f"{len(val.files)} of {total} images, chosen by hash of their names,"
        notes.append(
            f"{where}: no split that is scored: {scored} are scored and not trained on "
            f"(data.val={options.val:g})"
            if val.files else
            f"{where}: no split that is scored, and data.val={options.val:g}: no image is scored"
        )  # fmt: skip
        remedy = "name a column of splits (data.split_column=NAME), or ask for more"
        notes += hashed_splits.describe_few(len(val.files), total, options.val, remedy)
    notes += _describe_classes(where, train, val, has_splits=bool(parts["val"].files))
    kept, held_back = hashed_splits.set_apart(train, options.held_back, "held_back")
    return Splits(kept, held_back, val, notes, parts["calibration"], parts["test"])


def _describe_classes(where: str, train: Listing, val: Listing, has_splits: bool) -> list[str]:
    """Return notes on classes that look like a mistake: alike, alone, or in one split only."""
    classes, notes = train.classes, list[str]()
    if len(classes) == 1 and not any(train.list_background()):
        notes.append(f"{where}: all images are of one class, {classes[0]!r}")
    folded: dict[str, list[str]] = {}
    for name in classes:
        # Without spaces beside punctuation, too: 'robin ,red' and 'robin, red'.
        folded.setdefault(re.sub(r"\s*([^\w\s])\s*", r"\1", fold_name(name)), []).append(name)
    if alike := [" and ".join(map(repr, names)) for names in folded.values() if len(names) > 1]:
        notes.append(
            f"{where}: {alike[0]} differ by case, spaces or hyphens alone and are different "
            "classes; write them alike if they are the same"
            + (f" (and {len(alike) - 1} more)" if len(alike) > 1 else "")
        )
    if has_splits and train.files:
        learned, scored = (_list_classes(each) for each in (train, val))
        unlearned = [classes[n] for n in scored if n not in set(learned)]
        unscored = [classes[n] for n in learned if n not in set(scored)]
        if unlearned:
            why = "with images that are scored but none to train on: not learned"
            near = difflib.get_close_matches(unlearned[0], unscored, 1, cutoff=0.8)
            remedy = f"is {unlearned[0]!r} meant to be {near[0]!r}?" if near else ""
            notes.append(count_note(unlearned, "class", why, where=where, remedy=remedy))
        if unscored:
            why = "with images to train on but none that are scored"
            notes.append(count_note(unscored, "class", why, where=where))
    return notes


def _list_classes(images: Listing) -> list[int]:
    """Return the classes that images have, ascending."""
    return sorted({*images.labels, *(n for others in images.list_others() for n in others)} - {-1})
