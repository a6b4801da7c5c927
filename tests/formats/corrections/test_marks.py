"""Marks of our review page: read as the page writes them, and refused otherwise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.formats.corrections import read_corrections
from pipeline.formats.corrections.marks import VERSION, describe_image, name_in_browser
from pipeline.types import FoundBox, ImageBoxes

NAME = 'val/"it\'s" <b>&amp;/Zaunkönig #1?.jpg'


def record(**fields: Any) -> dict[str, Any]:
    boxes = [{"class": "<i> & co", "xyxy": [1.25, 2, 30.5, 40]}]
    whole = {"file_name": NAME, "width": 60, "height": 50, "boxes": boxes, "mark": "right",
             "date": "2026-01-02T03:04:05.678Z"}  # fmt: skip
    return {**whole, **fields}


def write(path: Path, *images: Any, version: str = "1") -> Path:
    content = {"label2box_marks": version, "saved": "2026-01-02", "images": list(images)}
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_right_is_a_persons_review_and_wrong_is_none(tmp_path: Path) -> None:
    path = write(
        tmp_path / "reviewed.json", record(), record(file_name="b.jpg", mark="wrong", boxes=[])
    )
    content = read_corrections(path)
    assert (content.format, list(content.notes)) == ("marks", [])
    right, wrong = content.images
    assert (right.name, right.size, right.mark, right.is_reviewed) == (
        NAME,
        (50, 60),
        "right",
        True,
    )
    assert right.boxes.tolist() == [[1.25, 2, 30.5, 40]]
    assert list(right.classes) == ["<i> & co"]
    assert (wrong.mark, wrong.is_reviewed, len(wrong.boxes)) == ("wrong", False, 0)


@pytest.mark.parametrize(
    ("images", "reason"),
    [
        ([], "no marks"),
        ([record(mark="good")], r"images\[0\]: mark is 'good'"),
        ([record(), record(file_name="")], r"images\[1\]: file_name"),
        ([record(boxes=[{"class": "a", "xyxy": [1, 2, 3]}])], "no four numbers"),
        ([record(boxes=[{"class": "a", "xyxy": [1, 2, 1, 3]}])], "empty, reversed"),
        ([record(boxes=[{"xyxy": [1, 2, 3, 4]}])], "no class"),
        ([record(width=None)], "width and height"),
        ([record(date=None)], "date"),
        (["a.jpg"], "no object"),
        ([record(), record(mark="wrong")], r"images\[0\] and images\[1\] are both"),
    ],
)
def test_what_the_page_does_not_write_is_refused(
    images: list[Any], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=reason):
        read_corrections(write(tmp_path / "reviewed.json", *images))


def test_another_version_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="version '3', not 1 or 2"):
        read_corrections(write(tmp_path / "reviewed.json", record(), version="3"))


def test_to_be_corrected_is_of_version_2(tmp_path: Path) -> None:
    path = write(tmp_path / "reviewed.json", record(mark="to_correct"), version="2")
    (image,) = read_corrections(path).images
    assert (image.mark, image.is_reviewed) == ("to_correct", False)
    with pytest.raises(UserError, match="mark is 'to_correct'; expected 'right' or 'wrong';"):
        read_corrections(write(tmp_path / "older.json", record(mark="to_correct")))


def test_what_a_page_keeps_is_read(tmp_path: Path) -> None:
    boxes = [FoundBox(label=1, box=(1.256, 2, 30.5, 40), score=1)]
    image = ImageBoxes(position=0, id=NAME, size=(50, 60), boxes=boxes)
    kept = describe_image(image, ["a", "<i> & co"])
    assert kept == {key: value for key, value in record().items() if key in kept} | {
        "boxes": [{"class": "<i> & co", "xyxy": [1.26, 2, 30.5, 40]}]
    }
    path = write(tmp_path / "reviewed.json", {**record(), **kept}, version=VERSION)
    assert read_corrections(path).images[0].boxes.tolist() == [[np.float32(1.26), 2, 30.5, 40]]
    assert name_in_browser(kept) == name_in_browser(json.loads(json.dumps(kept)))
    assert name_in_browser(kept) != name_in_browser({**kept, "boxes": []})
