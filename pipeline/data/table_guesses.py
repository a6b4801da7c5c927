"""What columns of a table seem to hold by their values, for messages about missing columns.

Names are in any language, values are not: paths end as images do, and splits are called train, val
or test. Nothing is read by a guess.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

from pipeline.data.listing import SUFFIXES
from pipeline.data.split_names import find_split_part
from pipeline.data.table_files import TableFile
from pipeline.data.table_values import is_missing

MAX_SAMPLED = 1000  # rows that are looked at


def find_split_columns(table: TableFile, columns: Sequence[str]) -> dict[str, list[str]]:
    """Return the columns that hold names of splits and nothing else, with these names.

    Args:
        table: The table, of which the first rows are read.
        columns: Those that are looked at.
    """
    sampled = _sample(table, columns)
    return {
        name: sorted(map(str, values)) for name, values in sampled.items()
        if values and all(isinstance(v, str) and find_split_part(v) for v in values)
    }  # fmt: skip


def suggest_columns(table: TableFile) -> str:
    """Return the options that name the columns of a table as their values tell; empty: nothing.

    Args:
        table: The table, of which the first rows are read.
    """
    sampled = _sample(table, table.columns)
    paths = [name for name, values in sampled.items() if values and all(map(_is_image, values))]
    splits = list(find_split_columns(table, table.columns))
    others = [name for name in table.columns if name not in (*paths, *splits)]
    guessed = (("path", paths), ("label", others), ("split", splits))
    options = [f"'data.{kind}_column={names[0]}'" for kind, names in guessed if len(names) == 1]
    return f"by their values: {' '.join(options)}" if options else ""


def _is_image(value: Any) -> bool:
    """Return whether a value ends as the name of an image file does."""
    return isinstance(value, str) and f".{value.rpartition('.')[2].strip().lower()}" in SUFFIXES


def _sample(table: TableFile, columns: Sequence[str]) -> dict[str, dict[Any, None]]:
    """Return the different values of columns in the first rows, without those that are missing."""
    sampled: dict[str, dict[Any, None]] = {name: {} for name in columns}
    odd = table.odd
    kept = [
        {reason: [*names] for reason, names in of.items()} for of in (odd.left_out, odd.repaired)
    ]
    for _, values in islice(table.read(columns), MAX_SAMPLED):
        for name, value in zip(columns, values, strict=False):
            if not is_missing(value):
                sampled[name][value if isinstance(value, str) else repr(value)] = None
    # Odd rows are counted where all rows are read.
    for of, before in zip((odd.left_out, odd.repaired), kept, strict=True):
        of.clear()
        of.update(before)
    return sampled
