"""COCO files written record by record, in ASCII, with every list that strict readers ask for."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

from pipeline.errors import UserError


def dump(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write records as a JSON list, a line each, without holding them in memory.

    Args:
        path: The file, which is overwritten.
        records: What JSON can hold.

    Raises:
        UserError: A number of a record is NaN or infinite.
    """
    with path.open("w", encoding="utf-8") as file:
        _dump_list(file, records)
        file.write("\n")


def dump_data_set(
    path: Path,
    info: Mapping[str, Any],
    images: Iterable[Mapping[str, Any]],
    categories: Iterable[Mapping[str, Any]],
    annotations: Iterable[Mapping[str, Any]],
) -> None:
    """Write a COCO data set record by record, without holding the records in memory.

    Args:
        path: The file, which is overwritten.
        info: COCO's `info`.
        images: Records of `images`.
        categories: Records of `categories`.
        annotations: Records of `annotations`.

    Raises:
        UserError: A number of a record is NaN or infinite.
    """
    with path.open("w", encoding="utf-8") as file:
        file.write('{"info": ' + _to_json(info) + ',\n"licenses": []')
        for name, records in (
            ("images", images),
            ("categories", categories),
            ("annotations", annotations),
        ):
            file.write(f',\n"{name}": ')
            _dump_list(file, records)
        file.write("}\n")


def _to_json(record: Mapping[str, Any]) -> str:
    """Return a record as JSON, which has no NaN and no infinity."""
    try:
        return json.dumps(record, allow_nan=False)
    except ValueError:
        bad = sorted(key for key, value in record.items()
                     if "NaN" in json.dumps(value) or "Infinity" in json.dumps(value))  # fmt: skip
        raise UserError(
            f"{', '.join(bad)} of a COCO record is NaN or infinite, which JSON cannot hold "
            f"({json.dumps(record):.200}): the network computes no finite scores; train again or "
            "give another checkpoint"
        ) from None


def _dump_list(file: IO[str], records: Iterable[Mapping[str, Any]]) -> None:
    file.write("[")
    for n, record in enumerate(records):
        file.write((",\n" if n else "\n") + _to_json(record))
    file.write("\n]")
