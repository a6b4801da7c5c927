"""csv: a row a box that Python's reader and pandas take back as it was."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from tests.exporter.subjects import CLASSES, IDS, boxes_of
from tests.exporter.tools import export, subject

SIDES = ("x0", "y0", "x1", "y1")


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "boxes.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_boxes_scores_classes_and_names_come_back(tmp_path: Path) -> None:
    export("csv", subject(tmp_path / "images"), tmp_path / "csv")
    table = rows(tmp_path / "csv")
    assert [row["image"] for row in table] == [IDS[0], IDS[0], IDS[1], IDS[2], IDS[3]]
    assert [row["class"] for row in table] == [CLASSES[0], CLASSES[0], CLASSES[1], "", CLASSES[2]]
    read = np.array([[float(row[side]) for side in SIDES] for row in table if row["class"]])
    wanted = np.concatenate([boxes_of(position, False).boxes for position in range(4)])
    assert np.abs(read - wanted).max() < 0.01
    assert [row["score"] for row in table] == ["0.9", "0.1", "0.9", "", ""]
    assert [row["confidence"] for row in table] == ["0.8125", "0.25", "0.8125", "", ""]
    assert [row["source"] for row in table] == ["label2box"] * 4 + ["human"]
    assert [row["part"] for row in table] == ["val", "val", "val", "train", "train"]
    assert [row["review_rank"] for row in table] == ["2", "2", "1", "4", "3"]
    assert all(Path(row["path"]).is_file() for row in table)


def test_an_image_without_a_box_has_a_row_without_numbers(tmp_path: Path) -> None:
    export("csv", subject(tmp_path / "images"), tmp_path / "csv")
    (row,) = [row for row in rows(tmp_path / "csv") if row["image"] == "x.webp"]
    assert [row[name] for name in (*SIDES, "class", "score", "probability")] == [""] * 7
    assert (row["width"], row["height"]) == ("1", "1")


def test_lines_end_as_the_standard_says(tmp_path: Path) -> None:
    export("csv", subject(tmp_path / "images"), tmp_path / "csv")
    content = (tmp_path / "csv/boxes.csv").read_bytes()
    assert content.count(b"\r\n") == content.count(b"\n") == 6
    assert b'"""it\'s"""' in content


def test_masks_that_are_left_out_are_counted(tmp_path: Path) -> None:
    notes = export("csv", subject(tmp_path / "images", masks=True), tmp_path / "csv")
    assert ["4 masks are left out" in note for note in notes] == [True]
    assert export("csv", subject(tmp_path / "images"), tmp_path / "without") == []
