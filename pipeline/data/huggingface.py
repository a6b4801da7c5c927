"""Data sets of the Hugging Face Hub by name, through `datasets` (label2box[huggingface]).

    data.name=OWNER/NAME              of the Hub; data.subset: one of its configurations
    data.name=FOLDER                  what `save_to_disk` wrote, or any folder that it can load

The columns of images and labels are those of the features Image and ClassLabel; a list of
ClassLabel gives several labels. Boxes are those of a COCO file (`data.boxes`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from typing import Any

from pipeline.data.arrow_files import choose_columns, read_file
from pipeline.data.intensity import RangeOption
from pipeline.data.of_shards import OfShards, ShardContents
from pipeline.data.shard_samples import Shard
from pipeline.data.table_splits import SeveralRule
from pipeline.data.table_values import assign_splits
from pipeline.errors import UserError
from pipeline.formats.coco_records import CrowdRule
from pipeline.formats.stored import open_arrow, stamp_of
from pipeline.ops.text import count_note, printable
from pipeline.types import Split

SAVED = ("dataset_dict.json", "state.json")  # what save_to_disk writes


@dataclass(frozen=True)
class HuggingFace(OfShards):
    """A data set (`pipeline.protocols.AnnotatedDataSet`) that the library `datasets` loads.

    Args:
        name: Of the Hub, as OWNER/NAME, or a folder.
        subset: The configuration, where the data set has several.
        size: What images are scaled to in pixels: a side of a square, or height and width.
        image_column: The column of images; None: the one of the feature Image.
        label_column: The column of labels; None: the one of the feature ClassLabel, or `label`.
        val_split: The split that is scored; None: validation, or else the test.
        calibration: A split whose boxes choose the threshold; None: no such split.
        boxes: COCO JSON with boxes of the images, by their ids; None: no boxes.
        val: Share of the images that is scored where no split is, from 0 to below 1.
        held_back: Share of the train images that selects the best epoch, from 0 to below 1.
        several: What is done where images have several labels: `refuse`, the data set is not used;
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
        UserError: An option is out of range, `datasets` is not installed, or, once images are asked
            for, the data set cannot be loaded or used.
    """

    name: str
    subset: str | None = None
    size: int | tuple[int, int] = 224
    image_column: str | None = None
    label_column: str | None = None
    val_split: str | None = None
    calibration: str | None = None
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
        if find_spec("datasets") is None:
            raise UserError(
                f"{self._given}: the library `datasets` is not installed; "
                "pip install 'label2box[huggingface]'"
            )

    @property
    def _given(self) -> str:
        """The option that names the data set."""
        return f"data.name={self.name}"

    @cached_property
    def _loaded(self) -> Mapping[str, Any]:
        """The splits as `datasets` has them."""
        import datasets

        try:
            if any(os.path.isfile(os.path.join(self.name, file)) for file in SAVED):
                loaded = datasets.load_from_disk(self.name)
            else:
                loaded = datasets.load_dataset(self.name, self.subset)
        except Exception as error:  # it raises errors of many kinds
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise UserError(
                f"{self._given}: `datasets` cannot load it ({reason}); expected OWNER/NAME of the "
                "Hub, or a folder that save_to_disk wrote; data.subset names a configuration"
            ) from error
        return loaded if isinstance(loaded, Mapping) else {"train": loaded}

    @cached_property
    def _contents(self) -> ShardContents:
        loaded = self._loaded
        features = next(iter(loaded.values())).features
        columns = choose_columns(features, self.image_column, self.label_column, self._given)
        chosen = assign_splits([*loaded], self.val_split, self.calibration)
        notes = list[str]()
        if unused := [name for name in loaded if name not in chosen]:
            why = "which is neither train, validation nor test: not used"
            remedy = f"data.val_split={unused[0]} scores one"
            notes.append(count_note(unused, "split", why, remedy=remedy))
        shards, prefixes, splits = list[Shard](), list[str](), list[Split]()
        for name, split in chosen.items():
            for number, path in enumerate(_list_files(loaded[name], name, self._given)):
                shard = read_file(path, columns)
                shards.append(shard)
                prefixes.append(f"{printable(name)}-{number}")
                splits.append(split)
                notes += _describe_odd(prefixes[-1], shard)
        return self._sort(shards, prefixes, splits, columns.names, notes)


def _list_files(dataset: Any, split: str, where: str) -> list[str]:
    """Return the Arrow files of a split. Raise UserError where they hold other rows than it."""
    paths = [str(each["filename"]) for each in dataset.cache_files]
    rows = sum(open_arrow(path, *stamp_of(path)).num_rows for path in paths)
    if rows != dataset.num_rows:
        raise UserError(
            f"{where}: the files of split {split} hold {rows} rows, and it has "
            f"{dataset.num_rows}; write it with save_to_disk, and give data.name=FOLDER"
        )
    return paths


def _describe_odd(prefix: str, shard: Shard) -> list[str]:
    """Return notes on rows that cannot be used."""
    return [
        count_note(names, "row", f"{why}: left out", where=prefix)
        for why, names in shard.odd.items()
    ]
