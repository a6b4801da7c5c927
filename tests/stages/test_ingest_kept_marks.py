"""Marks that were ingested are shown by the report that they are of."""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.results.marked_page import REPORT
from pipeline.results.marks import FILE, Change, MarksFile
from pipeline.stages.ingest.kept_marks import keep_marks

DATE, LATER = "2026-01-02T03:04:05.678Z", "2026-03-02T03:04:05.678Z"
PAGE = '<script type="application/json" id="saved-marks">null</script>'


def record(name: str) -> dict[str, object]:
    return {"file_name": name, "width": 4, "height": 3, "boxes": []}


def write_marks(path: Path, **marks: str) -> Path:
    """Write the marks of images as the page downloads them."""
    images = [{**record(name), "mark": mark, "date": DATE} for name, mark in marks.items()]
    content = {"label2box_marks": "2", "saved": DATE, "images": images}
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_marks_lie_beside_the_report_and_in_it(tmp_path: Path) -> None:
    page = tmp_path / "run" / REPORT
    file = write_marks(tmp_path / "reviewed.json", a="right", b="wrong")
    assert keep_marks(tmp_path / "run", file) == [], "there is no report"
    page.parent.mkdir(parents=True)
    page.write_text(PAGE, encoding="utf-8")
    marks = MarksFile(tmp_path / "run" / FILE, {name: record(name) for name in ("a", "c")})
    marks.merge({"a": Change("to_correct", LATER), "c": Change("right", DATE)})
    (line,) = keep_marks(tmp_path / "run", file)
    assert line.startswith("2 marks are shown by the report of")
    kept = {name: image["mark"] for name, image in marks.read_all().items()}
    assert kept == {"a": "to_correct", "b": "wrong", "c": "right"}, "a later mark stays"
    assert '"file_name": "b"' in page.read_text(encoding="utf-8")


def test_a_file_of_a_tool_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "run" / REPORT
    page.parent.mkdir(parents=True)
    page.write_text(PAGE, encoding="utf-8")
    (tmp_path / "tool.json").write_text(json.dumps({"images": [], "annotations": []}))
    assert keep_marks(tmp_path / "run", tmp_path / "tool.json") == []
    assert page.read_text(encoding="utf-8") == PAGE
