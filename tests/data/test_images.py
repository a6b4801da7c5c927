"""images: files, folders, globs and lists of them, without labels."""

from __future__ import annotations

import os
import unicodedata
from typing import Any

import pytest

from pipeline.data.images import Images
from pipeline.errors import UserError
from pipeline.formats import signature
from pipeline.formats.results_folder import mark


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
    assert data.truth_notes() == []
    assert data.notes() == ["1 other file beside the images, not read: 1 .txt"]
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
        with pytest.raises(
            UserError, match=r"images= \(data\.paths=\): no image in .*expected"
        ) as caught:
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
    elsewhere = "left out; the files are elsewhere: git annex get, or download them"
    assert notes == ["/none.jpg: no such file or folder",
                     f"/dead.jpg: a link to nothing, {elsewhere}",
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


# -- spellings


def test_brackets_in_the_names_of_folders_and_files(photos, paint):
    for name in ("album [2024]/a.jpg", "album [2024]/b [1].jpg", "album [2024]/b [2].jpg"):
        paint(photos / name)
    assert len(ids("photos/album [2024]/*.jpg")) == 3
    assert len(ids("photos/album [2024]/b [[]*.jpg")) == 2
    assert len(ids("photos/album [2024]/b [*.jpg")) == 2
    assert len(ids("photos/album [2024]/b [1].*")) == 1
    assert len(ids("photos/* [2024]/*.jpg")) == 3
    assert ids("photos/album [2024]/[a].jpg") == ["a.jpg"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32",
                                      "latin-1", "cp1252", "cp850", "mac_roman"])  # fmt: skip
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_encodings_of_a_list(photos, paint, encoding, end):
    paint(photos / "grün é.jpg")
    text = end.join(["# the list", "a.png", "grün é.jpg", ""])
    (photos / "list.txt").write_bytes(text.encode(encoding))
    data = Images(str(photos / "list.txt"))
    assert list(data.ids("val")) == ["a.png", "grün é.jpg"]
    assert data.notes() == []


def test_spellings_in_a_list(photos, paint):
    for name in ("a b.jpg", "#1.jpg", "deep/er/c.jpg", "nfc é.jpg"):
        paint(photos / name)
    lines = ['"a b.jpg"', "#1.jpg", r"deep\er\c.jpg", "b.jpg 3", "x/1.jpg\tcat", "y/1.jpg,cat",
             r"C:\Users\me\photos\y\z\2.jpg", "nfc e\u0301.jpg", "file://a.png",
             "gone.jpg", "#2.jpg"]  # fmt: skip
    (photos / "list.txt").write_text("\n".join(lines))
    data = Images(str(photos / "list.txt"))
    assert list(data.ids("val")) == ["a b.jpg", "#1.jpg", "deep/er/c.jpg", "b.jpg", "x/1.jpg",
        "y/1.jpg", "y/z/2.jpg", "nfc é.jpg", "a.png"]  # fmt: skip
    (note,) = data.notes()
    assert note.startswith("2 lines ('gone.jpg', '#2.jpg'): of ")
    assert "no such file or folder; expected a path a line" in note


# -- what is left out


def test_results_are_refused_and_left_out(photos, paint):
    paint(photos / "out/draw/1/pictures/a.jpg")
    mark(photos / "out/draw/1")
    (photos / "out/latest").symlink_to("draw/1")
    for named in ("photos/out/draw/1", "photos/out/latest/pictures", "photos/out/latest/*/*.jpg",
                  ["photos/x", "photos/out/draw/1/pictures/a.jpg"]):  # fmt: skip
        with pytest.raises(UserError, match="holds results that label2box wrote"):
            ids(named)
    for named in ("photos", "photos/**", "photos/**/*.*g", "photos/*"):
        data = Images(named)
        assert list(data.ids("val")) == ALL
        assert "results folder" in " ".join(data.notes())


def test_a_glob_skips_system_folders(photos, paint):
    paint(photos / "x/@eaDir/1.jpg/THUMB.jpg")
    data = Images("photos/**/*.jpg")
    assert list(data.ids("val")) == ALL[1:]
    assert "x/@eaDir'): thumbnails and metadata, not searched" in " ".join(data.notes())


def test_links_and_paths_that_name_a_file_again(photos):
    (photos / "latest.jpg").symlink_to("b.jpg")
    (photos / "again").symlink_to("x")
    data = Images(["photos", "photos/a.png", "photos/again"])
    assert list(data.ids("val")) == ALL
    notes = " ".join(data.notes())
    assert "again/1.jpg'): named more than once: counted once" in notes
    assert "2 links (" in notes


def test_types_that_are_not_read(photos, monkeypatch):
    monkeypatch.setattr(signature, "find_spec", lambda name: None)
    (photos / "p.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(50))
    (photos / "p.mp4").write_bytes(b"\0\0\0\x14ftypisom\0\0\0\0mp41")
    (photos / "p.jpg_large").write_bytes((photos / "b.jpg").read_bytes())
    with pytest.raises(UserError, match=r"HEIC image .*label2box\[heif\]"):
        ids("photos/p.heic")
    for named in ("photos/p*", ["photos/p.heic", "photos/p.mp4", "photos/p.jpg_large"]):
        data = Images(named)
        assert list(data.ids("val")) == ["p.jpg_large"]
        assert "1 MP4 video" in " ".join(data.notes())


def test_names_are_the_same_in_any_unicode_form(tmp_path, paint):
    composed, decomposed = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    paint(tmp_path / decomposed / f"{decomposed}.png")
    (tmp_path / "list.txt").write_text(f"{composed}/{composed}.png\n{composed}/{decomposed}.png\n")
    for path in (f"{composed}/{composed}.png", composed, "list.txt"):
        data = Images(str(tmp_path / path))
        assert data.ids("val") == [f"{composed}.png"]
        counted = ["named more than once"] if path == "list.txt" else []
        assert [text in note for text, note in zip(counted, data.notes(), strict=True)] == (
            [True] * len(counted)
        )
    paint(tmp_path / decomposed / f"{composed}.png")
    data = Images(str(tmp_path / composed))
    assert sorted(data.ids("val")) == ["e\\u0301.png", f"{composed}.png"]
    assert data.notes()[0].startswith("1 image ('e")


@pytest.mark.parametrize("paths", ["", " ", ["photos", ""]])
def test_an_empty_path_is_refused(photos, paths):
    with pytest.raises(UserError, match=r"images= .*: an empty path; expected .* images=\. is"):
        Images(paths)


@pytest.mark.parametrize(
    "line",
    ["a.png # the first", "a.png  // the first", "a.png 0 1 0 1", "17 a.png", "cat,a.png",
     "cat;a.png;3", "0\ta.png\tcat", "1 photos/a.png cat", "a.png,1,2 3", '"cat","a.png"']
)  # fmt: skip
def test_labels_and_comments_around_a_path(photos, line):
    (photos / "list.txt").write_text(f"{line}\nx/1.jpg\n")
    data = Images(str(photos / "list.txt"))
    assert list(data.ids("val")) == ["a.png", "x/1.jpg"]
    assert data.notes() == []


def test_a_word_of_a_missing_path_is_not_a_folder(photos):
    (photos / "list.txt").write_text("x of the cats/1.jpg today\na.png\n")
    data = Images(str(photos / "list.txt"))
    assert list(data.ids("val")) == ["a.png"]
    assert "1 line ('x of the cats/1.jpg today')" in data.notes()[0]


@pytest.mark.parametrize("name", ["list.csv", "list.lst", "list", "files.in", "LIST.TXT"])
def test_texts_of_any_ending_are_lists(photos, name):
    (photos / name).write_text("path,label\na.png,0\nx/1.jpg,1\n")
    data = Images(str(photos / name))
    assert list(data.ids("val")) == ["a.png", "x/1.jpg"]
    (note,) = data.notes()
    assert "1 line ('path,label'): of " in note


def test_an_image_that_is_named_as_a_list(photos, paint):
    paint(photos / "image.txt", format="PNG")
    assert ids(str(photos / "image.txt")) == ["image.txt"]


def test_a_list_separated_by_nul(photos):
    (photos / "list.txt").write_bytes(b"a.png\0./x/1.jpg\0b.jpg\0")
    assert ids(str(photos / "list.txt")) == ["a.png", "x/1.jpg", "b.jpg"]


@pytest.mark.parametrize("line", [b"y" * 100_000, bytes(range(14, 255)) * 50, b"a b " * 9999])
def test_long_lines_are_cut(photos, line):
    (photos / "list.txt").write_bytes(b"a.png\n" + line)
    (note,) = Images(str(photos / "list.txt")).notes()
    assert "...')" in note
    assert len(note) < 400
