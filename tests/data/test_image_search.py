"""image_search: which files below a folder are images, and what is said of all others."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from pipeline.data import image_search


def make(root: Path, *names: str) -> Path:
    """Make empty files, and return their root."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def ids(root: Path, prefix: str = "") -> list[str]:
    return [file.id for file in image_search.search(root, prefix).files]


def test_files_in_order_at_any_depth(tmp_path):
    make(tmp_path, "b.JPG", "a.png", "sub/c.jpeg", "sub/deep/d.webp", "notes.txt", ".hidden.jpg",
         ".git/x.jpg", "noending")  # fmt: skip
    assert ids(tmp_path) == ["a.png", "b.JPG", "sub/c.jpeg", "sub/deep/d.webp"]
    assert ids(tmp_path, "train/cat")[0] == "train/cat/a.png"


def test_odd_names_are_printable_and_apart(tmp_path):
    raw = ["a b.jpg", "it's.jpg", 'q".jpg', "a=b,[c].jpg", "ü鳥.jpg", "n\nl.jpg", "n\\nl.jpg",
           os.fsdecode(b"\xff.jpg"), "\\xff.jpg", "y" * 251 + ".jpg"]  # fmt: skip
    printable_ids = ids(make(tmp_path, *raw))
    assert len(set(printable_ids)) == len(raw)
    for id in printable_ids:
        assert id.encode().decode().isprintable()
    assert {"a b.jpg", "a=b,[c].jpg", "ü鳥.jpg"} < set(printable_ids)


def test_two_files_of_one_name(tmp_path):
    assert ids(make(tmp_path, "x/1.jpg", "y/1.jpg")) == ["x/1.jpg", "y/1.jpg"]


def test_loops_links_and_pipes(tmp_path):
    make(tmp_path, "train/cat/1.jpg", "train/dog/2.jpg", "elsewhere/3.jpg")
    cat = tmp_path / "train/cat"
    (cat / "self").symlink_to(cat)
    (cat / "up").symlink_to(tmp_path)  # would bring the dogs in as cats
    (cat / "ring1").symlink_to(cat / "ring2")
    (cat / "ring2").symlink_to(cat / "ring1")
    (cat / "gone.jpg").symlink_to(tmp_path / "nothing.jpg")
    (cat / "more").symlink_to(tmp_path / "elsewhere")
    (cat / "4.jpg").symlink_to(tmp_path / "elsewhere/3.jpg")
    os.mkfifo(cat / "pipe.jpg")
    result = image_search.search(cat, "cat")
    assert [file.id for file in result.files] == ["cat/1.jpg", "cat/4.jpg", "cat/more/3.jpg"]
    assert sorted(result.notes) == [
        "2 folders ('cat/self', 'cat/up'): a link back to a folder above it, not followed",
        "3 links ('cat/gone.jpg', 'cat/ring1', 'cat/ring2'): a link to nothing, left out",
        "cat/pipe.jpg: not a file, left out",
    ]


def test_a_class_folder_that_is_a_link(tmp_path):
    make(tmp_path, "big/cats/1.jpg", "big/dogs/2.jpg")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/cat").symlink_to(tmp_path / "big/cats")
    (tmp_path / "big/cats/back").symlink_to(tmp_path / "big")
    assert ids(tmp_path / "data/cat") == ["1.jpg"]


def test_endless_depth(tmp_path):
    deep = tmp_path
    for _ in range(300):
        deep = deep / "d"
    deep.mkdir(parents=True)
    result = image_search.search(tmp_path)
    assert "folders deep" in result.notes[0]


def make_unreadable(monkeypatch, name: str) -> None:
    """Refuse to read folders of this name."""
    original = os.scandir

    def scandir(path):
        if os.path.basename(os.fspath(path)) == name:
            raise PermissionError(13, "Permission denied", str(path))
        return original(path)

    monkeypatch.setattr(os, "scandir", scandir)


def test_a_folder_that_cannot_be_read(tmp_path, monkeypatch):
    make(tmp_path, "a/1.jpg", "locked/2.jpg", "z/3.jpg")
    make_unreadable(monkeypatch, "locked")
    result = image_search.search(tmp_path)
    assert [file.id for file in result.files] == ["a/1.jpg", "z/3.jpg"]
    assert result.notes == ["locked: the folder cannot be read (Permission denied)"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_without_permission(tmp_path):
    make(tmp_path, "a/1.jpg", "locked/2.jpg")
    (tmp_path / "locked").chmod(0)
    try:
        assert image_search.search(tmp_path).notes == [
            "locked: the folder cannot be read (Permission denied)"
        ]
    finally:
        (tmp_path / "locked").chmod(0o700)


def test_a_file_that_vanishes_while_listing(tmp_path, monkeypatch):
    make(tmp_path, "1.jpg", "2.jpg")
    original = os.scandir

    class Entry:
        def __init__(self, entry):
            self.entry, self.name, self.path = entry, entry.name, entry.path

        def __getattr__(self, name):
            if self.name == "1.jpg" and name == "stat":
                raise FileNotFoundError(2, "No such file or directory")
            return getattr(self.entry, name)

    class Scan(list[Any]):
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(os, "scandir", lambda path: Scan(map(Entry, original(path))))
    result = image_search.search(tmp_path)
    assert [file.id for file in result.files] == ["2.jpg"]
    assert result.notes == ["1.jpg: cannot be looked at (No such file or directory), left out"]


def test_ten_thousand_files_take_one_scan_of_each_folder(tmp_path, monkeypatch):
    for c in range(30):
        (tmp_path / f"{c:03}").mkdir()
        for n in range(334):
            os.close(os.open(tmp_path / f"{c:03}" / f"{n:05}.jpg", os.O_CREAT | os.O_WRONLY))
    scanned = []
    original = os.scandir

    def record(path):
        scanned.append(path)
        return original(path)

    monkeypatch.setattr(os, "scandir", record)
    result = image_search.search(tmp_path)
    assert len(result.files) == 10_020
    assert len(scanned) == 31
