"""Tables of path and label: CSV, TSV, Parquet, JSON Lines, COCO with image labels, imagefolder.

    data.table=labels.csv
        path,label,split          split is optional; without it a fifth is scored, by hash
        birds/1.png,robin,train
        birds/2.png,wren,val
    data.table=labels.json        COCO: each image's category is its label
    data.table=photos/            Hugging Face's imagefolder: metadata.csv, .jsonl or .parquet
        train/metadata.jsonl      in the folder, or in a folder for each split
        validation/metadata.jsonl

Columns are found by their names, or named by options. Paths are relative to `data.root`, or to the
table. Boxes (bbox; xmin, ymin, xmax, ymax; x, y, w, h) measure results, and nothing else uses them.
An image without a label is in `test`: it gets boxes, and is neither trained on nor scored.

    data.several=keep             an image may have several labels: a row for each, or a list
        path,label
        birds/3.png,robin|wren
        sky/4.png,[]              an empty list, or a COCO image without annotation: no class
    data.label_columns=[robin,wren]     columns of 0 and 1, a class each
        path,robin,wren
        birds/3.png,1,1
        sky/4.png,0,0             with data.several=keep: no class

There an image of no class is trained on and scored as such. An empty field is the same where a
column names the split; without one it is an image that is not labelled. `data.missing` says it.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pipeline.data import image_search, listing
from pipeline.data.intensity import RangeOption
from pipeline.data.of_rows import OfRows
from pipeline.data.split_names import find_split_part
from pipeline.data.table_columns import ColumnOptions, choose_columns
from pipeline.data.table_files import open_table
from pipeline.data.table_images import LabelOptions, TableSource, read_images
from pipeline.data.table_marks import UncertainRule
from pipeline.data.table_splits import (
    MissingRule,
    SeveralRule,
    SplitOptions,
    TableContents,
    refuse_missing,
    refuse_negatives,
    sort_images,
)
from pipeline.data.table_values import BoxFormat, to_text
from pipeline.errors import UserError
from pipeline.formats.coco_records import CrowdRule
from pipeline.formats.files import find_spelling
from pipeline.ops.text import count_note, printable, to_nfc

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")  # as `datasets` looks for them


@dataclass(frozen=True)
class Table(OfRows):
    """A data set (`pipeline.protocols.AnnotatedDataSet`) of a table of paths and labels.

    Args:
        table: A CSV, TSV, Parquet, JSON Lines or JSON file, or a folder with metadata.csv.
        root: The folder that paths are relative to; None: that of the table.
        size: What images are scaled to in pixels: a side of a square, or height and width.
        path_column: The column of paths; None: found by its name, as for those below.
        label_column: The column of labels.
        label_columns: Columns of 0 and 1, a class each, in place of a column of labels; the order
            of the columns is that of the classes.
        label_separator: What joins several labels in a field; None: | or ;, and a comma where each
            label also stands alone.
        uncertain: What -1 in label_columns is: `refuse`, the table is not used; `absent`, as 0;
            `present`, as 1; `leave_out`, images with it are not used.
        split_column: The column of splits.
        box_column: The column of boxes, or four columns of numbers.
        box_format: What four numbers of a box are: `xywh`, a corner, width and height, or `xyxy`,
            two corners; in pixels, half-open. None: as the column's name says.
        val_split: The split that is scored; None: validation, or else the test.
        val: Share of the images that is scored where no split is, from 0 to below 1.
        held_back: Share of the train images that selects the best epoch, from 0 to below 1.
        calibration: A split whose boxes choose the threshold; None: no such split.
        several: What is done where images have several labels, in several rows or as a list:
            `refuse`, the table is not used; `leave_out`, these images are not; `keep`, an image
            may have several classes, and each class is learned for itself.
        missing: What an image with an empty label is where images may have several: `none`, it
            shows no class, and is learned and scored so; `unlabelled`, it is in `test`; None: the
            first where a column names its split, else the second.
        range: What pixels of more than 8 bits are scaled from to 0 to 255: [low, high]; None: the
            0.5 and 99.5 percentiles of training images.
        no_data: Values of such pixels that stand for no measurement, and become black.
        negatives: Names of the classes whose images show no object: they are learned as classes,
            and have no box.
        crowds: What annotations marked `iscrowd` are in a file of drawn boxes: `ignore`, regions
            that are not counted, or `objects` as all others.

    Raises:
        UserError: An option is out of range, a file or column is missing, or, once they are read,
            no row can be used.
    """

    table: str
    root: str | None = None
    size: int | tuple[int, int] = 224
    path_column: str | None = None
    label_column: str | None = None
    label_columns: Sequence[str] = ()
    label_separator: str | None = None
    uncertain: UncertainRule = "refuse"
    split_column: str | None = None
    box_column: str | Sequence[str] | None = None
    box_format: BoxFormat | None = None
    val_split: str | int | None = None
    val: float = 0.2
    held_back: float = 0.1
    calibration: str | int | None = None
    several: SeveralRule = "refuse"
    missing: MissingRule | None = None
    range: RangeOption = None
    no_data: float | Sequence[float] = ()
    negatives: Sequence[str] = ()
    crowds: CrowdRule = "ignore"

    def __post_init__(self) -> None:
        self._parse_image_options()
        listing.check_share("val", self.val)
        listing.check_share("held_back", self.held_back)
        object.__setattr__(self, "table", str(find_spelling(Path(self.table))))
        if not Path(self.table).exists():
            raise UserError(
                f"data.table={self.table}: no such file; expected a table of paths and labels "
                "(CSV, TSV, JSON Lines, Parquet, COCO), or a folder with metadata.csv"
            )
        refuse_negatives(self.several, self.negatives)
        refuse_missing(self.several, self.missing)
        self._check_label_options()
        if self.root is not None:
            object.__setattr__(self, "root", str(find_spelling(Path(self.root))))
            if not Path(self.root).is_dir():
                is_file = Path(self.root).exists()
                what = "a file (unpack an archive first)" if is_file else "no such folder"
                raise UserError(
                    f"data.root={self.root}: {what}; expected the folder that paths of "
                    f"data.table={self.table} are relative to"
                )
        given = f"data.table={self.table}" if self.root is None else f"data.root={self.root}"
        image_search.refuse_results(given, self._folder)

    def _check_label_options(self) -> None:
        """Raise UserError where options of labels contradict each other, or have no effect."""
        object.__setattr__(self, "label_columns", tuple(map(str, self.label_columns)))
        listed = ",".join(self.label_columns)
        for name, value in (
            ("label_column", self.label_column), ("label_separator", self.label_separator)
        ):  # fmt: skip
            if self.label_columns and value is not None:
                raise UserError(
                    f"data.label_columns=[{listed}]: columns of 0 and 1 take the place of a column "
                    f"of labels; leave data.{name}={value} away"
                )
        double = [n for n, count in Counter(self.label_columns).items() if count > 1]
        if double:
            raise UserError(f"data.label_columns=[{listed}]: {double[0]!r} is there twice")
        if self.label_separator == "":
            raise UserError(
                "data.label_separator: expected what joins several labels in a field, as "
                "'data.label_separator=\" \"'"
            )
        if self.uncertain != "refuse" and not self.label_columns:
            raise UserError(
                f"data.uncertain={self.uncertain}: is of -1 in columns of 0 and 1; name them by "
                "data.label_columns=[NAME,NAME], or leave it away"
            )

    @property
    def _folder(self) -> str:
        """The folder that paths are relative to, and that ids begin below."""
        if self.root is not None:
            return os.path.abspath(self.root)
        table = os.path.abspath(self.table)
        return table if os.path.isdir(table) else os.path.dirname(table)

    # -- images and labels

    @cached_property
    def _files(self) -> list[tuple[Path, str | None]]:
        """The tables, each with the split that its folder is, if any."""
        path = Path(self.table)
        return [(path, None)] if path.is_file() else find_metadata(path)

    def _open(self) -> list[TableSource]:
        """Open the tables and choose their columns."""
        boxes = [self.box_column] if isinstance(self.box_column, str) else self.box_column
        options = ColumnOptions(
            path=self.path_column,
            label=self.label_column,
            labels=self.label_columns,
            split=self.split_column,
            box=boxes,
            box_format=self.box_format,
        )
        tables = [(open_table(path), split) for path, split in self._files]
        return [
            TableSource(table, choose_columns(table, options), split) for table, split in tables
        ]

    @cached_property
    def _contents(self) -> TableContents:
        sources = self._open()
        labels = LabelOptions(separator=self.label_separator, uncertain=self.uncertain)
        images = read_images(sources, None if self.root is None else Path(self.root), labels)
        marked = dict.fromkeys(
            to_text(name)
            for source in sources if source.columns.has_marks for name in source.columns.labels
        )  # fmt: skip
        used = {label for image in images.images.values() for label in image.labels}
        if unused := [name for name in marked if name not in used]:
            why = "of data.label_columns without a 1 of an image that is used: not learned"
            images.notes.append(count_note(unused, "column", why, where=self._name))
        options = SplitOptions(
            val=self.val,
            held_back=self.held_back,
            val_split=None if self.val_split is None else str(self.val_split),
            calibration=None if self.calibration is None else str(self.calibration),
            several=self.several,
            missing=self.missing,
        )
        order = [*marked, *(name for source in sources for name in source.table.class_order)]
        return sort_images(images, self._name, self._folder, order, options)

    @property
    def _name(self) -> str:
        """What notes call the table."""
        return printable(os.path.basename(os.path.abspath(self.table)))


def find_metadata(folder: Path) -> list[tuple[Path, str | None]]:
    """Return the metadata files of an imagefolder, each with the split that its folder is.

    Args:
        folder: With a metadata file, or with a folder for each split that has one.

    Raises:
        UserError: There is none.
    """
    inside = sorted(entry for entry in folder.iterdir() if entry.is_dir())
    places = [(folder, None), *((each, to_nfc(each.name)) for each in inside)]
    files = [
        (place / name, split)
        for place, split in places
        if split is None or find_split_part(split) is not None
        for name in METADATA
        if (place / name).is_file()
    ]
    if not files:
        raise UserError(
            f"data.table={folder}: a folder without {', '.join(METADATA)}, also in folders named "
            f"train, validation or test; for class folders: data=folder data.root={folder}"
        )
    return files
