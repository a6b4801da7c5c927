"""Sections of the page about stages check, audit and inspect of the run, with their pictures.

Each has its own files in the run's folder, which the section links to; here are the numbers and the
pictures, small enough to be in the page.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.formats.files import read_json
from pipeline.stages.report.shown_images import embed
from pipeline.types import AuditNumber

SECTIONS = ("check", "audit", "inspect")  # the stages, in their order on the page
WIDTH = 960  # of a picture, at most
HEIGHT = 1600  # of a picture, at most: a contact sheet of many images is cut off below
MAX_PICTURES = 12  # of a section


def describe_check(folder: Path) -> dict[str, Any]:
    """Return the section of stage check: findings with remedies, and the contact sheet.

    Args:
        folder: the result of the stage.
    """
    summary = read_json(folder / "check.json")
    rows = [[f["severity"], f["text"], f["remedy"]] for f in summary["findings"]]
    counts = {name: sum(row[0] == name for row in rows) for name in ("error", "warning", "note")}
    said = ", ".join(f"{n} {name}{'s' * (n != 1)}" for name, n in counts.items())
    return {
        "key": "check",
        "title": "The data set",
        "sentence": f"{summary['images']} images of {len(summary['classes'])} classes: {said}.",
        "head": ["", "finding", "remedy"],
        "rows": rows,
        "pictures": _draw([("A look at each class", folder / "check/sheet.jpg")]),
        "more": 0,
        "link": "../check/index.html",
        "link_text": "The page of stage check",
    }


def describe_audit(folders: Mapping[str, Path], numbers: Sequence[AuditNumber]) -> dict[str, Any]:
    """Return the section of stage audit: what the tests say of each method, and their pictures.

    Args:
        folders: the result of the stage for each method.
        numbers: of the tests, in the order of the rows.
    """
    by_method = [_read_audit(folder / "audit.json") for folder in folders.values()]
    rows = []
    for number in numbers:
        records = [of_method.get(number.name) for of_method in by_method]
        if any(records):
            counts = sorted({record["n"] for record in records if record is not None})
            shown = [_write(record) for record in records]
            rows.append([number.title, number.good, *shown, " to ".join(map(str, counts))])
    files = [
        (f"{path.stem} of {name}" if len(folders) > 1 else path.stem, path)
        for name, folder in folders.items()
        for path in sorted((folder / "pictures").glob("*.png"))
    ]
    return {
        "key": "audit",
        "title": "Can the maps be trusted?",
        "sentence": (
            "Tests of stage audit: mean and 95 % interval over n images; the second column says "
            "whether low or high values are good."
        ),
        "head": ["test", "good", *folders, "n"],
        "rows": rows,
        "pictures": _draw(files[:MAX_PICTURES]),
        "more": max(0, len(files) - MAX_PICTURES),
        "link": "../audit.json",
        "link_text": "audit.json",
    }


def describe_inspect(folder: Path) -> dict[str, Any]:
    """Return the section of stage inspect: the sheet of each view.

    Args:
        folder: the result of the stage.
    """
    files = [(path.stem, path) for path in sorted(folder.glob("*.png"))]
    return {
        "key": "inspect",
        "title": "What the network responds to",
        "sentence": (
            "Sheets of stage inspect; each picture alone, and the numbers, are in the folder "
            "inspected."
        ),
        "head": [],
        "rows": [],
        "pictures": _draw(files[:MAX_PICTURES]),
        "more": max(0, len(files) - MAX_PICTURES),
        "link": "../inspected/",
        "link_text": "inspected/",
    }


def _read_audit(path: Path) -> dict[str, Mapping[str, Any]]:
    """Return the records of a method over all parts of the network, by name."""
    numbers = read_json(path)["numbers"]
    return {record["name"]: record for record in numbers if record["part"] is None}


def _write(record: Mapping[str, Any] | None) -> str:
    """Return the mean and the interval of a record; a dash where there is none."""
    if record is None:
        return "-"
    low, high = record["interval"]
    return f"{record['value']:z.2f} ({low:z.2f} to {high:z.2f})"


def _draw(files: Sequence[tuple[str, Path]]) -> list[dict[str, Any]]:
    """Return pictures as the page has them, scaled down to its width."""
    return list(_iterate(files))


def _iterate(files: Sequence[tuple[str, Path]]) -> Iterator[dict[str, Any]]:
    import cv2
    import numpy as np

    for title, path in files:
        if not path.is_file():
            continue
        image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR_RGB)
        assert image is not None, path  # a stage of this run wrote it
        height, width = image.shape[:2]
        shrink = min(1.0, WIDTH / width)
        size = max(1, round(width * shrink)), max(1, round(height * shrink))
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)[:HEIGHT]
        yield {
            "title": title.replace("_", " "),
            "picture": embed(small),
            "width": small.shape[1],
            "height": small.shape[0],
            "is_cut": size[1] > HEIGHT,
        }
