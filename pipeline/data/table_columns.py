"""The columns of a table that hold path, label, split and boxes: as given, or by their names."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from pipeline.data.listing import SUFFIXES
from pipeline.data.table_files import TableFile
from pipeline.data.table_guesses import find_split_columns, suggest_columns
from pipeline.data.table_marks import explain_marks
from pipeline.data.table_values import BoxFormat
from pipeline.errors import UserError, suggest_choices

# Names without case, spaces, hyphens and underscores; the first that a table has is taken.
PATH_NAMES = (
    "path", "filepath", "imagepath", "imgpath", "filename", "file", "imagefile", "imagefilename",
    "imagename", "imgname", "image", "images", "img", "photo", "picture", "imageid", "id", "uri",
    "imageindex",
)  # fmt: skip
LABEL_NAMES = (
    "labelname", "classname", "categoryname", "label", "labels", "class", "classes", "category",
    "categories", "tags", "tag", "target", "species", "breed", "y", "labelid", "classid",
    "categoryid", "findinglabels",
)  # fmt: skip
SPLIT_NAMES = ("split", "subset", "set", "part", "partition", "fold", "phase", "usage")
BOX_NAMES = (
    "bbox",
    "bboxes",
    "boxes",
    "box",
    "boundingbox",
    "boundingboxes",
    "xywh",
    "xyxy",
    "objects",
)
CORNER_NAMES = (
    ("xmin", "ymin", "xmax", "ymax"), ("x0", "y0", "x1", "y1"), ("x1", "y1", "x2", "y2"),
    ("left", "top", "right", "bottom"), ("bboxxmin", "bboxymin", "bboxxmax", "bboxymax"),
    ("bboxx1", "bboxy1", "bboxx2", "bboxy2"), ("xtl", "ytl", "xbr", "ybr"),
)  # fmt: skip
SIZE_NAMES = (
    ("x", "y", "w", "h"), ("bboxx", "bboxy", "bboxw", "bboxh"), ("x", "y", "width", "height"),
    ("bboxx", "bboxy", "bboxwidth", "bboxheight"), ("left", "top", "width", "height"),
)  # fmt: skip
SCORE_NAMES = ("score", "scores", "confidence", "conf")
COCO_NAMES = ("bbox", "bboxes", "objects")  # hold COCO's xywh wherever they are used


@dataclass(frozen=True, kw_only=True)
class ColumnOptions:
    """The columns that the user named; None: found by name.

    Attributes:
        path: Of the images' paths.
        label: Of the labels.
        labels: Of 0 and 1, a class each, in place of a column of labels; empty: no such columns.
        split: Of the names of splits.
        box: Of boxes: a column of lists, or four columns of numbers.
        box_format: What four numbers of a box are.
    """

    path: str | None = None
    label: str | None = None
    labels: Sequence[str] = ()
    split: str | None = None
    box: Sequence[str] | None = None
    box_format: BoxFormat | None = None


@dataclass(frozen=True)
class Columns:
    """The columns of a table that are used.

    Attributes:
        path: Of the images' paths.
        labels: The one of the labels, or those of 0 and 1.
        has_marks: Whether the columns of labels hold 0 and 1, a class each.
        split: Of the names of splits, if any.
        boxes: None, one or four columns of boxes.
        box_format: What four numbers of a box are.
        notes: Other columns that could have been meant, and what boxes seem to be, a line each.
    """

    path: str
    labels: Sequence[str]
    has_marks: bool
    split: str | None
    boxes: Sequence[str]
    box_format: BoxFormat
    notes: Sequence[str] = ()

    @property
    def names(self) -> list[str]:
        """The columns in the order path, labels, split, boxes, as far as there are any."""
        return [self.path, *self.labels, *([self.split] if self.split else []), *self.boxes]


def choose_columns(table: TableFile, options: ColumnOptions) -> Columns:
    """Choose the columns of a table.

    Args:
        table: The table.
        options: What the user named.

    Raises:
        UserError: A column is not there, or is none that the others leave; with the names of the
            columns that are there.
    """
    faults: list[str] = []

    def attempt(find: Callable[..., str], *arguments: Any) -> str:
        try:
            return find(table, *arguments)
        except UserError as error:
            faults.append(str(error))
            return ""

    path = attempt(_find, "path_column", options.path, PATH_NAMES, "the path of an image", ())
    labels = [attempt(_check_given, "label_columns", name) for name in options.labels] or [
        attempt(_find, "label_column", options.label, LABEL_NAMES, "the label of an image", (path,))
    ]
    if faults:
        _refuse_columns(table, faults)
    split = _find_by_name(table, SPLIT_NAMES, (path, *labels))
    if options.split is not None:
        split = _check_given(table, "split_column", options.split)
    boxes, box_format = _find_boxes(table, options, {path, *labels, *([split] if split else [])})
    is_given = options.label is not None or bool(options.labels)
    others = [
        name for name in table.columns
        if _fold(name) in LABEL_NAMES and name not in labels and not is_given
    ]  # fmt: skip
    notes = [] if split is not None else _describe_splits(table, {path, *labels, *boxes})
    if others:
        notes.append(
            f"{table.path.name}: labels are taken from column {labels[0]!r}, not from "
            f"{others[0]!r}; data.label_column=NAME takes them from another"
        )
    scores = [name for name in table.columns if _fold(name) in SCORE_NAMES]
    if boxes and scores:
        notes.append(
            f"{table.path.name}: column {scores[0]!r} gives boxes a score, as a program does that "
            "finds them: results are measured against these boxes as if they were true"
        )
    return Columns(path, labels, bool(options.labels), split, boxes, box_format, notes)


def _refuse_columns(table: TableFile, faults: Sequence[str]) -> NoReturn:
    """Raise UserError about all columns that are missing, with what the others seem to hold."""
    lines = [*faults]
    if table.has_header and (hint := suggest_columns(table)):
        lines.append(hint)
    raise UserError("\n  ".join(lines))


def _describe_splits(table: TableFile, used: set[str]) -> list[str]:
    """Return a note on columns that hold names of splits and are not read as such."""
    left = [name for name in table.columns if name not in used]
    found = find_split_columns(table, left) if left and table.has_header else {}
    return [
        f"{table.path.name}: column {name!r} holds names of splits ({', '.join(values[:4])}), and "
        f"is not read; 'data.split_column={name}' splits the images so"
        for name, values in found.items()
    ]


def _fold(name: str) -> str:
    return re.sub(r"[\s_.\-/]+", "", name).casefold()


def _find_by_name(table: TableFile, names: Sequence[str], used: Sequence[str | None]) -> str | None:
    """Return the first column that has one of the names and is not used; None without any."""
    folded = {_fold(name): name for name in reversed(table.columns) if name not in used}
    return next((folded[name] for name in names if name in folded), None)


def _has(table: TableFile, folded: str) -> bool:
    return any(_fold(name) == folded for name in table.columns)


def _check_given(table: TableFile, option: str, given: str) -> str:
    """Return the column that the user named. Raise UserError where it is not there."""
    folded = {_fold(name): name for name in reversed(table.columns)}
    if given not in table.columns and _fold(given) not in folded:
        raise UserError(
            f"data.{option}={given}: {table.path} has no such column; "
            f"{suggest_choices(given, table.columns)}"
        )
    return given if given in table.columns else folded[_fold(given)]


def _find(
    table: TableFile,
    option: str,
    given: str | None,
    names: Sequence[str],
    what: str,
    used: Sequence[str],
) -> str:
    """Return the column with a name of the list, or the given one. Raise UserError without any."""
    if given is not None:
        return _check_given(table, option, given)
    if not table.has_header:
        if (name := _guess_place(table, option)) is not None:
            return name
        raise UserError(
            f"{table.path}: the first line names no columns, so {what} is in none that is known; "
            f"write a line of names first (path,label), or number the column from 1 on: "
            f"data.{option}=1"
        )
    # Beside x, y is a coordinate.
    coordinates = [name for name in table.columns if _fold(name) == "y" and _has(table, "x")]
    if (name := _find_by_name(table, names, [*used, *coordinates])) is not None:
        return name
    left = [name for name in table.columns if name not in used]
    hint = f"; {suggest_choices(names[0], left)}"
    if option == "label_column":
        hint = explain_marks(table, left) or hint
        hint += f"; images without labels are given by images={table.path}"
    raise UserError(
        f"{table.path}: no column with {what} (looked for {', '.join(names[:8])}, ...); name it by "
        f"data.{option}=NAME{hint}"
    )


def _guess_place(table: TableFile, option: str) -> str | None:
    """Return the path's column of a table without header, by its values, or the only other one."""
    _, first = next(table.read(table.columns), (0, ()))
    paths = [
        name for name, value in zip(table.columns, first, strict=False)
        if isinstance(value, str) and f".{value.rpartition('.')[2].lower()}" in SUFFIXES
    ]  # fmt: skip
    if len(paths) != 1:
        return None
    others = [name for name in table.columns if name not in paths]
    if option == "path_column":
        return paths[0]
    return others[0] if len(others) == 1 else None


def _find_boxes(
    table: TableFile, options: ColumnOptions, used: set[str]
) -> tuple[Sequence[str], BoxFormat]:
    """Return the columns of boxes, if any, and what their numbers are."""
    names: Sequence[str]
    if options.box is not None:
        names = [_check_given(table, "box_column", name) for name in options.box]
        if len(names) not in (1, 4):
            raise UserError(
                f"data.box_column={list(options.box)}: expected a column of lists, or four columns "
                "of numbers"
            )
    else:
        names, box_format = _find_boxes_by_name(table, used)
        if len(names) == 4 or not names:
            return names, options.box_format or box_format
    if options.box_format is not None:
        return names, options.box_format
    folded = _fold(names[0])
    if len(names) == 1 and folded in COCO_NAMES:
        return names, "xywh"
    if len(names) == 1 and folded in ("xywh", "xyxy"):
        return names, "xywh" if folded == "xywh" else "xyxy"
    if len(names) == 4 and tuple(map(_fold, names)) in SIZE_NAMES:
        return names, "xywh"
    if len(names) == 4 and tuple(map(_fold, names)) in CORNER_NAMES:
        return names, "xyxy"
    raise UserError(
        f"{table.path}: its name does not say what the numbers of column {names[0]!r} are; give "
        "data.box_format=xywh (corner, width, height) or data.box_format=xyxy (two corners)"
    )


def _find_boxes_by_name(table: TableFile, used: set[str]) -> tuple[Sequence[str], BoxFormat]:
    """Return four columns of numbers, else a column of lists, else none."""
    folded = {_fold(name): name for name in reversed(table.columns) if name not in used}
    formats: tuple[tuple[tuple[tuple[str, ...], ...], BoxFormat], ...] = (
        (CORNER_NAMES, "xyxy"), (SIZE_NAMES, "xywh"),
    )  # fmt: skip
    for known, box_format in formats:
        for names in known:
            if all(name in folded for name in names):
                return [folded[name] for name in names], box_format
    return [folded[name] for name in BOX_NAMES if name in folded][:1], "xywh"
