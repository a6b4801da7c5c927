"""The file of a run's marks: the latest change stays, and nothing is half written."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import UserError
from pipeline.formats.corrections import read_corrections
from pipeline.results.marks import Change, MarksFile, describe_counts


def record(name: str, left: float = 10.5) -> dict[str, Any]:
    return {"file_name": name, "width": 60, "height": 50,
            "boxes": [{"class": "cube", "xyxy": [left, 2.0, 30.25, 40.0]}]}  # fmt: skip


RECORDS = {name: record(name) for name in ("a.jpg", "b.jpg", "c.jpg", 'צבי "<b>.jpg')}


def at(second: int) -> str:
    return f"2026-01-02T03:04:{second:02d}.000Z"


@pytest.fixture
def marks(tmp_path: Path) -> MarksFile:
    return MarksFile(tmp_path / "marks/reviewed.json", RECORDS)


def test_what_is_saved_is_what_ingest_reads(marks: MarksFile) -> None:
    changes = {
        name: Change(mark, at(n))
        for n, (name, mark) in enumerate(zip(RECORDS, ("right", "wrong", "to_correct", None)))  # noqa: B905
    }
    assert marks.read() == {}
    assert marks.merge(changes) == changes == marks.read()
    content = read_corrections(marks.path)
    assert [(image.name, image.mark) for image in content.images] == [
        ("a.jpg", "right"), ("b.jpg", "wrong"), ("c.jpg", "to_correct"),
    ]  # fmt: skip
    assert content.images[0].boxes.tolist() == [[10.5, 2, 30.25, 40]]
    assert describe_counts(marks.count()) == "1 right, 1 wrong, 1 to correct"


def test_of_an_image_the_latest_change_stays(marks: MarksFile) -> None:
    marks.merge({"a.jpg": Change("right", at(5))})
    assert marks.merge({"a.jpg": Change("wrong", at(4))})["a.jpg"].mark == "right"
    assert marks.merge({"a.jpg": Change(None, at(6))})["a.jpg"].mark is None
    assert marks.merge({"a.jpg": Change("right", at(5))})["a.jpg"].mark is None, "taken back"
    assert marks.count() == {}
    assert marks.merge({"a.jpg": Change("to_correct", at(7))})["a.jpg"].mark == "to_correct"
    assert json.loads(marks.path.read_text())["removed"] == []


def test_several_writers_lose_no_mark(marks: MarksFile) -> None:
    other = MarksFile(marks.path, RECORDS)  # as of another tab, or another server
    names = list(RECORDS)

    def save(n: int) -> None:
        writer = (marks, other)[n % 2]
        writer.merge({names[n % 4]: Change("right" if n > 15 else "wrong", at(n))})

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(save, range(20)))
    assert {name: change.mark for name, change in marks.read().items()} == dict.fromkeys(
        names, "right"
    )
    assert [path.name for path in marks.path.parent.glob("*.tmp")] == []


def test_marks_of_other_boxes_stay_and_are_not_shown(marks: MarksFile) -> None:
    older = MarksFile(marks.path, {"a.jpg": record("a.jpg", 11), "gone.jpg": record("gone.jpg")})
    older.merge({"a.jpg": Change("right", at(9)), "gone.jpg": Change("wrong", at(9))})
    assert marks.read() == {}
    assert marks.count_of_other_boxes() == 2
    marks.merge({"b.jpg": Change("right", at(1)), "a.jpg": Change("wrong", at(2))})
    assert {name: change.mark for name, change in marks.read().items()} == {
        "a.jpg": "wrong", "b.jpg": "right",
    }  # fmt: skip
    assert marks.count() == {"wrong": 2, "right": 1}, "gone.jpg is kept"


@pytest.mark.parametrize(
    ("name", "mark", "reason"),
    [("../a.jpg", "right", "no image that can be marked"), ("a.jpg", "good", "'good' is no mark")],
)
def test_what_cannot_be_marked_is_refused(
    marks: MarksFile, name: str, mark: str, reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        marks.merge({"b.jpg": Change("right", at(1)), name: Change(mark, at(1))})
    assert not marks.path.exists(), "all or nothing"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "reviewed.json"),
        ("[]", "no marks"),
        ('{"label2box_marks": "9", "images": []}', "version '9'"),
        ('{"label2box_marks": "2", "images": [], "removed": ["a.jpg"]}', "removed is no list"),
        ('{"label2box_marks": "2", "images": [{"file_name": "a.jpg"}]}', "mark is None"),
    ],
)
def test_a_damaged_file_is_named_and_kept(marks: MarksFile, text: str, reason: str) -> None:
    marks.path.parent.mkdir()
    marks.path.write_text(text)
    with pytest.raises(UserError, match=reason):
        marks.merge({"a.jpg": Change("right", at(1))})
    assert marks.path.read_text() == text
