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
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pipeline.data.intensity import RangeOption
from pipeline.data.of_shards import OfShards, ShardContents
from pipeline.data.published import check_unique
from pipeline.data.shard_names import find_shards, name_shards
from pipeline.data.shard_samples import SampleOptions, Shard, check_image_key, read_shard
from pipeline.data.split_names import find_split_part
from pipeline.data.table_splits import SeveralRule
from pipeline.errors import UserError
from pipeline.formats import stored
from pipeline.formats.coco_records import CrowdRule
from pipeline.formats.files import find_spelling
from pipeline.ops.text import count_note, note_missing, printable, to_nfc
from pipeline.types import Split

READERS = 8  # threads that index shards at addresses
CLASS_FILE = "classes.txt"


@dataclass(frozen=True)
class WebDataset(OfShards):
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
        self._check_options()
        if self.classes_file and not find_spelling(Path(self.classes_file)).is_file():
            raise UserError(f"data.classes_file={self.classes_file}: no such file")
        _ = self._locations

    @cached_property
    def _locations(self) -> tuple[dict[str, Split], list[str]]:
        """The split of each shard, and notes."""
        places: dict[str, Split] = {}
        notes = list[str]()
        for option, given in (("shards", self.shards), ("val_shards", self.val_shards)):
            if given is None:
                continue
            listed, missing = find_shards(option, [given] if isinstance(given, str) else given)
            if missing:
                why = f"of data.{option} not there: left out"
                total, remedy = len(listed) + len(missing), "get them, or change it"
                notes.append(note_missing(missing, "shard", why, total, remedy=remedy))
            for place in listed:
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

    @property
    def _given(self) -> str:
        """The option that names the shards."""
        return f"data.shards={self.shards}"

    @cached_property
    def _contents(self) -> ShardContents:
        places, notes = self._locations
        options = SampleOptions(self.image_key, self.label_key, self.label_field)
        shards = _read_all(list(places), options)
        check_image_key(shards, options)
        names = self._read_names(list(places))
        prefixes = name_shards(list(places))
        notes = [*notes, *_describe(shards)]
        return self._sort(shards, prefixes, [*places.values()], names, notes)

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
