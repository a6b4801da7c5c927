"""COCO files written record by record, in ASCII, with every list that strict readers ask for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from pipeline.errors import UserError

_ENCODER = json.JSONEncoder(allow_nan=False)


def dump(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write records as a JSON list, a line each, without holding them in memory.

    Args:
        path: The file, which is overwritten.
        records: What JSON can hold.

    Raises:
        UserError: A number of a record is NaN or infinite.
    """
    with open_list(path) as writer:
        for record in records:
            writer.add(to_json(record))


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
    with open_data_set(path, info, categories) as writer:
        for image in images:
            writer.images.add(to_json(image))
        for annotation in annotations:
            writer.annotations.add(to_json(annotation))


class ListWriter:
    """Adds records to a JSON list, a line each.

    Args:
        file: of the list.
    """

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._separator = "\n"

    def add(self, record: str) -> None:
        """Add a record.

        Args:
            record: as `to_json` returns it.
        """
        self._file.write(self._separator + record)
        self._separator = ",\n"


class DataSetWriter:
    """Adds images and annotations to a data set, in any order of the two.

    Args:
        images: the file of the data set, within its list of images.
        annotations: a temporary file, which becomes the list of annotations.
    """

    def __init__(self, images: IO[str], annotations: IO[str]) -> None:
        self.images, self.annotations = ListWriter(images), ListWriter(annotations)


@contextmanager
def open_list(path: Path) -> Iterator[ListWriter]:
    """Yield a writer of a list of records, whose file is complete once the block ends.

    Args:
        path: The file, which is overwritten.
    """
    with path.open("w", encoding="utf-8") as file:
        file.write("[")
        yield ListWriter(file)
        file.write("\n]\n")


@contextmanager
def open_data_set(
    path: Path, info: Mapping[str, Any], categories: Iterable[Mapping[str, Any]]
) -> Iterator[DataSetWriter]:
    """Yield a writer of a data set, whose file is complete once the block ends.

    Args:
        path: The file, which is overwritten.
        info: COCO's `info`.
        categories: Records of `categories`.

    Raises:
        UserError: A number of a record is NaN or infinite.
    """
    with (
        path.open("w", encoding="utf-8") as file,
        TemporaryFile("w+", encoding="utf-8", dir=path.parent) as annotations,
    ):
        file.write('{"info": ' + to_json(info) + ',\n"licenses": []')
        file.write(',\n"images": [')
        yield DataSetWriter(file, annotations)
        file.write('\n],\n"categories": ')
        file.write("[")
        names = ListWriter(file)
        for category in categories:
            names.add(to_json(category))
        file.write("\n]")
        file.write(',\n"annotations": [')
        annotations.seek(0)
        shutil.copyfileobj(annotations, file)
        file.write("\n]}\n")


def to_json(record: Mapping[str, Any]) -> str:
    """Return a record as JSON, which has no NaN and no infinity.

    Args:
        record: What JSON can hold.

    Raises:
        UserError: A number of the record is NaN or infinite.
    """
    try:
        return _ENCODER.encode(record)
    except ValueError:
        bad = sorted(key for key, value in record.items()
                     if "NaN" in json.dumps(value) or "Infinity" in json.dumps(value))  # fmt: skip
        raise UserError(
            f"{', '.join(bad)} of a COCO record is NaN or infinite, which JSON cannot hold "
            f"({json.dumps(record):.200}): the network computes no finite scores; train again or "
            "give another checkpoint"
        ) from None
