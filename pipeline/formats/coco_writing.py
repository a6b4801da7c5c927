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
    with open_data_set(path, info, categories) as writer:
        for image in images:
            writer.add_image(to_json(image))
        for annotation in annotations:
            writer.add_annotation(to_json(annotation))


class DataSetWriter:
    """Adds images and annotations to a data set, in any order of the two.

    Args:
        images: the file of the data set, within its list of images.
        annotations: a temporary file, which becomes the list of annotations.
    """

    def __init__(self, images: IO[str], annotations: IO[str]) -> None:
        self._images, self._annotations = images, annotations
        self._image_separator = self._annotation_separator = "\n"

    def add_image(self, record: str) -> None:
        """Add a record of `images`.

        Args:
            record: as `to_json` returns it.
        """
        self._images.write(self._image_separator + record)
        self._image_separator = ",\n"

    def add_annotation(self, record: str) -> None:
        """Add a record of `annotations`.

        Args:
            record: as `to_json` returns it.
        """
        self._annotations.write(self._annotation_separator + record)
        self._annotation_separator = ",\n"


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
        _dump_list(file, categories)
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
        file.write((",\n" if n else "\n") + to_json(record))
    file.write("\n]")
