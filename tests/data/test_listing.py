"""listing: which files are listed, in which order, under which id, and how they are split."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.data import listing
from pipeline.data.listing import File, Listing
from pipeline.errors import UserError
from pipeline.formats import photo
from pipeline.formats.files import read_lines


def make(root: Path, *names: str) -> Path:
    """Make empty files, and return their root."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def ids(root: Path, prefix: str = "") -> list[str]:
    return [file.id for file in listing.search(root, prefix).files]


def files(count: int, classes: int = 1) -> Listing:
    entries = [File(f"{n % classes}/{n}.jpg", f"/{n}.jpg", (n, n)) for n in range(count)]
    return Listing(entries, [n % classes for n in range(count)], [str(n) for n in range(classes)])


def test_suffixes_are_those_that_pillow_reads():
    Image.init()
    read = {
        ending
        for ending, form in Image.registered_extensions().items()
        if form in Image.OPEN and form not in photo.NOT_READ
    }
    assert read == listing.SUFFIXES


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
    result = listing.search(cat, "cat")
    assert [file.id for file in result.files] == ["cat/1.jpg", "cat/4.jpg", "cat/more/3.jpg"]
    assert sorted(note.split(":")[0] for note in result.notes) == [
        "cat/gone.jpg", "cat/pipe.jpg", "cat/ring1", "cat/ring2", "cat/self", "cat/up"
    ]  # fmt: skip
    assert any("link to nothing" in note for note in result.notes)
    assert any("link back" in note for note in result.notes)


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
    result = listing.search(tmp_path)
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
    result = listing.search(tmp_path)
    assert [file.id for file in result.files] == ["a/1.jpg", "z/3.jpg"]
    assert result.notes == ["locked: the folder cannot be read (Permission denied)"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_without_permission(tmp_path):
    make(tmp_path, "a/1.jpg", "locked/2.jpg")
    (tmp_path / "locked").chmod(0)
    try:
        assert listing.search(tmp_path).notes == [
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
    result = listing.search(tmp_path)
    assert [file.id for file in result.files] == ["2.jpg"]
    assert result.notes == ["1.jpg: cannot be looked at (No such file or directory), left out"]


# -- splits


def test_split_by_hash_stays_when_images_are_added():
    few, many = (listing.set_apart(files(n), 0.2, "val") for n in (500, 1000))
    assert set(few[1].ids) <= set(many[1].ids)
    assert set(few[0].ids) <= set(many[0].ids)
    assert 0.15 < len(many[1].ids) / 1000 < 0.25
    assert not set(many[0].ids) & set(many[1].ids)


@pytest.mark.parametrize("count", range(2, 30))
def test_tiny_sets_have_both_parts(count):
    kept, apart = listing.set_apart(files(count, classes=min(count - 1, 3)), 0.1, "x")
    assert apart.ids
    assert set(kept.labels) == set(range(min(count - 1, 3)))


def test_nothing_to_spare():
    kept, apart = listing.set_apart(files(3, classes=3), 0.5, "x")
    assert (len(kept.ids), len(apart.ids)) == (3, 0)
    for share in (0.0, 0.5):
        assert listing.set_apart(files(0), share, "x")[1].ids == []
    assert listing.set_apart(files(9), 0.0, "x")[1].ids == []


def test_fingerprint_of_a_listing():
    some = files(5, 2)
    assert some.fingerprint() == files(5, 2).fingerprint() != files(4, 2).fingerprint()
    assert some.fingerprint() != Listing(some.files, [1, 1, 0, 1, 0], some.classes).fingerprint()
    assert some.fingerprint() != Listing(some.files, some.labels, ["0", "2"]).fingerprint()
    moved = [File(file.id, "/elsewhere" + file.path, file.stamp) for file in some.files]
    assert some.fingerprint() == Listing(moved, some.labels, some.classes).fingerprint()


# -- small things


def test_input_size():
    assert listing.parse_input_size(224) == (224, 224)
    assert listing.parse_input_size([96, 128]) == (96, 128)
    for wrong in (0, 7, 9000, (224,), (1, 2, 3), [224, -1]):
        with pytest.raises(UserError, match=r"data\.size"):
            listing.parse_input_size(wrong)


def test_lines(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_bytes("\ufeffn01 a\r\n\n  n02 \u2028 b  \nn03 c".encode())
    assert list(read_lines(path)) == [(1, "n01 a"), (3, "n02 \u2028 b"), (4, "n03 c")]
    path.write_bytes(b"ok\n\xff\xfe")
    with pytest.raises(UserError, match=r"classes\.txt: not UTF-8"):
        list(read_lines(path))
    with pytest.raises(UserError, match="no such file"):
        list(read_lines(tmp_path / "none.txt"))


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
    result = listing.search(tmp_path)
    assert len(result.files) == 10_020
    assert len(scanned) == 31
