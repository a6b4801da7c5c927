"""image_search: which files below a folder are images, and what is said of all others."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.data import image_search
from pipeline.data.left_out import LeftOut
from pipeline.errors import UserError
from pipeline.formats import signature
from pipeline.formats.results_folder import mark
from pipeline.types import Note


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
        "3 links ('cat/gone.jpg', 'cat/ring1', 'cat/ring2'): a link to nothing, left out; the "
        "files are elsewhere: git annex get, or download them",
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


# -- what is left out


def jpeg(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6)).save(path, "JPEG")
    return path


def test_content_counts_where_the_ending_says_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(signature, "find_spec", lambda name: None)
    for name in ("a.jpg_large", "b", "c.heic", "d.jpg"):
        jpeg(tmp_path / name)
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(50)
    for name in ("e.HEIC", "f.HEIC", "g"):
        (tmp_path / name).write_bytes(heic)
    (tmp_path / "h.pdf").write_bytes(b"%PDF-1.7")
    make(tmp_path, "x.txt", "y.txt", "z.json", "README", "w.CR2")
    result = image_search.search(tmp_path)
    assert [file.id for file in result.files] == ["a.jpg_large", "b", "c.heic", "d.jpg"]
    assert sorted(result.notes) == [
        "1 CR2 camera raw ('w.CR2'): not read; export them as JPEG or TIFF with a raw converter, "
        "such as darktable or RawTherapee",
        "1 PDF document ('h.pdf'): not read; export their pages as images",
        "3 HEIC images ('e.HEIC', 'f.HEIC', 'g'): not read; "
        "pip install 'label2box[heif]' reads them",
        "3 images ('a.jpg_large', 'b', 'c.heic'): read, as the content is an image although the "
        "ending is of none",
        "4 other files beside the images, not read: 2 .txt, 1 without an ending, 1 .json",
    ]
    monkeypatch.setattr(signature, "find_spec", lambda name: object())
    assert {"e.HEIC", "f.HEIC", "g"} < {file.id for file in image_search.search(tmp_path).files}


def test_files_of_known_endings_are_not_opened(tmp_path, monkeypatch):
    make(tmp_path, "a.jpg", "b.tif", "c.txt", "d.xml", "e.npy", "f.csv", "g.yaml")
    monkeypatch.setattr(signature, "identify", lambda path: pytest.fail(f"{path} was opened"))
    assert ids(tmp_path) == ["a.jpg", "b.tif"]


def test_system_folders_and_files(tmp_path):
    folders = ("@eaDir", "@EADIR", "#recycle", ".Trash-1000", "$Recycle.Bin", "lost+found",
               "System Volume Information", "__MACOSX", ".thumbnails", "node_modules", ".git",
               "X.photoslibrary/resources/derivatives", ".mine", "Previews.lrdata")  # fmt: skip
    make(tmp_path, "a.jpg", "X.photoslibrary/originals/1/b.jpg",
         *(f"{name}/copy.jpg" for name in folders))  # fmt: skip
    make(tmp_path, "._a.jpg", ".hidden.jpg", "Thumbs.db", ".DS_Store", "venv/pyvenv.cfg")
    make(tmp_path, "venv/lib/plot.png", "snapshot/c.jpg", "recycled/d.jpg")  # classes, perhaps
    result = image_search.search(tmp_path)
    assert [file.id for file in result.files] == [
        "X.photoslibrary/originals/1/b.jpg", "a.jpg", "recycled/d.jpg", "snapshot/c.jpg"
    ]  # fmt: skip
    notes = " | ".join(result.notes)
    assert "6 system folders ('.thumbnails', '@EADIR', '@eaDir', ...): thumbnails and" in notes
    assert "3 system folders ('#recycle', '$Recycle.Bin', '.Trash-1000'): recycle bin" in notes
    assert "1 hidden folder ('.mine'): not searched" in notes
    assert "3 system files ('.DS_Store', '._a.jpg', 'Thumbs.db'): left out" in notes
    assert "1 hidden file ('.hidden.jpg'): left out" in notes
    assert sum(note.total for note in result.notes if isinstance(note, Note)) == len(folders) + 5


def test_backup_copies(tmp_path):
    for name in ("a.jpg", "a.jpg_original", "b.jpg~", "a.jpg.bak"):
        jpeg(tmp_path / name)
    result = image_search.search(tmp_path)
    assert [file.id for file in result.files] == ["a.jpg", "b.jpg~"]
    assert result.notes[0].startswith("2 backup files ('a.jpg.bak', 'a.jpg_original'): left out")


def test_results_are_not_searched(tmp_path):
    make(tmp_path, "a.jpg", "out/draw/12/pictures/a.png", "copy/a.png", "photos/b.jpg")
    mark(tmp_path / "out/draw/12")
    mark(tmp_path / "copy")
    (tmp_path / "latest").symlink_to(tmp_path / "out/draw/12/pictures")
    (tmp_path / "c.jpg").symlink_to(tmp_path / "out/draw/12/pictures/a.png")
    result = image_search.search(tmp_path)
    assert [file.id for file in result.files] == ["a.jpg", "photos/b.jpg"]
    assert sorted(result.notes) == [
        "1 picture ('c.jpg'): in a results folder of label2box, no photograph: left out",
        "3 results folders ('copy', 'latest', 'out/draw/12'): written by label2box, its pictures "
        "are no photographs: not searched",
    ]
    with pytest.raises(UserError, match=r"x=out: .*/latest holds results that label2box wrote"):
        image_search.refuse_results("x=out", str(tmp_path / "latest"))


def test_a_file_of_several_links_counts_once(tmp_path):
    make(tmp_path, "red/1.jpg", "red/2.jpg", "blue/3.jpg")
    (tmp_path / "red/again.jpg").symlink_to("1.jpg")
    os.link(tmp_path / "red/2.jpg", tmp_path / "red/hard.jpg")
    (tmp_path / "latest").symlink_to("red")
    left_out = LeftOut()
    groups = {
        name: image_search.search(tmp_path / name, name, left_out).files
        for name in ("latest", "blue", "red")
    }
    kept = image_search.drop_repeated(groups, left_out)
    assert {name: [file.id for file in files] for name, files in kept.items()} == {
        "latest": [], "blue": ["blue/3.jpg"], "red": ["red/1.jpg", "red/2.jpg"]
    }  # fmt: skip
    (note,) = left_out.notes()
    assert note.startswith("6 links ('latest/1.jpg', ")
    assert note.endswith("counted once")


def test_a_pool_that_classes_link_to(tmp_path):
    make(tmp_path, "pool/1.jpg")
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").symlink_to(tmp_path / "pool/1.jpg")
    left_out = LeftOut()
    groups = {n: image_search.search(tmp_path / n, n, left_out).files for n in ("cat", "dog")}
    assert image_search.drop_repeated(groups, left_out) == groups
    assert left_out.notes() == [
        "1 image ('cat/1.jpg'): the same file in several classes by links: used for each of them"
    ]
    left_out = LeftOut()
    groups = {n: image_search.search(tmp_path / n, n, left_out).files for n in ("cat", "dog")}
    image_search.count_shared(groups["cat"], groups["dog"], left_out)
    assert "1 image ('dog/1.jpg'): the same file is trained on and scored" in left_out.notes()[0]


def test_placeholders_of_a_cloud_are_not_hidden_photographs(tmp_path):
    make(tmp_path, "a.jpg", ".IMG_1.jpg.icloud", ".IMG_2.HEIC.icloud", ".b.jpg")
    assert image_search.search(tmp_path).notes == [
        "2 cloud placeholders ('.IMG_1.jpg.icloud', '.IMG_2.HEIC.icloud'): not read; let the cloud "
        "service download the files",
        "1 hidden file ('.b.jpg'): left out; rename those that are photographs, without the "
        "leading dot",
    ]


def test_covers_and_conflicting_copies(tmp_path):
    conflict = "a.sync-conflict-20240101-120000-ABCDEFG.jpg"
    dropbox = "a (Ann's conflicted copy 2024-01-01).jpg"
    make(tmp_path, "a.jpg", conflict, dropbox, "a.jpg_exiftool_tmp", "m/Folder.jpg",
         "m/AlbumArtSmall.jpg", "n/folder.jpg", conflict.replace("a.", "n/b."))  # fmt: skip
    result = image_search.search(tmp_path)
    # Where the original is gone, the copy is what is left of it.
    kept = ["a.jpg", "n/b.sync-conflict-20240101-120000-ABCDEFG.jpg", "n/folder.jpg"]
    assert [file.id for file in result.files] == kept
    assert [note.split(" (")[0] for note in result.notes] == ["3 backup files", "2 system files"]


@pytest.mark.parametrize(
    "name", ["@__thumb", "@SynoResource", "@synologydrive", "_vti_cnf", "_gsdata_"]
)
def test_more_system_folders(tmp_path, name):
    make(tmp_path, "a.jpg", f"{name}/a.jpg")
    result = image_search.search(tmp_path)
    assert [file.id for file in result.files] == ["a.jpg"]
    assert f"1 system folder ('{name}')" in result.notes[0]
