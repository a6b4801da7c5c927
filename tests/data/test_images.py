"""images: files, folders, globs and lists of them, without labels."""

from __future__ import annotations

import os
import unicodedata
from typing import Any

import pytest

from pipeline.data.images import Images
from pipeline.errors import UserError


@pytest.fixture
def photos(tmp_path, paint, monkeypatch):
    for name in ("b.jpg", "a.png", "x/1.jpg", "y/1.jpg", "y/z/2.jpg"):
        paint(tmp_path / "photos" / name)
    (tmp_path / "photos/notes.txt").write_text("nothing to see")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "photos"


def ids(paths):
    return list(Images(paths).ids("val"))


ALL = ["a.png", "b.jpg", "x/1.jpg", "y/1.jpg", "y/z/2.jpg"]


@pytest.mark.parametrize("path", ["photos", "photos/", "./photos", "photos/../photos"])
def test_folder(photos, path):
    size: Any = [64, 96]  # as YAML has it
    data = Images(path, size=size)
    assert (data.size, data.classes) == ((64, 96), ())
    assert list(data.ids("val")) == list(data.ids("all")) == ALL
    assert data.labels("val").tolist() == [-1] * 5
    for split in ("train", "held_back"):
        assert list(data.ids(split)) == []
        assert data.labels(split).shape == (0,)
    assert data.truth("val") == {}
    assert data.truth_notes() == data.notes() == []
    assert data.truth_fingerprint("val") == "none"
    names = data.coco_names("val")
    assert list(names.image_ids) == [1, 2, 3, 4, 5]
    assert list(names.category_ids) == []
    example = data.example("val", 4, at=(8, 9))
    assert (example.id, example.label, example.size) == ("y/z/2.jpg", -1, (30, 40))


@pytest.mark.parametrize(
    ("paths", "expected"),
    [("photos/a.png", ["a.png"]),
     ("photos/*", ALL), ("photos/*.jpg", ["b.jpg"]), ("photos/**/*.jpg", ALL[1:]),
     ("photos/**", ALL), ("photos/?/*.jpg", ["x/1.jpg", "y/1.jpg"]),
     (["photos/x", "photos/y"], ["x/1.jpg", "y/1.jpg", "y/z/2.jpg"]),
     (["photos/y/1.jpg", "photos/x/1.jpg"], ["y/1.jpg", "x/1.jpg"]),
     (["photos/x", "photos/x/1.jpg", "photos/*/1.jpg"], ["x/1.jpg", "y/1.jpg"])],
)  # fmt: skip
def test_what_may_be_named(photos, paths, expected):
    assert sorted(ids(paths)) == sorted(expected)
    if not isinstance(paths, str):
        assert ids(paths)[0] == expected[0]


def test_absolute_and_home(photos, monkeypatch):
    assert ids(str(photos)) == ALL
    monkeypatch.setenv("HOME", str(photos.parent))
    assert ids("~/photos") == ALL


def test_a_list_in_a_file(photos):
    (photos / "list.txt").write_text("a.png\n\nphotos/x/1.jpg\ny\nlist.txt\n")
    data = Images(str(photos / "list.txt"))
    # A list in a list is no list, but tried as an image like all that is named.
    assert list(data.ids("val")) == ["a.png", "x/1.jpg", "y/1.jpg", "y/z/2.jpg", "list.txt"]


def test_bytes_in_a_list(photos, paint):
    name = os.fsdecode(b"\xff.jpg")
    paint(photos / name)
    (photos / "list.txt").write_bytes(b"\xff.jpg\nb.jpg\n")
    assert ids(str(photos / "list.txt")) == [r"\xff.jpg", "b.jpg"]


@pytest.mark.parametrize(
    "name", ["a b.jpg", "it's \"q\".jpg", "a=b,[1]*.jpg", "n\nl.jpg", "ü鳥.jpg", "no ending",
             "x.dat", os.fsdecode(b"\xff.jpg"), "y" * 251 + ".jpg"]
)  # fmt: skip
def test_odd_names_named_directly(photos, paint, name):
    paint(photos / name, format="PNG")
    data = Images(str(photos / name))
    assert data.example("val", 0).size == (30, 40)
    assert data.ids("val")[0].encode().decode().isprintable()


def test_nothing_found(photos):
    for paths in ("none.jpg", "photos/*.gif", ["none", "nor this"], [], "none/**"):
        with pytest.raises(UserError, match=r"data\.paths: no image in .*expected") as caught:
            ids(paths)
        for path in [paths] if isinstance(paths, str) else paths:
            assert repr(path) in str(caught.value)
    (photos / "empty").mkdir()
    with pytest.raises(UserError, match=r"no image in 'photos/empty'"):
        ids("photos/empty")


def test_what_is_missing_is_noted(photos):
    (photos / "dead.jpg").symlink_to(photos / "nothing")
    os.mkfifo(photos / "pipe.jpg")
    data = Images(["photos/a.png", "photos/none.jpg", "photos/dead.jpg", "photos/pipe.jpg"])
    assert list(data.ids("val")) == ["a.png"]
    notes = [note.removeprefix(str(photos)) for note in data.notes()]
    assert notes == ["/none.jpg: no such file or folder", "/dead.jpg: a link to nothing",
                    "/pipe.jpg: neither a file nor a folder"]  # fmt: skip


def test_a_loop(photos):
    (photos / "x/up").symlink_to(photos)
    data = Images("photos")
    assert list(data.ids("val")) == ALL
    assert "x/up: a link back" in data.notes()[0]


def test_fingerprint(photos, paint, tmp_path):
    first = Images("photos").fingerprint("val")
    assert Images("photos/../photos").fingerprint("val") == first
    photos.rename(tmp_path / "moved")
    assert Images("moved").fingerprint("val") == first
    (tmp_path / "moved").rename(photos)
    paint(photos / "new.jpg")
    assert Images("photos").fingerprint("val") != first


def test_names_are_the_same_in_any_unicode_form(tmp_path, paint):
    composed, decomposed = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    paint(tmp_path / decomposed / f"{decomposed}.png")
    (tmp_path / "list.txt").write_text(f"{composed}/{composed}.png\n{composed}/{decomposed}.png\n")
    for path in (f"{composed}/{composed}.png", composed, "list.txt"):
        data = Images(str(tmp_path / path))
        assert data.ids("val") == [f"{composed}.png"]
        assert data.notes() == []
    paint(tmp_path / decomposed / f"{composed}.png")
    data = Images(str(tmp_path / composed))
    assert sorted(data.ids("val")) == ["e\\u0301.png", f"{composed}.png"]
    assert data.notes()[0].startswith("1 file ('e")
