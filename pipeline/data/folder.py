"""Image folders: `train/<class>/*` and `val/<class>/*`, or one folder of classes, split by hash.

    data.root/
        train/n01440764/*.JPEG      a folder for each class, with images at any depth
        val/n01440764/*.JPEG        scored (also called valid, validation or test)
        classes.txt                 optional: names of the classes (class_names.py)
        instances_val.json          optional: COCO boxes of the scored images, or data.boxes=FILE
        test/n01440764/*.JPEG       beside val/: gets boxes, never trained on, not scored
        valid/n01440764/*.JPEG      with data.calibration=valid: never trained on, never scored,
        instances_valid.json        its boxes choose the threshold (stage calibrate)

Without `val` a fifth of the images, chosen by hash of their names, is scored; data.stratified,
data.split_file and data.near_duplicates choose them with more care (assigned_splits.py,
near_duplicates.py). Names are compared in Unicode form NFC; files are opened by their own spelling.
layout.py says which folders are splits.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from pipeline.data import (
    assigned_splits,
    folder_parts,
    hashed_splits,
    image_search,
    kept_splits,
    listing,
    near_duplicates,
)
from pipeline.data.annotations import MatchedAnnotations, ReadsDrawn
from pipeline.data.archive_files import is_stored
from pipeline.data.class_folders import count_beside_splits, find_tables, list_by_class
from pipeline.data.class_names import ClassNames, read_class_names
from pipeline.data.folder_index import check_unchanged
from pipeline.data.folder_parts import Parts
from pipeline.data.intensity import RangeOption
from pipeline.data.kept_splits import KeptSplits
from pipeline.data.layout import Layout, check_classes, describe_layout, read_layout
from pipeline.data.left_out import LeftOut
from pipeline.data.listing import File, Listing, OnDisk, Splits
from pipeline.data.near_duplicates import NearRule
from pipeline.data.negative_classes import find_negative_classes
from pipeline.data.stored_folder import FolderContents, describe_unused, read_folder
from pipeline.data.unscored_split import describe_unscored, label_unscored, list_unscored
from pipeline.errors import UserError, suggest_choices
from pipeline.formats import coco, stored
from pipeline.formats.coco_records import CrowdRule
from pipeline.formats.files import content_hash, find_spelling
from pipeline.ops.hashing import hash_of
from pipeline.ops.text import count_note, printable, to_nfc
from pipeline.types import CocoIds, GroundTruth, Split


@dataclass(frozen=True)
class Folder(ReadsDrawn, OnDisk):
    """A data set (`pipeline.protocols.AnnotatedDataSet`) of a folder of images for each class.

    Args:
        root: The folder with train/ and val/, or with the class folders; also a zip or tar archive
            of it, or an address, as s3://bucket/photos.
        size: What images are scaled to in pixels: a side of a square, or height and width.
        boxes: COCO JSON with boxes of the scored images; None: instances_NAME.json of the scored
            folder, else instances_val.json, in the root or its folder annotations/, if any.
        val: Share of the images that is scored where there is no val/, from 0 to below 1.
        held_back: Share of the train images that selects the best epoch, from 0 to below 1.
        calibration: A folder beside train/ whose boxes choose the threshold; None: no such split.
        range: What pixels of more than 8 bits are scaled from to 0 to 255: [low, high]; None: the
            0.5 and 99.5 percentiles of training images.
        no_data: Values of such pixels that stand for no measurement, and become black.
        crowds: What annotations marked `iscrowd` are: `ignore`, regions that are not counted, or
            `objects` as all others.
        negatives: Names of the classes, or of their folders, whose images show no object: they are
            learned as classes, and have no box.
        val_folder: The folder that is scored; None: the first of val, valid, validation and test.
        calibration_share: Share of the images that are not scored whose boxes choose the threshold,
            where there is no val/, from 0 to below 1.
        stratified: Whether each class has the shares to one image; false: each image is drawn by
            hash of its name.
        split_file: CSV that keeps which split each image is in, so that none moves when others are
            added or removed: written where it is not there; None: no such file.
        near_duplicates: Images that look the same: `report`, they are named where they lie in
            several splits; `together`, they are kept in one split; None: they are not looked for.

    Raises:
        UserError: An option is out of range, a folder or file is missing, or, once they are read,
            the images or annotations do not fit together.
    """

    root: str
    size: int | tuple[int, int] = 224
    boxes: str | None = None
    val: float = 0.2
    held_back: float = 0.1
    calibration: str | None = None
    range: RangeOption = None
    no_data: float | Sequence[float] = ()
    crowds: CrowdRule = "ignore"
    val_folder: str | None = None
    negatives: Sequence[str] = ()
    calibration_share: float = 0.0
    stratified: bool = False
    split_file: str | None = None
    near_duplicates: NearRule | None = None

    def __post_init__(self) -> None:
        self._parse_image_options()
        for name in ("val", "held_back", "calibration_share"):
            listing.check_share(name, getattr(self, name))
        near_duplicates.check_rule(self.near_duplicates)
        if not stored.is_address(self.root):
            object.__setattr__(self, "root", str(find_spelling(Path(self.root))))
        if self._is_stored:
            self._check_stored()
            return
        if not Path(self.root).is_dir():
            what = "not a folder" if Path(self.root).exists() else "no such folder"
            raise UserError(
                f"data.root={self.root}: {what}; expected one with train/<class>/ and "
                "val/<class>/, or <class>/ folders of images, or a zip or tar archive of it"
            )
        image_search.refuse_results(f"data.root={self.root}", self.root)
        if self.calibration is not None:
            self._check_calibration(self.calibration)
        if self.val_folder is not None:
            _ = self._layout
        if self.calibration_share:
            self._check_calibration_share()

    @cached_property
    def _is_stored(self) -> bool:
        """Whether the folder is in an archive, or at an address."""
        return is_stored(self.root)

    def _check_stored(self) -> None:
        """Raise UserError for an option that a folder in an archive cannot have."""
        if self.calibration is not None:
            raise UserError(
                f"data.calibration={self.calibration}: data.root={self.root} is no local folder, "
                "and the boxes of this split would not be found; unpack or download it"
            )
        if self.calibration_share:
            self._check_calibration_share()

    @cached_property
    def _stored(self) -> FolderContents:
        """The files in the archive or at the address."""
        return read_folder(self.root)

    def _check_calibration(self, name: str) -> None:
        """Raise UserError unless the folder can be a split of its own and has annotations."""
        folders = sorted(to_nfc(e.name) for e in Path(self.root).iterdir() if e.is_dir())
        if to_nfc(name) not in folders:
            raise UserError(
                f"data.calibration={name}: no such folder in data.root={self.root}; expected one "
                f"beside train/, with class folders of images; {suggest_choices(name, folders)}"
            )
        if name == "train":
            raise UserError(
                f"data.calibration={name}: a threshold is not chosen on images that are learned "
                "from; name a folder of others"
            )
        if self._layout.is_of_classes:
            raise UserError(
                f"data.calibration={name}: data.root={self.root} has no train/<class>/ beside it, "
                "so it would be a class; move the class folders into train/"
            )
        if _find_annotations(Path(self.root), name) is None:
            raise UserError(
                f"data.calibration={name}: instances_{name}.json is not in data.root={self.root}; "
                "its boxes (COCO JSON) are what the threshold is chosen on"
            )

    def _check_calibration_share(self) -> None:
        """Raise UserError unless images that are drawn can choose the threshold by their boxes."""
        given = f"data.calibration_share={self.calibration_share:g}"
        if self.calibration is not None:
            raise UserError(
                f"{given}: data.calibration={self.calibration} has these images; give one"
            )
        if self._layout.val is not None:
            raise UserError(
                f"{given}: data.root={self.root} has {self._layout.val}/, whose boxes are of its "
                "own images; data.calibration=FOLDER names one whose boxes choose the threshold"
            )
        if self.annotations is None:
            raise UserError(
                f"{given}: there are no boxes that could choose a threshold; data.boxes=FILE (COCO "
                "JSON) gives those of any of the images"
            )

    # -- images and labels

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the class folders' names."""
        return self._contents.classes

    @property
    def splits(self) -> Splits:
        """The splits as the folders have them, or by hash of the ids."""
        return self._contents.splits

    @cached_property
    def _layout(self) -> Layout:
        root = self._stored.tree if self._is_stored else Path(self.root)
        return read_layout(root, self.calibration, self.val_folder)

    @cached_property
    def _contents(self) -> KeptSplits:
        """What is in the folders; of a large set as it was kept, where no folder changed."""
        if self._is_stored:
            return self._read_stored()
        path = self._kept_file
        content = None if path is None else kept_splits.load(path, self.root)
        if content is None:
            content, left_out = self._search()
            # What links lead to may change without a folder of the root.
            if path is not None and not left_out.links:
                kept_splits.save(path, self.root, content, left_out.searched)
        return content

    @cached_property
    def _kept_file(self) -> Path | None:
        boxes = None if self.boxes is None else os.path.abspath(self.boxes)
        options = [boxes, self.val, self.held_back, self.calibration, self.val_folder,
                   self.calibration_share, self.stratified, self.near_duplicates]  # fmt: skip
        if self.split_file is not None:
            options.append(content_hash(Path(self.split_file)))
        return kept_splits.find_file(self.root, options)

    @cached_property
    def _may_be_kept(self) -> bool:
        parts = [getattr(self.splits, part) for part in kept_splits.PARTS]
        return sum(len(part.files) for part in parts) >= kept_splits.MIN_KEPT

    def _check_file(self, file: File) -> None:
        if not self._is_stored and self._may_be_kept:
            check_unchanged(file, self._kept_file)

    def _read_stored(self) -> KeptSplits:
        """Return what is in the folders of an archive or address."""
        contents, layout = self._stored, self._layout
        left_out = contents.left_out
        parts = {
            part: contents.list_by_class(name, left_out) for part, name in layout.splits.items()
        }
        folders = sorted({name for part in parts.values() for name in part})
        used = (*layout.splits.values(), layout.test)
        notes: list[str] = [*contents.stored.notes]
        test = Listing((), (), ())
        if layout.test is not None:
            test = label_unscored(layout.test, contents.list_below(layout.test), folders)
            notes += describe_unscored(layout, test)
        notes += [*left_out.notes(), *check_classes(layout, folders)]
        notes += describe_layout(layout, folders)
        if not layout.is_of_classes:
            notes += describe_unused(contents, used)
        if not folders:
            raise UserError(
                f"data.root={self.root}: no image in a class folder; expected "
                "train/<class>/<image> and val/<class>/<image>, or <class>/<image>"
            )
        names = contents.read_class_names(folders)
        notes += [*names.notes, *folder_parts.describe_parts(parts, folders)]
        classes = self._name_classes(names, folders)
        splits = self._split(parts, folders, classes, notes)
        return KeptSplits(folders, classes, replace(splits, test=replace(test, classes=classes)))

    def _search(self) -> tuple[KeptSplits, LeftOut]:
        """Return what is in the folders, and what the search of them left out."""
        root, layout = Path(self.root), self._layout
        boxes = [] if self.boxes is None else [os.path.abspath(find_spelling(Path(self.boxes)))]
        left_out = LeftOut(tables={*find_tables(root), *boxes})
        parts = {
            part: list_by_class(root / name, printable(name), left_out)
            for part, name in layout.splits.items()
        }
        folders = sorted({name for part in parts.values() for name, files in part.items() if files})
        train, val = (folder_parts.list_files(parts, part) for part in ("train", "val"))
        image_search.count_shared(train, val, left_out)
        if not layout.is_of_classes:
            searched = {*layout.splits.values(), layout.calibration, layout.test, *layout.unused}
            count_beside_splits(root, searched, left_out)
        notes, test = list[str](), Listing((), (), ())
        if layout.test is not None:
            test = list_unscored(root / layout.test, folders, left_out)
            notes += describe_unscored(layout, test)
        if layout.calibration is not None:
            name = printable(layout.calibration)
            calibration = list_by_class(root / layout.calibration, name, left_out)
            parts["calibration"] = calibration
            if unknown := sorted(set(calibration) - set(folders)):
                why = "that train and val do not have, left out"
                notes.append(count_note(unknown, "class folder", why, where=name))
        notes = [*left_out.notes(), *notes, *check_classes(layout, folders)]
        notes += describe_layout(layout, folders, left_out.tables)
        if not folders:
            raise UserError(
                f"data.root={self.root}: no image found; expected train/<class>/<image> and "
                "val/<class>/<image>, or <class>/<image>, in formats that Pillow reads"
                + "".join(f"\n  {note}" for note in notes[:10])
            )
        names = read_class_names(root / "classes.txt", folders)
        notes += [*names.notes, *folder_parts.describe_parts(parts, folders)]
        classes = self._name_classes(names, folders)
        splits = self._split(parts, folders, classes, notes)
        splits = replace(splits, test=replace(test, classes=classes))
        return KeptSplits(folders, classes, splits), left_out

    def class_folders(self) -> Sequence[str]:
        """Return the name of the folder of each class, in the order of `classes`."""
        return self._contents.folders

    def negative_classes(self) -> Sequence[str]:
        """Return the names of the classes whose images show no object.

        Raises:
            UserError: A name is of no class, or no class with an object is left.
        """
        return find_negative_classes(self.negatives, self._contents.folders, self.classes)

    def _name_classes(self, names: ClassNames, folders: Sequence[str]) -> tuple[str, ...]:
        """Return a class name for each folder. Raise UserError for equal names of classes."""
        classes = tuple(names.names.get(folder, folder) for folder in folders)
        double = [name for name, times in Counter(classes).items() if times > 1]
        if double:
            path = Path(self.root) / "classes.txt"
            raise UserError(
                f"{path}: the class name {double[0]!r} stands for several folders; "
                "give each its own"
            )
        return classes

    def _split(
        self, parts: Parts, folders: Sequence[str], classes: Sequence[str], notes: Sequence[str]
    ) -> Splits:
        """Return the listings of the splits."""
        train, val, calibration = (
            folder_parts.join_classes([of_part.get(folder, []) for folder in folders], classes)
            for of_part in (parts.get(part, {}) for part in ("train", "val", "calibration"))
        )
        total, notes = len(train.files), [*notes]
        drawn: dict[Split, float] = {} if "val" in parts else {"val": self.val}
        if self.calibration_share:
            drawn["calibration"] = self.calibration_share
        drawn["held_back"] = self.held_back
        drawn_parts = self._draw(train, drawn, notes)
        val = drawn_parts.get("val", val)
        calibration = drawn_parts.get("calibration", calibration)
        if "val" not in parts:
            scored = len(val.files)
            if not self._layout.is_of_classes:
                notes.append(folder_parts.describe_share(scored, total, self.val))
            if not self.stratified and self.split_file is None:
                remedy = "data.stratified=true gives each class its share"
                notes += hashed_splits.describe_few(scored, total, self.val, remedy)
        return Splits(drawn_parts["train"], drawn_parts["held_back"], val, notes, calibration)

    def _draw(
        self, images: Listing, shares: Mapping[Split, float], notes: list[str]
    ) -> dict[Split, Listing]:
        """Assign images that no folder gives a split to one; note what is unusual."""
        file = None if self.split_file is None else Path(os.path.expanduser(self.split_file))
        known = {} if file is None else assigned_splits.read_record(file)
        groups, leaders = list[list[int]](), None
        if self.near_duplicates is not None:
            groups = near_duplicates.find_groups(images.files, self.root)
        if self.near_duplicates == "together":
            leaders = near_duplicates.number_leaders(len(images.files), groups)
        rule = assigned_splits.Shares([*shares], [*shares.values()], self.stratified)
        parts = assigned_splits.assign(images, rule, leaders, known)
        if file is not None:
            notes += assigned_splits.describe_record(file, known, images.ids, parts)
            assigned_splits.write_record(file, known, parts)
        if self.near_duplicates is not None:
            notes += near_duplicates.describe_groups(images, groups, parts, self.near_duplicates)
        return parts

    # -- annotations: for evaluate and calibrate, and the numbers that boxes.json uses

    @cached_property
    def annotations(self) -> Path | None:
        """The COCO file of the scored images; None where there is none.

        Raises:
            UserError: `data.boxes` names a file that does not exist.
        """
        if self.boxes is not None:
            path = find_spelling(Path(self.boxes))
            if not path.is_file():
                raise UserError(f"data.boxes={self.boxes}: no such file; expected COCO JSON")
            return path
        return _find_annotations(Path(self.root), *filter(None, (self._layout.val, "val")))

    @property
    def _calibration_file(self) -> Path | None:
        if self.calibration is None:
            return self.annotations if self.calibration_share else None
        return _find_annotations(Path(self.root), self.calibration)

    @cached_property
    def _calibration_boxes(self) -> MatchedAnnotations | None:
        if self._calibration_file is None:
            return None
        if self.calibration is None:
            return self._scored_boxes  # of a share of the same images
        return self._match(self._calibration_file, self.splits.calibration.ids)

    @cached_property
    def _scored_boxes(self) -> MatchedAnnotations | None:
        if self.annotations is None:
            return None
        splits = self.splits
        # Where val is a folder, the file describes its images: the end of a path in it must not
        # match an image of train.
        scored = splits.used if self._layout.val is None else splits.val
        drawn = splits.calibration.ids if self.calibration_share else []
        return self._match(self.annotations, scored.ids, [*splits.val.ids, *drawn])

    def _match(
        self,
        file: Path,
        scored: Sequence[str],
        measured: Sequence[str] | None = None,
        takes_predictions: bool = True,
    ) -> MatchedAnnotations:
        """Read a COCO file and match it with the images and classes."""
        names = (self._contents.folders, self.classes)
        by_name = {name: n for each in names for n, name in enumerate(each)}
        content = coco.read(file, self.crowds)
        return MatchedAnnotations(
            content, scored, self.splits.all, by_name, measured, takes_predictions
        )

    def coco_names(self, split: Split) -> CocoIds:
        """Return ids and names as in the annotation file, and free numbers for what it lacks.

        Without an annotation file, numbers are from 1 on and file names are the ids.
        """
        ids = self.ids(split)
        if self._scored_boxes is None:
            return CocoIds(range(1, len(ids) + 1), ids, range(1, len(self.classes) + 1))
        return self._scored_boxes.coco_names(ids, len(self.classes))

    def coco_names_fingerprint(self, split: Split) -> str:
        """Hash what the numbers and names follow from: those of the annotation file, or the ids."""
        if self.annotations is None:
            return hash_of([self.fingerprint(split), self.fingerprint("all")])
        return hash_of([*map(list, vars(self.coco_names(split)).values())])

    def truth(self, split: Split) -> Mapping[str, GroundTruth]:
        """Return annotations by image id; images that the file does not have are left out.

        Raises:
            UserError: The annotation file cannot be read, or does not fit the images or classes.
        """
        matched = self._calibration_boxes if split == "calibration" else self._scored_boxes
        truth = {} if matched is None else matched.truth
        return {id: truth[id] for id in self.ids(split) if id in truth}

    def _read_drawn(self, file: Path) -> MatchedAnnotations:
        return self._match(file, self.splits.all.ids, takes_predictions=False)

    def truth_notes(self) -> list[str]:
        """Return what was unusual about the annotations, a line each."""
        matched = [self._scored_boxes]
        if self.calibration is not None:
            matched.append(self._calibration_boxes)
        return [note for boxes in matched if boxes is not None for note in boxes.notes]

    def truth_fingerprint(self, split: Split) -> str:
        """Hash the annotation file of a split; `none` where there is none."""
        file = self._calibration_file if split == "calibration" else self.annotations
        return content_hash(file) + ("" if self.crowds == "ignore" else f"-{self.crowds}")


# -- folders


def _find_annotations(root: Path, *splits: str) -> Path | None:
    """Return the COCO file of the first split that has one and that no option names, or None."""
    names = [f"instances_{split}.json" for split in splits]
    paths = [path for name in names for path in (root / name, root / "annotations" / name)]
    places = map(find_spelling, paths)
    return next((path for path in places if path.is_file()), None)
