"""Tar shards in the form of WebDataset, read without unpacking, local or over fsspec.

    data.shards='train-{000..099}.tar'       a .tar, a folder of them, braces, a glob, a list
    data.shards=s3://bucket/shards/          s3://, gs://, https:// by label2box[remote]
    data.val_shards='val-{00..09}.tar'       scored; without it shards named val, else a share

    000012.jpg 000012.cls                    cls: a number or a name; or .json with a field `label`,
                                             or .txt; classes.txt beside the shards names numbers

Each shard is indexed once; an image is read alone from its place. An image without a label is in
`test`: it gets boxes, and is neither trained on nor scored.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.data import listing
from pipeline.data.annotations import MatchedAnnotations, ReadsDrawn
from pipeline.data.archive_files import to_columns, to_table
from pipeline.data.file_table import FileTable
from pipeline.data.intensity import RangeOption
from pipeline.data.listing import Listing, OnDisk, Splits
from pipeline.data.negative_classes import find_negative_classes
from pipeline.data.published import check_unique
from pipeline.data.shard_labels import ShardLabels
from pipeline.data.shard_names import find_shards, name_shards
from pipeline.data.shard_samples import SampleOptions, Shard, check_image_key, read_shard
from pipeline.data.split_names import find_split_part
from pipeline.data.table_splits import SeveralRule, refuse_negatives
from pipeline.errors import UserError
from pipeline.formats import coco, stored
from pipeline.formats.coco_records import CrowdRule
from pipeline.formats.files import content_hash, find_spelling
from pipeline.ops.text import count_note, printable, to_nfc
from pipeline.types import CocoIds, GroundTruth, Split

if TYPE_CHECKING:
    from jaxtyping import Bool

READERS = 8  # threads that index shards at addresses
CLASS_FILE = "classes.txt"


@dataclass(frozen=True)
class ShardContents:
    """What is in the shards.

    Attributes:
        classes: The class names.
        splits: The listings.
    """

    classes: tuple[str, ...]
    splits: Splits


@dataclass(frozen=True)
class WebDataset(ReadsDrawn, OnDisk):
    """A data set (`pipeline.protocols.AnnotatedDataSet`) of images and labels in tar shards.

    Args:
        shards: A .tar, a folder of them, a glob, a pattern with braces, an address, or a list.
        val_shards: The same for the images that are scored; None: shards with a part `val` in
            their names, or else a share.
        size: What images are scaled to in pixels: a side of a square, or height and width.
        classes_file: Class names by number, a line each; None: classes.txt beside the shards.
        image_key: The ending of images, as `jpg` or `seg.png`; None: the first image of a sample.
        label_key: The ending of files of labels; None: the first of cls, json and txt.
        label_field: The field of .json files; None: the first of label, labels, cls, class,
            class_name and category.
        boxes: COCO JSON with boxes of the scored images, by their ids; None: no boxes.
        val: Share of the images that is scored where no shard is, from 0 to below 1.
        held_back: Share of the train images that selects the best epoch, from 0 to below 1.
        several: What is done where images have several labels: `refuse`, the shards are not used;
            `leave_out`, these images are not; `keep`, an image may have several classes, and each
            class is learned for itself.
        range: What pixels of more than 8 bits are scaled from to 0 to 255: [low, high]; None: the
            0.5 and 99.5 percentiles of training images.
        no_data: Values of such pixels that stand for no measurement, and become black.
        negatives: Names of the classes whose images show no object: they are learned as classes,
            and have no box.
        crowds: What annotations marked `iscrowd` are: `ignore`, regions that are not counted, or
            `objects` as all others.

    Raises:
        UserError: An option is out of range, there is no shard, or, once they are read, no image
            can be used.
    """

    shards: str | Sequence[str]
    val_shards: str | Sequence[str] | None = None
    size: int | tuple[int, int] = 224
    classes_file: str | None = None
    image_key: str | None = None
    label_key: str | None = None
    label_field: str | None = None
    boxes: str | None = None
    val: float = 0.2
    held_back: float = 0.1
    several: SeveralRule = "refuse"
    range: RangeOption = None
    no_data: float | Sequence[float] = ()
    negatives: Sequence[str] = ()
    crowds: CrowdRule = "ignore"

    def __post_init__(self) -> None:
        self._parse_image_options()
        listing.check_share("val", self.val)
        listing.check_share("held_back", self.held_back)
        for name in (self.classes_file, self.boxes):
            if name is not None and not find_spelling(Path(name)).is_file():
                option = "boxes" if name == self.boxes else "classes_file"
                raise UserError(f"data.{option}={name}: no such file")
        refuse_negatives(self.several, self.negatives)
        _ = self._locations

    @cached_property
    def _locations(self) -> tuple[dict[str, Split], list[str]]:
        """The split of each shard, and notes."""
        places: dict[str, Split] = {}
        notes = list[str]()
        for option, given in (("shards", self.shards), ("val_shards", self.val_shards)):
            if given is None:
                continue
            found, missing = find_shards(option, [given] if isinstance(given, str) else given)
            if missing:
                why = f"of data.{option} not there: left out"
                notes.append(count_note(missing, "shard", why, remedy="get them, or change it"))
            for place in found:
                part = find_split_part(os.path.basename(place)) or "train"
                if option == "val_shards":
                    part = "val"
                elif self.val_shards is not None and part == "val":
                    part = "train"
                places[place] = "val" if part == "val" else "test" if part == "test" else "train"
        if "val" not in places.values():
            places = {
                place: "val" if split == "test" and "train" in places.values() else split
                for place, split in places.items()
            }
        return places, notes

    # -- images and labels

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names: those of classes.txt that occur, in its order, or else sorted."""
        return self._contents.classes

    @property
    def is_multi_label(self) -> bool:
        """Whether an image may have several classes, and none excludes another."""
        return self.several == "keep"

    @property
    def splits(self) -> Splits:
        """The splits of the shards, or by hash of the ids."""
        return self._contents.splits

    @cached_property
    def _contents(self) -> ShardContents:
        places, notes = self._locations
        options = SampleOptions(self.image_key, self.label_key, self.label_field)
        shards = _read_all(list(places), options)
        check_image_key(shards, options)
        notes = [*notes, *_describe(shards)]
        columns = to_columns(
            [shard.files for shard in shards],
            name_shards(list(places)),
            [range(len(shard.labels)) for shard in shards],
        )
        table = to_table(columns)
        labels = ShardLabels.number(shards, self._read_names(list(places)))
        splits = np.repeat([*places.values()], [len(shard.labels) for shard in shards])
        notes += self._check_labels(table, labels)
        keep = self.is_multi_label
        is_usable = labels.counts > 0 if keep else labels.counts == 1
        train, val = (
            labels.select(table, (splits == split) & is_usable, keep) for split in ("train", "val")
        )
        is_test = (labels.counts == 0) | ((splits == "test") & is_usable)
        test = labels.select(table, is_test, keep)
        return ShardContents(labels.classes, self._split(train, val, test, notes))

    def _read_names(self, places: Sequence[str]) -> list[str]:
        """Return class names by number; none where no file has them."""
        if self.classes_file is not None:
            content = find_spelling(Path(self.classes_file)).read_bytes()
            where = self.classes_file
        else:
            where = f"{os.path.dirname(places[0]) or '.'}/{CLASS_FILE}"
            if not stored.exists(where):
                return []
            content = stored.read_bytes(where)
        try:
            lines = content.decode("utf-8-sig").split("\n")
        except UnicodeDecodeError:
            raise UserError(f"{where}: not UTF-8 text; save it as UTF-8") from None
        names = [to_nfc(line.strip()) for line in lines]
        while names and not names[-1]:
            names.pop()
        return list(check_unique(names, where))

    def _check_labels(self, table: FileTable, labels: ShardLabels) -> list[str]:
        """Return notes on images that cannot be used as they are labelled.

        Raises:
            UserError: No image has a label, or some have several and that is not allowed.
        """
        ids, notes = table.list_ids(), list[str]()
        several, without, unknown = (
            [ids[n] for n in np.flatnonzero(chosen).tolist()]
            for chosen in (labels.counts > 1, labels.counts == 0, labels.counts < 0)
        )
        if unknown:
            why = "with a label that is no class of classes.txt: left out"
            remedy = "correct classes.txt, or name another by data.classes_file"
            named = [f"{id}: {labels.shown(n)}" for id, n in _zip_chosen(ids, labels.counts < 0)]
            notes.append(count_note(named, "image", why, remedy=remedy))
        if several and not self.is_multi_label:
            why = f"of {len(ids)} have several labels"
            if self.several == "refuse":
                remedy = (
                    "data.several=keep learns each of them as an image of all its classes, "
                    "data.several=leave_out leaves them out"
                )
                text = count_note(several, "image", why, remedy=remedy)
                raise UserError(f"data.shards={self.shards}: {text}")
            notes.append(count_note(several, "image", f"{why}: left out"))
        if without:
            why = "without a label: neither trained on nor scored"
            remedy = "explain.split=all gives boxes to all images, explain.split=test to these"
            notes.append(count_note(without, "image", why, remedy=remedy))
        if not (labels.counts > 0).any():
            lines = "".join(f"\n  {note}" for note in notes)
            raise UserError(
                f"data.shards={self.shards}: no image has a label; expected name.cls, name.json "
                "or name.txt beside name.jpg; images without labels are given by images=FILE.tar"
                f"{lines}"
            )
        return notes

    def _split(self, train: Listing, val: Listing, test: Listing, notes: Sequence[str]) -> Splits:
        """Return the splits; where nothing is scored, a share of the train images is."""
        if not len(val.files):
            total = len(train.files)
            train, val = listing.set_apart(train, self.val, "val")
            if len(val.files):
                scored = f"{len(val.files)} of {total} images, chosen by hash of their names,"
                notes = [
                    *notes,
                    f"no shard that is scored: {scored} are scored and not trained on "
                    f"(data.val={self.val:g})",
                ]
        kept, held_back = listing.set_apart(train, self.held_back, "held_back")
        return Splits(kept, held_back, val, notes, test=test)

    def negative_classes(self) -> Sequence[str]:
        """Return the names of the classes whose images show no object.

        Raises:
            UserError: A name is of no class, or no class with an object is left.
        """
        return find_negative_classes(self.negatives, self.classes, self.classes)

    def coco_names(self, split: Split) -> CocoIds:
        """Return image and category numbers from 1 on, and ids as file names."""
        ids = self.ids(split)
        return CocoIds(range(1, len(ids) + 1), ids, range(1, len(self.classes) + 1))

    # -- annotations: for evaluate and calibrate

    @cached_property
    def _scored_boxes(self) -> MatchedAnnotations | None:
        if self.boxes is None:
            return None
        return self._match(find_spelling(Path(self.boxes)), self.ids("val"), True)

    def _match(self, file: Path, ids: Sequence[str], takes_predictions: bool) -> MatchedAnnotations:
        """Read a COCO file and match it with the images and classes."""
        by_name = {name: n for n, name in enumerate(self.classes)}
        content = coco.read(file, self.crowds)
        return MatchedAnnotations(
            content, ids, self.splits.all, by_name, takes_predictions=takes_predictions
        )

    def truth(self, split: Split) -> Mapping[str, GroundTruth]:
        """Return the annotations of `data.boxes` by image id; none where it is not given."""
        if self._scored_boxes is None:
            return {}
        ids = {*self.ids(split)}
        return {id: known for id, known in self._scored_boxes.truth.items() if id in ids}

    def truth_notes(self) -> list[str]:
        """Return what was unusual about the annotations, a line each."""
        return [] if self._scored_boxes is None else list(self._scored_boxes.notes)

    def truth_fingerprint(self, split: Split) -> str:
        """Hash the file of annotations; `none` where there is none."""
        if self.boxes is None:
            return "none"
        hashed = content_hash(find_spelling(Path(self.boxes)))
        return hashed + ("" if self.crowds == "ignore" else f"-{self.crowds}")

    def _read_drawn(self, file: Path) -> MatchedAnnotations:
        return self._match(file, self.splits.all.ids, False)


def _read_all(places: Sequence[str], options: SampleOptions) -> list[Shard]:
    """Read all shards; those at addresses several at a time."""
    if not any(map(stored.is_address, places)):
        return [read_shard(place, options) for place in places]
    with ThreadPoolExecutor(READERS) as readers:
        return list(readers.map(lambda place: read_shard(place, options), places))


def _describe(shards: Sequence[Shard]) -> list[str]:
    """Return notes on what cannot be used in shards, a line for each reason."""
    notes = [note for shard in shards for note in shard.files.notes]
    odd: dict[str, list[str]] = {}
    for shard in shards:
        name = printable(os.path.basename(shard.files.location))
        for why, names in shard.odd.items():
            odd.setdefault(why, []).extend(f"{name}: {each}" for each in names)
    ending = {why: "" if ": " in why else ": left out" for why in odd}
    return [*notes, *(count_note(each, "sample", why + ending[why]) for why, each in odd.items())]


def _zip_chosen(ids: Sequence[str], chosen: Bool[np.ndarray, n]) -> list[tuple[str, int]]:
    """Return the ids that are chosen, with their positions."""
    return [(ids[n], n) for n in np.flatnonzero(chosen).tolist()]
