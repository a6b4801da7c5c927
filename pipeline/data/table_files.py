"""Tables of images as files: CSV and TSV, JSON Lines and JSON, Parquet, COCO with image labels.

The form is told by the content, whatever the ending is. Parquet needs pyarrow, and only the columns
that are used are read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.data.table_text import decode_text, read_text_table
from pipeline.data.table_values import to_text
from pipeline.errors import UserError
from pipeline.formats.coco import NAME_FIELDS
from pipeline.formats.coco_values import Key, parse_flag, parse_key
from pipeline.formats.foreign_json import name_tool
from pipeline.formats.odd_records import OddRecords

PARQUET_MARK = b"PAR1"
REMEDY = "python -m pip install 'label2box[parquet]', or save the table as CSV"
COCO_COLUMNS = ("file_name", "category", "split", "bbox")
Rows = Iterator[tuple[int, Sequence[Any]]]
"""The number of each row, and its values of the columns that were asked for."""


@dataclass(frozen=True)
class TableFile:
    """A table of images.

    Attributes:
        path: Where it was read from.
        columns: The names of its columns.
        unit: What a row is called, with its number: line, row, record or annotations.
        read: Yields the rows, with the values of the named columns.
        has_header: Whether it names its columns; otherwise they are numbered from 1 on.
        odd: What was left out or repaired; complete once all rows were read.
        notes: What was unusual about the file as a whole, a line each.
        class_order: The classes in the order of the file, where it has one.
        has_decimal_commas: Whether 12,5 is the number 12.5: programs that put semicolons between
            fields write numbers so.
    """

    path: Path
    columns: tuple[str, ...]
    unit: str
    read: Callable[[Sequence[str]], Rows]
    odd: OddRecords
    has_header: bool = True
    notes: Sequence[str] = ()
    class_order: Sequence[str] = ()
    has_decimal_commas: bool = False

    def name_row(self, number: int) -> str:
        """Return what messages call a row."""
        return f"{self.unit} {number}"


def open_table(path: Path) -> TableFile:
    """Open a table.

    Args:
        path: The file.

    Raises:
        UserError: It cannot be read, is no table, or is a Parquet file and pyarrow is missing.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(len(PARQUET_MARK))
            if start == PARQUET_MARK:
                return _open_parquet(path)
            data = start + file.read()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; expected a table of images") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    text, notes = decode_text(path, data)
    if text.lstrip()[:1] in ("{", "["):
        return _open_json(path, text, notes)
    table = read_text_table(path, text)

    def read(names: Sequence[str]) -> Rows:
        places = [table.columns.index(name) for name in names]
        for number, fields in table.rows():
            yield number, [fields[place] for place in places]

    all_notes = [*notes, *table.notes]
    return TableFile(
        path, table.columns, "line", read, table.odd, table.has_header, all_notes,
        has_decimal_commas=table.separator == ";",
    )  # fmt: skip


def _open_parquet(path: Path) -> TableFile:
    """Open a Parquet file; its rows are read group by group. Raise UserError without pyarrow."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UserError(f"{path}: Parquet needs pyarrow ({error}): {REMEDY}") from error
    try:
        columns = tuple(parquet.read_schema(path).names)
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"{path}: not a Parquet file that can be read ({error})") from None

    def read(names: Sequence[str]) -> Rows:
        number = 0
        try:
            with parquet.ParquetFile(path) as file:
                for batch in file.iter_batches(columns=list(names)):
                    lists = [batch.column(name).to_pylist() for name in names]
                    for values in zip(*lists, strict=True):
                        number += 1
                        yield number, values
        except (OSError, pyarrow.ArrowException) as error:
            raise UserError(
                f"{path}, row {number + 1}: the Parquet file is damaged ({error}); write it again"
            ) from None

    return TableFile(path, columns, "row", read, OddRecords(path.name, "row"))


# -- JSON


def _open_json(path: Path, text: str, notes: Sequence[str]) -> TableFile:
    """Open a list of objects, objects a line each, or COCO."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        if text.lstrip()[0] == "[":
            place = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
            raise UserError(f"{path}{place}: not JSON ({error}); write the file again") from None
        return _open_json_lines(path, text, notes)
    if isinstance(content, dict) and (tool := name_tool(content)) is not None:
        raise UserError(f"{path}: {tool}; export as COCO (JSON) or CSV there")
    if isinstance(content, dict) and isinstance(content.get("images"), list):
        return _open_coco(path, content, notes)
    records = content if isinstance(content, list) else [content]
    odd = OddRecords(path.name, "record")
    objects: list[tuple[int, Mapping[str, Any]]] = []
    for number, record in enumerate(records, 1):
        if isinstance(record, dict):
            objects.append((number, record))
        else:
            odd.leave_out(f"record {number}", "that are no objects")
    odd.check_usable(path, len(records), len(objects))
    return _make_object_table(path, "record", objects, odd, notes)


def _open_json_lines(path: Path, text: str, notes: Sequence[str]) -> TableFile:
    """Open a text with an object a line."""
    odd, objects, total = OddRecords(path.name, "line"), list[tuple[int, Mapping[str, Any]]](), 0
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        total += 1
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            odd.leave_out(f"line {number}", "that are no JSON")
            continue
        if isinstance(record, dict):
            objects.append((number, record))
        else:
            odd.leave_out(f"line {number}", "that are no objects")
    odd.check_usable(path, total, len(objects))
    return _make_object_table(path, "line", objects, odd, notes)


def _make_object_table(
    path: Path,
    unit: str,
    objects: Sequence[tuple[int, Mapping[str, Any]]],
    odd: OddRecords,
    notes: Sequence[str],
) -> TableFile:
    """Return the table of objects whose fields are its columns."""
    columns = {to_text(name): name for _, record in objects for name in record}

    def read(names: Sequence[str]) -> Rows:
        for number, record in objects:
            yield number, [record.get(columns[name]) for name in names]

    return TableFile(path, tuple(columns), unit, read, odd, notes=notes)


# -- COCO


@dataclass
class _CocoLists:
    """The images and categories of a COCO file by their ids."""

    images: dict[Key, Mapping[str, Any]] = field(default_factory=dict)
    categories: dict[Key, str] = field(default_factory=dict)


def _open_coco(path: Path, content: Mapping[str, Any], notes: Sequence[str]) -> TableFile:
    """Open a COCO file whose categories are labels of images: a row for each annotation.

    An image without annotation is a row with an empty list of labels, unless it has a category_id
    itself.
    """
    odd, lists = OddRecords(path.name, "annotation"), _CocoLists()
    for name, wanted in (("images", lists.images), ("categories", {})):
        for record in content.get(name) or ():
            key = parse_key(record.get("id")) if isinstance(record, dict) else None
            if key is not None and name == "images":
                wanted[key] = record
            elif key is not None:
                lists.categories[key] = to_text(record.get("name") or key)
    if not lists.images:
        raise UserError(f"{path}: a COCO file without images that have an id; write it again")
    rows = list(_list_coco_rows(content, lists, odd))
    places = {name: n for n, name in enumerate(COCO_COLUMNS)}

    def read(names: Sequence[str]) -> Rows:
        for number, values in rows:
            yield number, [values[places[name]] for name in names]

    used = COCO_COLUMNS if any(values[2] is not None for _, values in rows) else (
        "file_name", "category", "bbox"
    )  # fmt: skip
    order = list(dict.fromkeys(lists.categories.values()))
    return TableFile(path, used, "record", read, odd, notes=notes, class_order=order)


def _list_coco_rows(content: Mapping[str, Any], lists: _CocoLists, odd: OddRecords) -> Rows:
    """Yield file name, category, split and box of each annotation, then of images without one."""
    labelled, unclear = set[Key](), set[Key]()
    for number, record in enumerate(content.get("annotations") or (), 1):
        where = f"annotations[{number - 1}]"
        key = parse_key(record.get("image_id")) if isinstance(record, dict) else None
        if key not in lists.images:
            odd.leave_out(f"{where}: image_id {key}", "with an image_id that no image has")
            continue
        category = parse_key(record.get("category_id"))
        if category not in lists.categories:
            named = f"{where}: image_id {key}, category_id {category}"
            odd.leave_out(named, "with a category_id that no category has")
            unclear.add(key)
            continue
        labelled.add(key)
        image = lists.images[key]
        is_box = record.get("bbox") and not parse_flag(record.get("iscrowd"))
        box = record["bbox"] if is_box else None
        yield number, (_name_image(image), lists.categories[category], image.get("split"), box)
    for number, (key, image) in enumerate(lists.images.items(), 1):
        category = parse_key(image.get("category_id"))
        if key not in labelled or category is not None:
            empty: list[str] | None = None if key in unclear else []
            label = empty if category is None else lists.categories.get(category)
            yield number, (_name_image(image), label, image.get("split"), None)


def _name_image(image: Mapping[str, Any]) -> Any:
    """Return the file name of an image of a COCO file; None where it has none."""
    return next((image[name] for name in NAME_FIELDS if image.get(name)), None)
