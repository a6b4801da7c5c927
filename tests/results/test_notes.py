"""Notes: on the terminal, in the report and in notes.json, made or reused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.results.notes import load_notes, note_record, skipped_note, unique_notes, write_notes
from pipeline.types import Note
from pipeline.types.notes import MAX_NAMES
from tests.conftest import Cli


def test_notes_come_back_with_what_they_count(tmp_path: Path) -> None:
    names = [f"{n}.png" for n in range(MAX_NAMES + 5)]
    write_notes(tmp_path, ["a line", Note("many", names), "a line"])
    line, many = load_notes(tmp_path)
    assert (line, line.total, line.names) == ("a line", 0, ())
    assert (many, many.total, len(many.names)) == ("many", MAX_NAMES + 5, MAX_NAMES)
    assert load_notes(tmp_path / "none") == []


def test_a_record_holds_text_count_and_names() -> None:
    assert note_record(Note("two", ["a", "b"])) == {"text": "two", "count": 2, "names": ["a", "b"]}
    assert unique_notes(["b", "a", "b"]) == ["b", "a"]


def test_skipped_images_are_counted_among_all_and_named() -> None:
    assert skipped_note("explain", [], 9, "have no map") == []
    (note,) = skipped_note("explain", [f"{n}.png: broken" for n in range(5)], 9, "have no map")
    assert note.startswith("explain: 5 of 9 images could not be read and have no map; repair")
    assert "0.png: broken" in note
    assert "and 2 more" in note
    assert note.total == 5


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 3)):
        for name in ("red", "blue"):
            (tmp_path / "set" / split / name).mkdir(parents=True)
            for n in range(count):
                pixels = generator.integers(0, 255, (20, 24, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(tmp_path / "set" / split / name / f"{n}.png")
    for n in range(5):
        (tmp_path / f"set/val/red/broken{n}.png").write_text("no image")
    (tmp_path / "set/train/red/broken.png").write_text("no image")
    (tmp_path / "set/val/none").mkdir()
    return tmp_path / "set"


def test_a_run_prints_notes_and_keeps_them_also_where_its_results_are_reused(
    cli: Cli, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("+experiment=cam", "data=folder", f"data.root={folder}", "data.size=32",
               "train.epochs=1", "train.batch=4", "runtime.workers=1")  # fmt: skip
    for _ in range(2):
        assert cli(*command) == 0
        printed = capsys.readouterr().out
        assert "note: explain: 5 of 11 images could not be read and have no map" in printed
        assert "note: train: 1 of 13 images could not be read and were not learned from" in printed
        assert printed.count("explain: 5 of 11") == 1
        records = json.loads((tmp_path / "outputs/latest/notes.json").read_text("utf-8"))
        by_stage = {record["stage"]: record for record in records}
        assert by_stage["explain"]["count"] == len(by_stage["explain"]["names"]) == 5
        assert by_stage["train"]["count"] == 1
        assert any("val/none" in r["text"] for r in records if r["stage"] == "data")
        assert f"{len(records)} notes, with their names, in" in printed
        page = (tmp_path / "outputs/latest/report/index.html").read_text("utf-8")
        assert "explain: 5 of 11 images could not be read" in page
        assert page.count("broken4.png") >= 1


def test_results_below_the_data_do_not_make_the_report_again(
    cli: Cli, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("+experiment=cam", "data=folder", f"data.root={folder}", "data.size=32",
               "train.epochs=1", "train.batch=4", "runtime.workers=1",
               f"outputs={folder}/val/results")  # fmt: skip
    assert cli(*command) == 0
    capsys.readouterr()
    assert cli(*command) == 0
    printed = capsys.readouterr().out
    assert "written by label2box, its pictures are no photographs" in printed
    assert "report kept" in " ".join(printed.split())


def test_notes_beyond_the_first_are_in_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from pipeline.engine import run_folder, terminal

    made = run_folder.RunFolder.__new__(run_folder.RunFolder)
    made.path, made.notes = tmp_path, []
    terminal.forget_notes()
    made.add_notes("data", "cam", [f"note {n}" for n in range(run_folder.MAX_PRINTED_NOTES + 7)])
    printed = capsys.readouterr().out
    assert "data: 7 more notes in" in printed
    records = json.loads((tmp_path / "notes.json").read_text())
    assert len(records) == run_folder.MAX_PRINTED_NOTES + 7


def test_a_single_note_beyond_the_first_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from pipeline.engine import run_folder, terminal

    made = run_folder.RunFolder.__new__(run_folder.RunFolder)
    made.path, made.notes = tmp_path, []
    terminal.forget_notes()
    made.add_notes("data", "cam", [f"note {n}" for n in range(run_folder.MAX_PRINTED_NOTES + 1)])
    printed = capsys.readouterr().out
    assert f"note {run_folder.MAX_PRINTED_NOTES}" in printed
    assert "more notes" not in printed
