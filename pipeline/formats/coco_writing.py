"""COCO files written record by record, in ASCII, with every list that strict readers ask for."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any


def dump(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write records as a JSON list, a line each, without holding them in memory.

    Args:
        path: The file, which is overwritten.
        records: What JSON can hold.
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
    """
    with path.open("w", encoding="utf-8") as file:
        file.write('{"info": ' + json.dumps(info) + ',\n"licenses": []')
        for name, records in (
            ("images", images),
            ("categories", categories),
            ("annotations", annotations),
        ):
            file.write(f',\n"{name}": ')
            _dump_list(file, records)
        file.write("}\n")


def _dump_list(file: IO[str], records: Iterable[Mapping[str, Any]]) -> None:
    file.write("[")
    for n, record in enumerate(records):
        file.write((",\n" if n else "\n") + json.dumps(record))
    file.write("\n]")
