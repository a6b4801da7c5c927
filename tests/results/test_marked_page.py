"""A page with the marks of its run: they are data in it, whatever they hold."""

from __future__ import annotations

import json
import re
from pathlib import Path

from pipeline.results.marked_page import REPORT, write_marks_into_page
from pipeline.results.marks import FILE, Change, MarksFile

PLACE = '<script type="application/json" id="saved-marks">{}</script>'
NAME = "</script><script>alert(1)</script>"
RECORD = {"file_name": NAME, "width": 4, "height": 3, "boxes": []}
DATE = "2026-01-02T03:04:05.678Z"


def write_page(run: Path, text: str) -> Path:
    page = run / REPORT
    page.parent.mkdir(parents=True)
    page.write_text(text, encoding="utf-8")
    return page


def test_marks_are_in_the_page_and_end_no_script(tmp_path: Path) -> None:
    page = write_page(tmp_path, f"<p>before</p>{PLACE.format('null')}<p>after</p>")
    assert not write_marks_into_page(tmp_path), "there is no file of marks"
    marks = MarksFile(tmp_path / FILE, {NAME: RECORD})
    for mark in ("right", "wrong"):
        marks.merge({NAME: Change(mark, DATE)})
        assert write_marks_into_page(tmp_path)
        text = page.read_text(encoding="utf-8")
        (data,) = re.findall(PLACE.format("(.*?)"), text)
        (image,) = json.loads(data)["images"]
        assert (image["file_name"], image["mark"]) == (NAME, mark)
        assert json.loads(data)["path"] == FILE
        assert "<script>alert" not in text
        assert text.startswith("<p>before</p>")
        assert text.endswith("<p>after</p>")


def test_a_page_without_a_place_stays_as_it_is(tmp_path: Path) -> None:
    page = write_page(tmp_path, "<p>of an older version</p>")
    MarksFile(tmp_path / FILE, {NAME: RECORD}).merge({NAME: Change("right", DATE)})
    assert not write_marks_into_page(tmp_path)
    assert page.read_text(encoding="utf-8") == "<p>of an older version</p>"
