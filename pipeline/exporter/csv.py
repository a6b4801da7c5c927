"""CSV: boxes.csv, a row a box, with the columns of pipeline/exporter/rows.py.

RFC 4180: UTF-8, a header, commas, quotes where a value needs them, lines that end with CR LF. Text
that is not known is empty, as are numbers; `review_sample` is 0 or 1.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from pipeline.exporter.rows import COLUMNS, iterate_rows
from pipeline.formats.files import atomic_write
from pipeline.types import FoundBoxes, Note


@dataclass(frozen=True)
class Csv:
    """An exporter of a table, a row a box; masks are left out."""

    def __call__(self, detections: FoundBoxes, folder: Path) -> list[Note]:
        """Write boxes.csv into a folder. Returns a note where masks are left out."""
        masks = 0
        with (
            atomic_write(folder / "boxes.csv") as path,
            path.open("w", encoding="utf-8", newline="") as file,
        ):
            table = csv.writer(file)  # of which RFC 4180 is the default
            table.writerow(COLUMNS)
            for row, mask in iterate_rows(detections):
                masks += mask is not None
                table.writerow([int(value) if isinstance(value, bool) else value for value in row])
        why = (
            f"{masks} masks are left out, which rows have no place for; coco and parquet have them"
        )
        return [Note(why, count=masks)] if masks else []
