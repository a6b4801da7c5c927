"""Images and labels of a data set of Hugging Face's `datasets`, from the files that it keeps.

Each split is a list of Arrow files, a row an image. An image is read alone from its row, so workers
need neither the library nor the whole split.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.data.archive_files import ArchiveFiles
from pipeline.data.shard_samples import Shard
from pipeline.data.table_values import parse_labels
from pipeline.errors import UserError, suggest_choices
from pipeline.formats.odd_records import BadRecord
from pipeline.formats.stored import ARROW_ROW, open_arrow, stamp_of

LABEL_NAMES = ("label", "labels", "fine_label", "class", "category", "target")
LISTS = ("List", "LargeList", "Sequence")
NO_LABEL = -1  # of a ClassLabel


@dataclass(frozen=True)
class ArrowColumns:
    """The columns that are read.

    Attributes:
        image: Of the images.
        label: Of the labels.
        names: Class names by number; empty where labels are no ClassLabel.
    """

    image: str
    label: str
    names: tuple[str, ...] = ()


def choose_columns(features: Any, image: str | None, label: str | None, where: str) -> ArrowColumns:
    """Choose the columns of images and labels by their features.

    Args:
        features: Of a split, by column.
        image: Option `data.image_column`.
        label: Option `data.label_column`.
        where: The data set, for messages.

    Raises:
        UserError: There is no such column, or there are several.
    """
    images = [name for name, each in features.items() if type(each).__name__ == "Image"]
    labels = [name for name, each in features.items() if _find_class_label(each) is not None]
    plain = [name for name in LABEL_NAMES if name in features and name not in images]
    chosen_image = _choose("image_column", image, images, features, where)
    named = [name for name in labels if name in LABEL_NAMES][:1]
    candidates = labels if len(labels) < 2 else named or labels
    chosen_label = _choose("label_column", label, candidates or plain[:1], features, where)
    kind = _find_class_label(features[chosen_label])
    return ArrowColumns(chosen_image, chosen_label, () if kind is None else tuple(kind.names))


def _find_class_label(feature: Any) -> Any:
    """Return the ClassLabel that a feature is, or is a list of; None for another."""
    if isinstance(feature, list) and len(feature) == 1:
        (feature,) = feature
    elif type(feature).__name__ in LISTS:
        feature = feature.feature
    return feature if type(feature).__name__ == "ClassLabel" else None


def _choose(option: str, given: str | None, names: Sequence[str], features: Any, where: str) -> str:
    """Return a column. Raise UserError where there is none, or there are several."""
    if given is not None:
        if given in features:
            return given
        raise UserError(
            f"data.{option}={given}: {where} has no such column; {suggest_choices(given, features)}"
        )
    if len(names) == 1:
        return names[0]
    kind = "Image" if option == "image_column" else "ClassLabel, or of the name label"
    has = ", ".join(f"{name} ({type(each).__name__})" for name, each in features.items())
    count = "no column" if not names else "several columns"
    raise UserError(f"{where}: {count} of the feature {kind}; name one by data.{option}: {has}")


def read_file(path: str, columns: ArrowColumns) -> Shard:
    """Return the images and labels of an Arrow file.

    Args:
        path: The file.
        columns: Which columns are read.

    Raises:
        UserError: The file cannot be read.
    """
    try:
        stamp = stamp_of(path)
        table = open_arrow(path, *stamp)
    except Exception as error:  # pyarrow has errors of its own
        raise UserError(f"{path}: cannot be read ({error}); load the data set again") from None
    odd: dict[str, list[str]] = {}
    labels, rows, names, lengths = list[tuple[str, ...]](), list[int](), list[str](), list[int]()
    sizes, paths = _list_images(table.column(columns.image))
    for row, value in enumerate(table.column(columns.label).to_pylist()):
        name = f"{row:08d}{os.path.splitext(paths[row] or '')[1].lower()}"
        if not sizes[row] and not paths[row]:
            odd.setdefault("without an image", []).append(name)
            continue
        try:
            labels.append(_to_labels(value, columns.names))
        except BadRecord as error:
            odd.setdefault(str(error), []).append(name)
            continue
        rows.append(row)
        names.append(f"{columns.image}/{name}")
        lengths.append(sizes[row])
    numbers = np.array([rows, lengths, [ARROW_ROW] * len(rows)], np.int64).reshape(3, -1).T
    return Shard(ArchiveFiles(os.path.abspath(path), stamp, names, numbers, ()), labels, odd)


def _list_images(column: Any) -> tuple[list[int], list[str | None]]:
    """Return the bytes that each image takes, and the path that stands beside it."""
    import pyarrow
    import pyarrow.compute

    sizes, paths = list[int](), list[str | None]()
    for chunk in column.chunks:
        length = pyarrow.compute.binary_length(pyarrow.compute.struct_field(chunk, "bytes"))
        sizes += pyarrow.compute.fill_null(length, 0).to_pylist()
        paths += pyarrow.compute.struct_field(chunk, "path").to_pylist()
    return sizes, paths


def _to_labels(value: Any, names: Sequence[str]) -> tuple[str, ...]:
    """Return the labels of a row as text. Raise BadRecord where they cannot be right."""
    if not names:
        return parse_labels(value)
    numbers = value if isinstance(value, list) else [] if value is None else [value]
    known = [number for number in numbers if number != NO_LABEL]
    if any(not isinstance(number, int) or not 0 <= number < len(names) for number in known):
        raise BadRecord(f"whose label is no number of its {len(names)} classes")
    return tuple(dict.fromkeys(names[number] for number in known))
