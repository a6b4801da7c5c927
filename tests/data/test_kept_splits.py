"""Large folders of classes: their list is kept, and searched again where something changed."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.data import kept_splits
from pipeline.data.folder import Folder
from pipeline.data.left_out import LeftOut
from pipeline.errors import UserError
from pipeline.types import Split
from tests.data import drawn_sets


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of two classes with val/, test/ and a note on a file; all sets count as large."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(kept_splits, "MIN_KEPT", 1)
    monkeypatch.setattr("pipeline.data.file_table.pack.__defaults__", (1,))
    root = tmp_path / "set"
    for part, count in (("train", 9), ("val", 3), ("test", 2)):
        for n in range(2 * count):
            drawn_sets.paint(root / part / "ab"[n % 2] / f"{n} ü.jpg", n)
    (root / "train/a/notes.xyz").write_text("")
    (root / "classes.txt").write_text("a\tauk\nb\tbunting\n", encoding="utf-8")
    settle(root)
    return root


def settle(root: Path) -> None:
    """Let all look as if it changed long ago."""
    before = time.time_ns() - 10_000_000_000
    for place in (root, root / "classes.txt", *(p for p in root.rglob("*") if p.is_dir())):
        os.utime(place, ns=(before, before))


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The roots that were searched."""
    search, seen = Folder._search, list[str]()

    def note_search(self: Folder) -> tuple[kept_splits.KeptSplits, LeftOut]:
        seen.append(self.root)
        return search(self)

    monkeypatch.setattr(Folder, "_search", note_search)
    return seen


def describe(data: Folder) -> list[Any]:
    parts: tuple[Split, ...] = ("train", "held_back", "calibration", "val", "test")
    of_parts = [(p, data.ids(p), data.labels(p).tolist(), data.fingerprint(p)) for p in parts]
    notes = [(str(note), getattr(note, "names", ())) for note in data.notes()]
    stamps = [data.stamp("all", n) for n in range(len(data.ids("all")))]
    return [of_parts, notes, stamps, data.classes, data.path("val", 0)]


def test_the_list_is_kept_and_is_the_same(root, searches):
    first = describe(Folder(str(root)))
    assert describe(Folder(str(root))) == first
    assert len(searches) == 1
    assert any("notes.xyz" in note or ".xyz" in note for note, _ in first[1])


def test_other_options_are_searched(root, searches):
    describe(Folder(str(root)))
    assert len(Folder(str(root), held_back=0).ids("held_back")) == 0
    assert len(searches) == 2


@pytest.mark.parametrize("change", ["add", "remove", "rename", "classes", "folder"])
def test_a_change_of_a_folder_is_seen(root, searches, change):
    before = describe(Folder(str(root)))
    file = next((root / "train/b").iterdir())
    if change == "add":
        drawn_sets.paint(root / "train/b/new.jpg", 3)
    elif change == "remove":
        file.unlink()
    elif change == "rename":
        file.rename(file.with_name("other.jpg"))
    elif change == "classes":
        (root / "classes.txt").write_text("a\tauk\nb\tbuzzard\n", encoding="utf-8")
    else:
        (root / "more").mkdir()
    changed = Folder(str(root))
    after = describe(changed)
    assert len(searches) == 2
    assert (after != before) == (change != "folder")
    settle(root)
    assert describe(Folder(str(root))) == after


def test_a_file_that_changed_in_place_is_found_when_it_is_read(root, searches):
    describe(Folder(str(root)))
    data = Folder(str(root))
    drawn_sets.paint(data.path("train", 2), 99)
    assert data.example("train", 1).size == drawn_sets.SIZE
    with pytest.raises(UserError, match="the file was changed after its folder was indexed"):
        data.example("train", 2)
    again = Folder(str(root))
    assert again.example("train", 2).size == drawn_sets.SIZE
    assert len(searches) == 2


def test_few_files_and_links_are_not_kept(root, searches, monkeypatch):
    (root / "train/a/link.jpg").symlink_to(root / "train/b/1 ü.jpg")
    settle(root)
    for _ in range(2):
        describe(Folder(str(root)))
    assert len(searches) == 2
    (root / "train/a/link.jpg").unlink()
    settle(root)
    monkeypatch.setattr(kept_splits, "MIN_KEPT", 100)
    for _ in range(2):
        describe(Folder(str(root)))
    assert len(searches) == 4


def test_a_folder_that_changed_just_now_is_not_relied_on(root, searches):
    drawn_sets.paint(root / "train/b/new.jpg", 3)
    for _ in range(2):
        describe(Folder(str(root)))
    assert len(searches) == 2


def test_a_damaged_file_is_made_again(root, tmp_path, searches):
    before = describe(Folder(str(root)))
    (kept,) = (tmp_path / "cache/label2box").glob("splits-*")
    kept.write_bytes(kept.read_bytes()[:200])
    assert describe(Folder(str(root))) == before
    assert len(searches) == 2
