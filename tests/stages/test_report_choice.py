"""Which images the page shows: what is not on it is counted in its sentence and in notes."""

from __future__ import annotations

from pipeline.stages.report.view_model import Choice


def choice(**given: object) -> Choice:
    known: dict[str, object] = {
        "shown": 8, "total": 8, "is_sample": False, "unread": [], "without_map": 0, "cut": [],
    }  # fmt: skip
    return Choice(**(known | given))  # type: ignore[arg-type]


def test_all_images_are_shown() -> None:
    assert choice().describe(0)["sentence"] == "all 8 images"
    assert choice().is_whole
    assert choice().list_notes() == []


def test_images_without_a_map_make_no_sample() -> None:
    shown = choice(shown=6, without_map=2)
    assert shown.describe(0)["sentence"] == "all 6 images; 2 without a map are not shown"
    assert shown.is_whole, "what is scored has a map"
    sample = choice(shown=3, is_sample=True)
    assert sample.describe(7)["sentence"] == "3 of 8 images, drawn at random (seed 7)"
    assert not sample.is_whole


def test_what_is_left_out_is_counted() -> None:
    shown = choice(shown=7, unread=["a.jpg: gone"], cut=["b.jpg"])
    assert "1 cannot be read any more" in shown.describe(0)["sentence"]
    assert "of 1 the first 8 classes" in shown.describe(0)["sentence"]
    unread, cut = shown.list_notes()
    assert "report: 1 of 8 images could not be read and are not on the page" in unread
    assert "report: 1 image ('b.jpg') of 8 with more classes than the page has" in cut
    assert not shown.is_whole
