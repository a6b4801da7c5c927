"""Parquet: boxes.parquet, a row a box, with the columns of pipeline/exporter/rows.py.

`mask` is added: the run lengths of COCO over the whole image (`counts`, text). The metadata of the
schema say what the network learned from (`supervision`). Rows are written in
groups, so that memory does not grow with their number.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.exporter.rows import COLUMNS, Row, iterate_rows
from pipeline.formats.files import atomic_write
from pipeline.types import FoundBoxes

ROWS_IN_GROUP = 50_000
REMEDY = "pip install 'label2box[parquet]'"


@dataclass(frozen=True)
class Parquet:
    """An exporter of a table that pandas, Polars, DuckDB and Spark read.

    Args:
        rows_in_group: how many rows are held in memory and written together.

    Raises:
        UserError: pyarrow is not installed.
    """

    rows_in_group: int = ROWS_IN_GROUP

    def __post_init__(self) -> None:
        if self.rows_in_group < 1:
            raise ValueError(f"rows_in_group={self.rows_in_group}: expected 1 or more")
        _import_pyarrow()

    def __call__(self, detections: FoundBoxes, folder: Path) -> None:
        """Write boxes.parquet into a folder."""
        pyarrow, parquet = _import_pyarrow()
        schema = _build_schema(pyarrow)
        schema = schema.with_metadata({"supervision": detections.supervision})
        with (
            atomic_write(folder / "boxes.parquet") as path,
            parquet.ParquetWriter(str(path), schema, compression="zstd") as writer,
        ):
            rows: list[Row] = []
            for row, mask in iterate_rows(detections):
                rows.append((*row, None if mask is None else mask["counts"]))
                if len(rows) == self.rows_in_group:
                    writer.write_batch(_to_batch(pyarrow, schema, rows))
                    rows.clear()
            if rows:
                writer.write_batch(_to_batch(pyarrow, schema, rows))


def _import_pyarrow() -> tuple[Any, Any]:
    """Return pyarrow and pyarrow.parquet."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UserError(f"format parquet needs pyarrow ({error}): {REMEDY}") from error
    return pyarrow, parquet


def _build_schema(pyarrow: Any) -> Any:
    """Return the types of the columns."""
    text, number, whole = pyarrow.string(), pyarrow.float32(), pyarrow.int32()
    types = {
        "image": text, "path": text, "part": text, "width": whole, "height": whole, "class": text,
        "source": text, "review_rank": whole, "review_sample": pyarrow.bool_(),
    }  # fmt: skip
    fields = [(name, types.get(name, number)) for name in COLUMNS]
    return pyarrow.schema([*fields, ("mask", text)])


def _to_batch(pyarrow: Any, schema: Any, rows: list[Row]) -> Any:
    """Return rows as a batch of columns."""
    columns = [
        pyarrow.array(values, field.type)
        for values, field in zip(zip(*rows, strict=True), schema, strict=True)
    ]
    return pyarrow.record_batch(columns, schema=schema)
