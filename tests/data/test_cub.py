"""cub: the published layout is read; odd lines are left out and named."""

from __future__ import annotations

import os
import shutil
import unicodedata
from pathlib import Path

import pytest

from pipeline.data.cub import Cub
from pipeline.errors import UserError
from pipeline.formats import photo
from pipeline.formats.photo import read_size
from pipeline.types import Note

TABLES = {
    "images.txt": ["{n} {path}"],
    "image_class_labels.txt": ["{n} {c}"],
    "train_test_split.txt": ["{n} {train}"],
    "bounding_boxes.txt": ["{n} 1.0 2.0 {w}.0 20.0"],
}


@pytest.fixture
def root(tmp_path, paint) -> Path:
    """Write two kinds of birds, six images each, a third of them scored, and numbers with gaps."""
    root = tmp_path / "around/CUB_200_2011"
    folders = {5: "005.Crested_Auklet", 12: "012.Yellow_headed_Blackbird"}
    rows = []
    for n in range(12):
        c = (5, 12)[n // 6]
        path = f"{folders[c]}/bird_{n}.jpg"
        paint(root / "images" / path, size=(30, 40 + n))
        rows.append({"n": 100 + 2 * n, "path": path, "c": c, "train": int(n % 3 > 0), "w": 9 + n})
    for name, (line,) in TABLES.items():
        (root / name).write_text("".join(line.format(**row) + "\n" for row in rows))
    (root / "classes.txt").write_text("".join(f"{c} {name}\n" for c, name in folders.items()))
    return root


@pytest.mark.parametrize("around", [False, True])
def test_layout(root, around):
    data = Cub(str(root.parent if around else root), size=96)
    assert data.size == (96, 96)
    assert data.classes == ("Crested Auklet", "Yellow headed Blackbird")
    val = [f"005.Crested_Auklet/bird_{n}.jpg" for n in (0, 3)]
    val += [f"012.Yellow_headed_Blackbird/bird_{n}.jpg" for n in (6, 9)]
    assert list(data.ids("val")) == val
    assert data.labels("val").tolist() == [0, 0, 1, 1]
    assert len(data.ids("train")) + len(data.ids("held_back")) == 8
    assert len(data.ids("held_back")) > 0
    assert len(set(data.ids("all"))) == 12
    names = data.coco_names("val")
    assert list(names.image_ids) == [100, 106, 112, 118]
    assert list(names.file_names) == val
    assert list(names.category_ids) == [5, 12]
    example = data.example("val", 2, at=(8, 9))
    assert (example.id, example.label, example.size) == (val[2], 1, (30, 46))
    assert data.notes() == []


def test_truth(root):
    data = Cub(str(root))
    truth = data.truth("val")
    assert list(truth) == list(data.ids("val"))
    first = truth[data.ids("val")[0]]
    assert (first.label, first.size, first.boxes.tolist()) == (0, (30, 40), [[1, 2, 10, 22]])
    assert first.of_label().tolist() == [[1, 2, 10, 22]]
    for split in ("train", "held_back", "all"):  # for calibrate
        assert list(data.truth(split)) == list(data.ids(split))
    assert data.truth_notes() == []


def test_sizes_of_images_are_read_once(root, monkeypatch):
    data, read = Cub(str(root)), []

    def note_reading(path, name):
        read.append(name)
        return read_size(path, name=name)

    monkeypatch.setattr(photo, "read_size", note_reading)
    for _ in range(2):
        data.truth("val")
        data.truth_notes()
    assert read == list(data.ids("val"))


def test_class_names_stay_apart(root):
    (root / "classes.txt").write_text("5 005.Crow\n12 012.Crow\n")
    assert Cub(str(root)).classes == ("005.Crow", "012.Crow")


def test_wrong_root(tmp_path):
    with pytest.raises(UserError, match=r"data\.root=.*no images\.txt there.*CUB_200_2011"):
        Cub(str(tmp_path))
    with pytest.raises(UserError, match=r"no images\.txt there"):
        Cub(str(tmp_path / "none"))


def edit(path: Path, line: int, text: str) -> None:
    """Replace a line, numbered from 1."""
    lines = path.read_text().splitlines()
    lines[line - 1 : line] = [text]
    path.write_text("\n".join(lines) + "\n")


def refused(root: Path, *words: str) -> None:
    data = Cub(str(root))
    with pytest.raises(UserError) as caught:
        data.truth("val")
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [("5", ["too short", "correct it"]), ("x 1 2", ["without a number", "correct it"]),
     ("5 006.Other", ["'5' is there twice", "drop"]),
     ("7 005.Crested_Auklet", ["'005.Crested_Auklet' is there twice", "drop"])],
)  # fmt: skip
def test_broken_lines_of_classes_are_refused(root, text, words):
    edit(root / "classes.txt", 2, text)
    refused(root, f"{root / 'classes.txt'}, line 2", *words)


@pytest.mark.parametrize("name", [*TABLES, "classes.txt"])
def test_tables_that_are_not_utf8(root, name):
    path = root / name
    path.write_bytes(b"\xff" + path.read_bytes())
    refused(root, str(path), "not UTF-8")


IMAGE = "005.Crested_Auklet/bird_2.jpg"


@pytest.mark.parametrize("name", ["images.txt", "image_class_labels.txt", "train_test_split.txt"])
@pytest.mark.parametrize(
    ("text", "reason"),
    [("104", "too short, expected image id and"), ("x 1", "without a number at the start"),
     ("102 0", "with a second entry of an image id")],
)  # fmt: skip
def test_odd_lines_are_left_out_and_named(root, name, text, reason):
    edit(root / name, 3, text)
    data = Cub(str(root))
    assert len(data.ids("all")) == 11
    assert IMAGE not in data.ids("all")
    assert any(note.startswith(f"{name}: 1 line ('line 3') {reason}") for note in data.notes())


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [("image_class_labels.txt", "104 6", "whose value is not a class id of classes.txt"),
     ("image_class_labels.txt", "104 x", "whose value is not a class id of classes.txt"),
     ("image_class_labels.txt", "7 5", "of no image of images.txt"),
     ("train_test_split.txt", "104 2", "whose value is not 1 or 0"),
     ("train_test_split.txt", "104 x", "whose value is not 1 or 0"),
     ("train_test_split.txt", "7 1", "of no image of images.txt")],
)  # fmt: skip
def test_images_without_a_class_or_split_are_left_out_and_named(root, name, text, reason):
    edit(root / name, 3, text)
    data = Cub(str(root))
    what = "class" if "labels" in name else "split"
    assert data.notes() == [
        f"{name}: 1 line ('line 3') {reason}: left out; correct or drop them",
        f"{name}: 1 image ('{IMAGE}') of 12 has no {what}: left out, neither trained on nor "
        "scored; add or correct their lines",
    ]
    assert len(data.ids("all")) == len(data.truth("all")) == 11


@pytest.mark.parametrize("name", ["images.txt", "image_class_labels.txt", "train_test_split.txt"])
def test_a_line_that_is_there_twice_counts_once(root, name):
    lines = (root / name).read_text().splitlines()
    (root / name).write_text("\n".join([*lines, lines[2]]))
    data = Cub(str(root))
    assert len(data.ids("all")) == 12
    assert data.notes() == [
        f"{name}: 1 line ('line 13') that are there twice: left out; correct or drop them"
    ]


def test_a_path_that_is_there_twice_is_one_image(root):
    edit(root / "images.txt", 3, "104 005.Crested_Auklet/bird_0.jpg")
    data = Cub(str(root))
    assert len(data.ids("all")) == 11
    assert "with a path that another line has, too: left out" in data.notes()[0]


def test_tables_of_which_no_line_can_be_used_are_refused(root):
    path = root / "train_test_split.txt"
    content = path.read_text()
    path.write_text("".join(f"{line.split()[0]} x\n" for line in content.splitlines()))
    refused(root, str(path), "none of its 12 lines can be used", "whose value is not 1 or 0")
    path.write_text(content.splitlines()[0])
    labels = root / "image_class_labels.txt"
    labels.write_text("".join(f"{line}\n" for line in labels.read_text().splitlines()[1:]))
    refused(root, "images.txt: none of its 12 images can be used", "have no split", "has no class")


@pytest.mark.parametrize("name", [*TABLES, "classes.txt"])
def test_missing_tables(root, name):
    data = Cub(str(root))
    (root / name).unlink()
    with pytest.raises(UserError, match=f"{name}"):
        data.truth("val")
    if name != "images.txt":
        refused(root, str(root / name), "no such file", "belongs to the set")


@pytest.mark.parametrize(
    ("line", "reason"),
    [("7 1 1 2 2", "of no image of images.txt"), ("x 1 1 2 2", "of no image of images.txt"),
     ("104 1 2 3", "whose bbox is not four numbers"), ("104", "without a bbox"),
     ("104 1 2 3 4 5", "whose bbox is not four numbers"),
     ("104 1 2 3 x", "whose bbox is not four numbers"),
     ("104 1 2 3 nan", "whose bbox is not finite"), ("104 1 2 0 4", "whose bbox is empty"),
     ("104 1 2 3 -4", "negative width or height"), ("102 1 2 3 5", "a second box of an image")],
)  # fmt: skip
def test_lines_of_boxes_that_cannot_be_used_are_left_out(root, line, reason):
    assert len(Cub(str(root)).truth("all")) == 12
    edit(root / "bounding_boxes.txt", 3, line)
    data = Cub(str(root))
    assert len(data.truth("all")) == 11
    note = data.truth_notes()[0]
    assert note.startswith("bounding_boxes.txt: 1 line ('line 3')")
    assert reason in note
    assert isinstance(note, Note)
    assert note.total == 1


def test_a_box_outside_is_left_out(root):
    edit(root / "bounding_boxes.txt", 4, "106 90 2 30 20")
    data = Cub(str(root))
    missing = set(data.ids("val")) - set(data.truth("val"))
    assert len(missing) == 1
    assert data.truth_notes() == [
        "bounding_boxes.txt: 1 line ('line 4') whose box lies outside its image: left out; correct "
        "or drop them"
    ]


def test_boxes_of_which_none_can_be_used_are_refused(root):
    path = root / "bounding_boxes.txt"
    lines = [f"{line.split()[0]} 1 1 0 0" for line in path.read_text().splitlines()]
    path.write_text("\n".join(lines))
    refused(root, str(path), "none of its 12 lines can be used", "whose bbox is empty")


def test_images_without_a_line(root):
    edit(root / "train_test_split.txt", 3, "")
    (note,) = Cub(str(root)).notes()
    assert note.startswith(
        f"train_test_split.txt: 1 image ('{IMAGE}') of 12 has no split: left out"
    )


def test_boxes_that_stick_out(root):
    edit(root / "bounding_boxes.txt", 4, "106 -5 2 100 20")
    edit(root / "bounding_boxes.txt", 1, "")
    data = Cub(str(root))
    assert data.truth("val")[data.ids("val")[1]].boxes.tolist() == [[0, 2, 43, 22]]
    assert data.ids("val")[0] not in data.truth("val")
    assert data.truth_notes() == [
        "bounding_boxes.txt: 1 box ('line 4') of 3 stuck out of its image and was clipped"
    ]


def test_images_listed_but_not_there(root):
    (root / "images/005.Crested_Auklet/bird_0.jpg").unlink()
    data = Cub(str(root))
    assert len(data.ids("all")) == 11
    assert data.notes() == [
        "images.txt: 1 image ('005.Crested_Auklet/bird_0.jpg') of 12 not there: left out; unpack "
        "the set again, or drop their lines"
    ]
    assert list(data.coco_names("val").image_ids) == [106, 112, 118]
    assert data.labels("val").tolist() == [0, 1, 1]
    shutil.rmtree(root / "images")
    refused(root, "none of the 12 images", "unpack")


def test_a_broken_image_has_no_truth(root):
    (root / "images/005.Crested_Auklet/bird_0.jpg").write_bytes(b"")
    assert len(Cub(str(root)).truth("val")) == 3


def test_fingerprints(root, tmp_path):
    def now(place: Path = root) -> tuple[str, str, str]:
        data = Cub(str(place))
        return data.fingerprint("train"), data.fingerprint("val"), data.truth_fingerprint("val")

    first = now()
    root.rename(tmp_path / "moved")
    assert now(tmp_path / "moved") == first
    (tmp_path / "moved").rename(root)
    edit(root / "bounding_boxes.txt", 1, "100 1 1 1 1")
    assert now()[:2] == first[:2]
    assert now()[2] != first[2]
    edit(root / "image_class_labels.txt", 1, "100 12")
    assert now()[0] == first[0]
    assert now()[1] != first[1]
    edit(root / "image_class_labels.txt", 1, "100 5")
    assert now()[1] == first[1]
    os.utime(root / "images/005.Crested_Auklet/bird_0.jpg", (1, 1))
    assert now()[1] != first[1]


def test_names_that_are_paths_with_spaces(root, paint):
    paint(root / "images/005.Crested_Auklet/a bird.jpg")
    edit(root / "images.txt", 1, "100 005.Crested_Auklet/a bird.jpg")
    assert Cub(str(root)).ids("val")[0] == "005.Crested_Auklet/a bird.jpg"


def test_cub30(shared):
    data = Cub(str(shared / "data/cub30"))
    assert len(data.classes) == 30
    assert len(data.ids("train")) + len(data.ids("held_back")) == 900
    assert len(data.ids("val")) == len(data.truth("val")) == 801
    for truth in data.truth("val").values():
        height, width = truth.size
        assert (truth.boxes >= 0).all()
        assert (truth.boxes[:, 2:] <= (width, height)).all()
    (note,) = data.truth_notes()
    assert note.startswith("bounding_boxes.txt: 3 boxes ('line ")
    assert note.endswith("of 801 stuck out of their image and were clipped")
    assert data.notes() == []
    assert data.ids("val") == Cub(str(shared / "data/cub30/CUB_200_2011")).ids("val")


@pytest.mark.parametrize(("tables", "files"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_are_the_same_in_any_unicode_form(root, tables, files):
    def form(name, text):
        return unicodedata.normalize(name, text.replace("Auklet", "Äuklet"))

    for name in ("classes.txt", "images.txt"):
        (root / name).write_text(form(tables, (root / name).read_text()))
    old = root / "images/005.Crested_Auklet"
    old.rename(root / "images" / form(files, old.name))
    data = Cub(str(root))
    assert data.classes[0] == form("NFC", "Crested Auklet")
    assert data.ids("val")[0] == form("NFC", "005.Crested_Auklet/bird_0.jpg")
    assert len(data.ids("all")) == 12
    assert len(data.truth("val")) == 4
    assert data.example("val", 0).size == (30, 40)
