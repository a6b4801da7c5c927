"""Marks of a run's images that are kept in a file of the run's folder: read, merged, written.

    marks/reviewed.json    as stage ingest takes it (formats/corrections/marks.py)

Several pages may change it at once: each says what it changed and when, and of an image the latest
change stays. A mark that was taken back is kept as `removed`, so that an older page does not bring
it back.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from pipeline.errors import UserError
from pipeline.formats import human_boxes
from pipeline.formats.coco import read_json
from pipeline.formats.corrections.marks import KEY, MARKS, VERSION, read_images
from pipeline.formats.files import write_json

FILE = "marks/reviewed.json"
"""In the folder of a run."""


@dataclass(frozen=True)
class Change:
    """What a person said of an image's boxes.

    Attributes:
        mark: right, wrong or to_correct; None: the mark was taken back.
        date: when, in ISO 8601 and UTC, with milliseconds, so that texts compare as times do.
    """

    mark: str | None
    date: str


class MarksFile:
    """The file of a run's marks.

    Args:
        path: of the file, which need not exist.
        records: of each image that can be marked, by name, as `describe_image` returns it.
    """

    def __init__(self, path: Path, records: Mapping[str, Mapping[str, Any]]) -> None:
        self.path = path
        self.records = records
        self._lock = FileLock(path.with_name(f".{path.name}.lock"))

    def read(self) -> dict[str, Change]:
        """Return what was said last of each image that can be marked, by name.

        Marks of other boxes than those of `records` are left out.

        Raises:
            UserError: the file is damaged, or of another version.
        """
        images, removed = self._load()
        marked = {
            name: Change(image["mark"], image["date"])
            for name, image in images.items()
            if self._is_of_these_boxes(image)
        }
        return marked | {
            name: Change(None, date) for name, date in removed.items() if name in self.records
        }

    def merge(self, changes: Mapping[str, Change]) -> dict[str, Change]:
        """Add changes to those that are in the file, by an atomic write; the latest one stays.

        Args:
            changes: by the name of an image that can be marked.

        Returns:
            What `read` then returns.

        Raises:
            ValueError: an image cannot be marked, or a mark is none.
            UserError: the file is damaged, or of another version.
        """
        for name, change in changes.items():
            if name not in self.records:
                raise ValueError(f"{name!r} is no image that can be marked")
            if change.mark is not None and change.mark not in MARKS[VERSION]:
                raise ValueError(f"{change.mark!r} is no mark")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._lock:
            images, removed = self._load()
            for name, change in changes.items():
                self._apply(name, change, images, removed)
            self._write(images, removed)
            return self.read()

    def read_all(self) -> dict[str, dict[str, Any]]:
        """Return the records of all images of the file, by name, of whatever boxes they are.

        Raises:
            UserError: the file is damaged, or of another version.
        """
        return self._load()[0]

    def count(self) -> Counter[str]:
        """Return how many images of the file have each mark.

        Raises:
            UserError: the file is damaged, or of another version.
        """
        return Counter(image["mark"] for image in self._load()[0].values())

    def count_of_other_boxes(self) -> int:
        """Return how many marks of the file are not of the images and boxes of `records`.

        Raises:
            UserError: the file is damaged, or of another version.
        """
        return sum(not self._is_of_these_boxes(image) for image in self._load()[0].values())

    def _apply(
        self,
        name: str,
        change: Change,
        images: dict[str, dict[str, Any]],
        removed: dict[str, str],
    ) -> None:
        """Apply a change, unless the file has a later one of the same image and boxes."""
        before = images.get(name)
        if before is not None and self._is_of_these_boxes(before) and before["date"] > change.date:
            return
        if removed.get(name, "") > change.date:
            return
        images.pop(name, None)
        removed.pop(name, None)
        if change.mark is None:
            removed[name] = change.date
        else:
            images[name] = {**self.records[name], "mark": change.mark, "date": change.date}

    def _is_of_these_boxes(self, image: Mapping[str, Any]) -> bool:
        """Return whether a mark is of an image and boxes that can be marked."""
        record = self.records.get(image["file_name"])
        return record is not None and all(image[key] == value for key, value in record.items())

    def _load(self) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
        """Return the images of the file, and when the mark of others was taken back, by name."""
        if not self.path.is_file():
            return {}, {}
        content = read_json(self.path)
        if not isinstance(content, Mapping):
            raise UserError(f"{self.path}: no marks; move the file away, and mark again")
        read_images(content, self.path)  # checks the records
        images = {image["file_name"]: dict(image) for image in content["images"]}
        return images, _read_removed(content.get("removed", []), self.path)

    def _write(self, images: Mapping[str, Any], removed: Mapping[str, str]) -> None:
        """Write the file by an atomic write."""
        now = time.time()
        saved = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
        content = {
            KEY: VERSION,
            "saved": f"{saved}.{int(1000 * (now % 1)):03d}Z",
            "images": list(images.values()),
            "removed": [{"file_name": name, "date": date} for name, date in removed.items()],
        }
        write_json(self.path, content, indent=1)


def _read_removed(records: Any, path: Path) -> dict[str, str]:
    """Return when marks were taken back, by name of the image. Raise UserError otherwise."""
    fields = ("file_name", "date")
    if not isinstance(records, list) or not all(
        isinstance(record, Mapping) and all(isinstance(record.get(key), str) for key in fields)
        for record in records
    ):
        raise UserError(f"{path}: removed is no list of file_name and date; move the file away")
    return {record["file_name"]: record["date"] for record in records}


def describe_unsaved(path: Path, ingested: Path) -> str:
    """Describe the marks of a file that stage ingest has not taken; empty where there are none.

    Args:
        path: the file of the marks, which need not exist.
        ingested: human_boxes.json of the folder of outputs, which need not exist.

    Returns:
        How many they are, as `3 marks`; or that the file cannot be read.
    """
    if not path.is_file():
        return ""
    try:
        images = MarksFile(path, {}).read_all()
    except UserError:
        return "a file of marks that cannot be read"
    known = _list_ingested(ingested) if images else {}
    count = sum(known.get(name, "") < image["date"] for name, image in images.items())
    return f"{count} mark{'s' * (count != 1)}" if count else ""


def _list_ingested(path: Path) -> dict[str, str]:
    """Return when each image was reviewed last, of those in human_boxes.json, by name."""
    if not path.is_file():
        return {}
    try:
        images, wrong, replaced = human_boxes.read_all(path)
    except UserError:
        return {}
    dates: dict[str, str] = {}
    for review in (*images, *wrong, *replaced):
        dates[review.id] = max(dates.get(review.id, ""), review.date)
    return dates


def describe_counts(counts: Mapping[str, int]) -> str:
    """Return how many images have each mark, as `12 right, 3 wrong, 1 to correct`.

    Args:
        counts: by mark.
    """
    kinds: Iterable[str] = MARKS[VERSION]
    return ", ".join(f"{counts.get(mark, 0)} {mark.replace('_', ' ')}" for mark in kinds)
