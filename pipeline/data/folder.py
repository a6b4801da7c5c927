"""Image folders: `train/<class>/*` and `val/<class>/*`, or one folder of classes, split by hash.

    data.root/
        train/n01440764/*.JPEG      a folder a class; below it any depth
        val/n01440764/*.JPEG        scored (also called valid, validation or test)
        classes.txt                 optional: folder name, then class name, a line each
        instances_val.json          optional: COCO boxes of the scored images, or data.boxes=FILE
        valid/n01440764/*.JPEG      with data.calibration=valid: never learned from, never scored,
        instances_valid.json        its boxes choose the threshold (stage calibrate)

Without `val` a fifth of the images, chosen by hash of their names, is scored.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from pipeline.data import listing
from pipeline.data.listing import File, Listing, OnDisk, Splits
from pipeline.errors import SkippedImage, UserError, suggest_choices
from pipeline.formats import coco, photo
from pipeline.formats.files import content_hash, read_lines
from pipeline.ops.text import list_some, printable
from pipeline.types import CocoIds, Crowds, GroundTruth, Size, Split

SCORED = ("val", "valid", "validation", "test")


@dataclass(frozen=True)
class Folder(OnDisk):
    root: str
    size: int | tuple[int, int] = 224  # what images are scaled to: one side, or height and width
    boxes: str | None = None  # COCO JSON of the scored images; None: instances_val.json if there
    val: float = 0.2  # scored share of the images where no folder is
    held_back: float = 0.1  # share of train that selects the best epoch
    calibration: str | None = None  # a folder beside train/: its boxes choose the threshold

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", listing.parse_input_size(self.size))
        listing.check_share("val", self.val)
        listing.check_share("held_back", self.held_back)
        if not Path(self.root).is_dir():
            what = "not a folder" if Path(self.root).exists() else "no such folder"
            raise UserError(
                f"data.root={self.root}: {what}; expected one with "
                "train/<class>/ and val/<class>/, or <class>/ folders of images"
            )
        if self.calibration is not None:
            self._check_calibration(self.calibration)

    def _check_calibration(self, name: str) -> None:
        inside = sorted(one.name for one in Path(self.root).iterdir() if one.is_dir())
        if name not in inside:
            raise UserError(
                f"data.calibration={name}: no such folder in data.root={self.root}; expected one "
                f"beside train/, with class folders of images; {suggest_choices(name, inside)}"
            )
        if name == "train":
            raise UserError(
                f"data.calibration={name}: a threshold is not chosen on images that are learned "
                "from; name a folder of others"
            )
        if "" in _split_folders(Path(self.root), name).values():
            raise UserError(
                f"data.calibration={name}: data.root={self.root} has no train/<class>/ beside it, "
                "so it would be a class; move the class folders into train/"
            )
        if _own_annotations(Path(self.root), name) is None:
            raise UserError(
                f"data.calibration={name}: instances_{name}.json is not in data.root={self.root}; "
                "its boxes (COCO JSON) are what the threshold is chosen on"
            )

    # -- images and labels

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self._names.get(folder, folder) for folder in self._found.folders)

    @property
    def splits(self) -> Splits:
        return self._found.splits

    @cached_property
    def _names(self) -> dict[str, str]:
        """Class names by folder, from classes.txt."""
        path = Path(self.root) / "classes.txt"
        names: dict[str, str] = {}
        for number, line in read_lines(path) if path.is_file() else ():
            # A tab lets folder names hold spaces.
            folder, _, name = line.partition("\t" if "\t" in line else " ")
            if folder in names:
                raise UserError(
                    f"{path}, line {number}: the folder {folder!r} is there twice; drop one line"
                )
            names[folder] = name.strip() or folder
        return names

    def _name_notes(self, folders: Sequence[str]) -> list[str]:
        """What classes.txt names and is not there, and the other way round."""
        if not self._names:
            return []
        unnamed = [folder for folder in folders if folder not in self._names]
        absent = [folder for folder in self._names if folder not in folders]
        notes = []
        if unnamed:
            what = list_some(unnamed, "class folder")
            notes.append(f"classes.txt: {what} without a line, named after the folder")
        if absent:
            notes.append(f"classes.txt: {list_some(absent, 'line')} for which no folder is")
        return notes

    @cached_property
    def _found(self) -> Found:
        root, notes = Path(self.root), list[str]()
        parts = {
            part: _by_class(root / name, name, notes)
            for part, name in _split_folders(root, self.calibration).items()
        }
        folders = sorted({name for part in parts.values() for name, files in part.items() if files})
        if self.calibration is not None:
            parts["calibration"] = _by_class(root / self.calibration, self.calibration, notes)
            if strange := sorted(set(parts["calibration"]) - set(folders)):
                what = list_some(strange, "class folder")
                notes.append(f"{self.calibration}: {what} that train and val do not have, left out")
        if not folders:
            raise UserError(
                f"data.root={self.root}: no image found; expected train/<class>/<image> and "
                "val/<class>/<image>, or <class>/<image>, in formats that Pillow reads"
                + "".join(f"\n  {note}" for note in notes[:10])
            )
        notes += self._name_notes(folders) + _layout_notes(parts, folders)
        names = tuple(self._names.get(folder, folder) for folder in folders)
        double = [name for name, times in Counter(names).items() if times > 1]
        if double:
            raise UserError(
                f"{root / 'classes.txt'}: the class name {double[0]!r} stands for several folders; "
                "give each its own"
            )

        train, val, calibration = (
            _listing([parts.get(part, {}).get(folder, []) for folder in folders], names)
            for part in ("train", "val", "calibration")
        )
        if "val" not in parts:
            train, val = listing.set_apart(train, self.val, "val")
        learned, held_back = listing.set_apart(train, self.held_back, "held_back")
        splits = Splits(learned, held_back, val, notes, calibration)
        return Found(folders, splits, "val" in parts)

    # -- annotations: for evaluate and calibrate, and the numbers that boxes.json uses

    @cached_property
    def annotations(self) -> Path | None:
        if self.boxes is not None:
            if not Path(self.boxes).is_file():
                raise UserError(f"data.boxes={self.boxes}: no such file; expected COCO JSON")
            return Path(self.boxes)
        return _own_annotations(Path(self.root), "val")

    @property
    def _calibration_file(self) -> Path | None:
        if self.calibration is None:
            return None
        return _own_annotations(Path(self.root), self.calibration)

    @cached_property
    def _calibration_boxes(self) -> Annotated | None:
        if self._calibration_file is None:
            return None
        return self._bring_together(self._calibration_file, self.splits.calibration.ids)

    @cached_property
    def _annotated(self) -> Annotated | None:
        if self.annotations is None:
            return None
        splits = self.splits
        # Where the user made the split, the file speaks of the scored images: a bare name in it
        # must not find an image of train.
        scored = splits.val if self._found.val_is_a_folder else splits.all
        return self._bring_together(self.annotations, scored.ids)

    def _bring_together(self, file: Path, scored: Sequence[str]) -> Annotated:
        names = (self._found.folders, self.classes)
        by_name = {name: n for each in names for n, name in enumerate(each)}
        return Annotated(coco.read(file), scored, self.splits.all, by_name)

    def coco_names(self, split: Split) -> CocoIds:
        """The annotation file's own ids and names where it knows the images, else from 1 on."""
        ids = self.ids(split)
        if self._annotated is None:
            return CocoIds(range(1, len(ids) + 1), ids, range(1, len(self.classes) + 1))
        return self._annotated.names(ids, len(self.classes))

    def truth(self, split: Split) -> Mapping[str, GroundTruth]:
        annotated = self._calibration_boxes if split == "calibration" else self._annotated
        known = {} if annotated is None else annotated.truth
        return {id: known[id] for id in self.ids(split) if id in known}

    def drawn(self, boxes: Path) -> Mapping[str, GroundTruth]:
        """Boxes that somebody drew on any of the images, for `calibrate` alone: COCO JSON."""
        return self._bring_together(boxes, self.splits.all.ids).truth

    def truth_notes(self) -> list[str]:
        both = (self._annotated, self._calibration_boxes)
        return [note for one in both if one is not None for note in one.notes]

    def truth_fingerprint(self, split: Split) -> str:
        file = self._calibration_file if split == "calibration" else self.annotations
        return content_hash(file)


# -- folders


@dataclass(frozen=True)
class Found:
    folders: Sequence[str]  # that have images, in the order of their names: the classes
    splits: Splits
    val_is_a_folder: bool


def _own_annotations(root: Path, split: str) -> Path | None:
    """Where a COCO file of a split lies when nobody names it."""
    name = f"instances_{split}.json"
    return next(
        (path for path in (root / name, root / "annotations" / name) if path.is_file()), None
    )


def _split_folders(root: Path, apart: str | None = None) -> dict[str, str]:
    """Which folder below the root holds which split; `""`, the root itself, where there is none.

    `apart`: a folder that is neither learned from nor scored."""
    inside = sorted(entry.name for entry in root.iterdir() if entry.is_dir())
    inside = [name for name in inside if name != apart]
    by_name = {name.lower(): name for name in reversed(inside)}
    scored = next((by_name[name] for name in SCORED if name in by_name), None)
    train = by_name.get("train")
    # One alone may as well be a class of that name; a split holds folders.
    if scored is None and (train is None or not _holds_folders(root / train)):
        return {"train": ""}
    if train is None and not _holds_folders(root / str(scored)):
        return {"train": ""}
    both = {"train": train, "val": scored}
    return {split: name for split, name in both.items() if name is not None}


def _layout_notes(
    parts: Mapping[str, Mapping[str, Sequence[File]]], folders: Sequence[str]
) -> list[str]:
    """What looks like a mistake in how the folders are laid out."""
    notes = []
    if len(folders) == 1:
        notes.append(
            f"all images are of one class, {folders[0]!r}: expected train/<class>/<image>, a "
            "folder a class; are the class folders one level deeper?"
        )
    if "train" in parts and "val" in parts:
        only = [name for name in folders if not parts["train"].get(name)]
        if only:
            what = list_some(only, "class")
            notes.append(f"{what} with images in val but none in train: it cannot be learned")
    return notes


def _holds_folders(folder: Path) -> bool:
    with suppress(OSError), os.scandir(folder) as scan:
        return any(os.path.isdir(entry.path) and entry.name[0] != "." for entry in scan)
    return False


def _by_class(folder: Path, prefix: str, notes: list[str]) -> dict[str, list[File]]:
    """Image files by the class folder they are in, those without left out."""
    try:
        with os.scandir(folder) as scan:
            entries = sorted(scan, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"{folder}: the folder cannot be read ({error.strerror})") from None
    found, loose = {}, []
    for entry in entries:
        name = printable(entry.name)
        path = f"{prefix}/{name}" if prefix else name
        if name.startswith("."):
            continue
        if os.path.isdir(entry.path):
            inside = listing.search(entry.path, path)
            notes += inside.notes
            if inside.files:
                found[name] = inside.files
            elif not inside.notes:
                notes.append(f"{path}: a class folder with no image, left out")
        elif entry.is_symlink() and not os.path.exists(entry.path):
            notes.append(f"{path}: a link to nothing, left out")
        elif listing.is_image_name(entry.name):
            loose.append(name)
    if loose:
        notes.append(f"{prefix or '.'}: {list_some(loose, 'image')} in no class folder, left out")
    return found


def _listing(by_class: Sequence[Sequence[File]], classes: Sequence[str]) -> Listing:
    labels = [n for n, files in enumerate(by_class) for _ in files]
    return Listing([file for files in by_class for file in files], labels, classes)


# -- annotations


class Annotated:
    """A COCO file brought together with our images and classes.

    An image is matched by its id, or by the end of it where only one of `scored` ends so; a
    category by class name or folder name. Raises UserError where nothing matches.
    """

    def __init__(
        self,
        file: coco.CocoFile,
        scored: Sequence[str],
        images: Listing,
        by_name: Mapping[str, int],
    ) -> None:
        self.file, self.listing = file, images
        self.classes = {number: by_name.get(name, -1) for number, name in file.categories.items()}
        # One category that is no class: boxes of objects, whatever they are.
        self.agnostic = len(self.classes) == 1 and set(self.classes.values()) == {-1}
        self.images, self.match_notes = self._matched(scored)
        self._check_categories(by_name)

    def _matched(self, scored: Sequence[str]) -> tuple[dict[str, coco.CocoImage], list[str]]:
        exact, path = set(self.listing.ids), self.file.path
        ends: dict[str, list[str]] = {}
        for id in scored:
            parts = id.split("/")
            for n in range(1, len(parts)):
                ends.setdefault("/".join(parts[n:]), []).append(id)
        matched: dict[str, coco.CocoImage] = {}
        missing: list[str] = []
        unclear: list[str] = []
        for image in self.file.images:
            name = image.file_name.removeprefix("./")
            # A file that we wrote has our ids; others have names with, say, a line break in them.
            own = next((n for n in (name, printable(name)) if n in exact or n in ends), "")
            ids = [own] if own in exact else ends.get(own, [])
            if len(ids) != 1:
                (unclear if ids else missing).append(image.file_name)
            elif ids[0] in matched:
                raise UserError(
                    f"{path}, images[{image.record}]: {image.file_name!r} is there twice, or names "
                    f"the same image as {matched[ids[0]].file_name!r}; drop one"
                )
            else:
                matched[ids[0]] = image
        if self.file.images and not matched:
            ours = self.listing.ids
            raise UserError(
                f"{path}: none of its {len(self.file.images)} images is in the data set; it names "
                f"{self.file.images[0].file_name!r}, the data set has {ours[0]!r}; file_name is "
                "to be the path below data.root, or the end of it where that is unique"
            )
        notes = []
        if not any(image.boxes for image in self.file.images):
            notes.append(f"{path.name}: holds no box, so nothing can be localized against it")
        if missing:
            notes.append(f"{path.name}: {list_some(missing, 'image')} not in the data set")
        if unclear:
            notes.append(
                f"{path.name}: {list_some(unclear, 'image')} with a name that several images "
                "of the data set end in, left out"
            )
        return matched, notes

    def _check_categories(self, by_name: Mapping[str, int]) -> None:
        if self.agnostic:
            (name,) = self.file.categories.values()
            self.match_notes.append(
                f"{self.file.path.name}: its one category {name!r} is no class of the data set: "
                "its boxes are taken as those of each image's own class"
            )
            return
        used = Counter(c for image in self.images.values() for c in image.categories)
        ours = sum(times for number, times in used.items() if self.classes[number] >= 0)
        names = [self.file.categories[n] for n in used if self.classes[n] < 0]
        if used and not ours:
            raise UserError(
                f"{self.file.path}: none of its categories is a class of the data set; it has "
                f"{names[0]!r}; name them alike, by class or by folder; "
                f"{suggest_choices(names[0], by_name)}"
            )
        if names:
            self.match_notes.append(
                f"{self.file.path.name}: {used.total() - ours} boxes are of categories that are no "
                f"class of the data set ({names[0]!r} for one)"
            )

    def names(self, ids: Sequence[str], class_count: int) -> CocoIds:
        """The file's own numbers and names, and free numbers for what it does not have."""
        free = max((image.id for image in self.file.images), default=0)
        numbers, names = [], []
        for id in ids:
            known = self.images.get(id)
            free += known is None
            numbers.append(free if known is None else known.id)
            names.append(id if known is None else known.file_name)
        own = {n: number for number, n in self.classes.items() if n >= 0}
        free = max(self.file.categories, default=0)
        categories = []
        for n in range(class_count):
            free += n not in own
            categories.append(own.get(n, free))
        return CocoIds(numbers, names, categories)

    @property
    def truth(self) -> dict[str, GroundTruth]:
        return self._truth[0]

    @property
    def notes(self) -> list[str]:
        return [*self.file.notes, *self.match_notes, *self._truth[1]]

    @cached_property
    def _truth(self) -> tuple[dict[str, GroundTruth], list[str]]:
        """Ground truth by id, and what was clipped."""
        found, clipped = {}, 0
        for file, label in zip(self.listing.files, self.listing.labels, strict=True):
            image = self.images.get(file.id)
            size = None if image is None else self._size(image, file)
            if image is None or size is None:
                continue
            boxes = image.boxes
            if image.size is None:
                each = [
                    coco.clip(box, size, f"{self.file.path}, annotations[{record}]")
                    for box, record in zip(image.boxes, image.records, strict=True)
                ]
                boxes, clipped = [box for box, _ in each], clipped + sum(out for _, out in each)
            masks = [mask for mask in image.masks if mask is not None]
            crowds = image.crowds
            found[file.id] = GroundTruth(
                file.id, label, size,
                np.asarray(boxes, np.float32).reshape(-1, 4),
                None
                if self.agnostic
                else np.asarray([self.classes[c] for c in image.categories], np.int64),
                masks if len(masks) == len(boxes) else None,
                Crowds(
                    np.array([one.box for one in crowds], np.float32),
                    None if self.agnostic
                    else np.array([self.classes[one.category] for one in crowds], np.int64),
                    [one.mask for one in crowds],
                ) if crowds else None,
            )  # fmt: skip
        return found, [coco.describe_clipped_boxes(self.file.path, clipped)] if clipped else []

    def _size(self, image: coco.CocoImage, file: File) -> Size | None:
        """The upright size of the image itself; the file's where the image cannot be read."""
        try:
            size = photo.read_size(file.path, name=file.id)
        except SkippedImage:
            return image.size
        if image.size not in (None, size):
            raise UserError(
                f"{self.file.path}, images[{image.record}]: says {_by(image.size)} for "
                f"{image.file_name!r}, which is {_by(size)} when upright; boxes are to be in "
                "pixels of the upright image: annotate it as it is now, or drop the record"
            )
        return size


def _by(size: Size | None) -> str:
    return "no size" if size is None else f"{size[1]} x {size[0]} (width x height)"
