"""data=yolo: layouts, labels from rows, boxes as truth alone, and rows that cannot be right."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.data.shapes import Shapes
from pipeline.data.yolo import Yolo
from pipeline.errors import UserError
from pipeline.formats.yolo_labels import read_labels
from pipeline.types import Split
from tests.data.yolo_layouts import DRAWN, save, to_row, write, write_shapes

SIZE = (40, 60)
PARTS: dict[Split, tuple[Split, ...]] = {"train": ("train", "held_back"), "val": ("val",)}


def image(path: Path) -> None:
    save(path, np.zeros((*SIZE, 3), np.uint8), noise=True)


def small(root: Path, rows: dict[str, list[str] | None], yaml: str = "") -> Path:
    """images/train of some names with their rows; None: no label file."""
    for name, lines in rows.items():
        image(root / f"images/train/{name}.png")
        if lines is not None:
            write(root / f"labels/train/{name}.txt", lines)
    content = yaml or "train: images/train\nnames: [cat, dog]\n"
    (root / "data.yaml").write_text(content, encoding="utf-8")
    return root


CAT, DOG = "0 0.5 0.5 0.5 0.5", "1 0.5 0.5 0.5 0.5"


def test_labels_boxes_and_pixels_are_those_of_the_drawn_set(tmp_path: Path) -> None:
    write_shapes(tmp_path)
    data, drawn = Yolo(str(tmp_path), held_back=0), DRAWN
    assert data.classes == drawn.classes
    for split, drawn_splits in PARTS.items():
        expected = {
            f"images/{split}/{Path(id).stem}_{part}.png": (part, n)
            for part in drawn_splits
            for n, id in enumerate(drawn.ids(part))
        }
        assert {*data.ids(split)} == {*expected}
        truth = data.truth(split)
        for n, id in enumerate(data.ids(split)):
            part, position = expected[id]
            assert data.labels(split)[n] == drawn.labels(part)[position]
            there = drawn.example(part, position)
            np.testing.assert_array_equal(data.example(split, n).image, there.image)
            boxes = drawn.truth(part)[there.id].boxes
            np.testing.assert_allclose(truth[id].boxes, boxes, atol=1e-4)
            assert truth[id].label == data.labels(split)[n]
    assert data.ids("test") == ["images/train/nothing.png"]
    assert data.labels("test").tolist() == [-1]
    notes = "\n".join(data.notes())
    assert "with an empty label file: no object" in notes
    assert not data.truth_notes()


def test_roboflow_and_other_layouts_are_read_alike(tmp_path: Path) -> None:
    roboflow = tmp_path / "roboflow"
    for split, name in (("train", "a"), ("valid", "b"), ("test", "c")):
        image(roboflow / f"{split}/images/{name}.jpg")
        write(roboflow / f"{split}/labels/{name}.txt", [CAT])
    (roboflow / "data.yaml").write_text(
        "train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnc: 1\nnames: ['cat']"
    )
    with_yaml = Yolo(str(roboflow))
    (roboflow / "data.yaml").unlink()
    (roboflow / "classes.txt").write_text("cat\n")
    for data in (with_yaml, Yolo(str(roboflow))):
        assert data.ids("train") == ["train/images/a.jpg"]
        assert data.ids("val") == ["valid/images/b.jpg"]
        assert data.ids("test") == ["test/images/c.jpg"]
        assert data.labels("test").tolist() == [0]
        assert data.truth("val")["valid/images/b.jpg"].boxes.tolist() == [[15, 10, 45, 30]]


def test_a_single_folder_is_split_by_hash(tmp_path: Path) -> None:
    for n in range(20):
        image(tmp_path / f"images/{n}.png")
        write(tmp_path / f"labels/{n}.txt", [CAT if n % 2 else DOG])
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    data = Yolo(str(tmp_path), val=0.3)
    assert 0 < len(data.ids("val")) < 12
    assert len(data.ids("all")) == 20
    assert {*data.truth("val")} == {*data.ids("val")}


def test_lists_of_paths_and_lists_of_folders(tmp_path: Path) -> None:
    root = small(tmp_path, {"a": [CAT], "b": [DOG], "c": [CAT]})
    image(root / "more/images/d.png")
    write(root / "more/labels/d.txt", [DOG])
    (root / "train.txt").write_text("./images/train/a.png\nimages/train/b.png\nimages/gone.png\n")
    (root / "data.yaml").write_text(
        "path: elsewhere\ntrain: [train.txt, more/images]\nval: images/train\n"
        "names: {0: cat, 1: dog}"
    )
    data = Yolo(str(root / "data.yaml"), held_back=0)
    assert data.ids("train") == ["more/images/d.png"], "images of both splits are scored alone"
    assert data.ids("val") == [f"images/train/{name}.png" for name in "abc"]
    notes = "\n".join(data.notes())
    assert "path: elsewhere is not there" in notes
    assert "train.txt: 1 line ('line 3: images/gone.png') whose image is not there" in notes
    assert "named in several splits" in notes


def test_outlines_key_points_and_confidences(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write(path, ["1 0.1 0.2 0.5 0.2 0.5 0.6 0.1 0.7", "0 .5 .5 .2 .2 .9", "0 .5 .5 .2 .2"])
    labels = read_labels(path)
    assert labels.objects[0].box == (0.1, 0.2, 0.5, 0.7)
    assert labels.with_confidence == [2]
    assert labels.repeated == [3]
    write(path, ["0 0.5 0.5 0.2 0.4 0.1 0.1 2 0.9 0.9 2"])
    with_points = read_labels(path, key_point_numbers=6)
    np.testing.assert_allclose(with_points.objects[0].box, (0.4, 0.3, 0.6, 0.7))
    assert read_labels(tmp_path / "none.txt") is None


@pytest.mark.parametrize(("row", "reason"), [
    ("0 0.5 0.5 0.5", "with 4 fields"),
    ("0 a 0.5 0.5 0.5", "with a field that is no number"),
    ("0 nan 0.5 0.5 0.5", "not finite"),
    ("0.5 0.5 0.5 0.5 0.5", "no whole number from 0"),
    ("0 30 20 10 10", "no fractions of the image"),
    ("0 0.5 0.5 0 0.5", "empty or reversed"),
    ("7 0.5 0.5 0.5 0.5", "whose class is none of the 2 of data.yaml"),
])  # fmt: skip
def test_a_bad_row_is_named_and_others_go_on(tmp_path: Path, row: str, reason: str) -> None:
    root = small(tmp_path, {"a": [CAT, row], "b": [DOG]})
    data = Yolo(str(root), held_back=0, val=0)
    assert data.ids("train") == ["images/train/a.png", "images/train/b.png"]
    assert data.labels("train").tolist() == [0, 1]
    (note,) = [note for note in data.notes() if reason in note]
    assert "labels/train/a.txt, line 2" in note
    assert "left out; correct or drop them" in note


def test_files_that_are_no_labels_and_labels_without_image(tmp_path: Path) -> None:
    root = small(tmp_path, {"a": [CAT], "b": [DOG], "c": None, "d": []})
    (root / "labels/train/b.txt").write_bytes(b"\xff\xfe\x00")
    write(root / "labels/train/gone.txt", [CAT])
    data = Yolo(str(root), held_back=0, val=0)
    assert data.ids("train") == ["images/train/a.png"]
    assert data.ids("test") == [f"images/train/{name}.png" for name in "bcd"]
    notes = "\n".join(data.notes())
    assert "('labels/train/b.txt') which is no label file: not UTF-8" in notes
    assert "1 image ('images/train/c.png') of 4 without a label file" in notes
    assert "1 image ('images/train/d.png') of 4 with an empty label file: no object" in notes
    assert "1 label file ('labels/train/gone.txt') without an image: not used" in notes
    assert "data.yaml: 1 class ('dog') without an image: not learned" in notes


def test_boxes_outside_are_clipped_or_left_out_and_counted(tmp_path: Path) -> None:
    rows = [to_row(0, (-12, 4, 30, 20), SIZE), to_row(0, (70, 50, 80, 60), SIZE)]
    root = small(tmp_path, {"a": rows, "b": [DOG]}, "train: images/train\nval: images/train\n"
                 "names: [cat, dog]\n")  # fmt: skip
    data = Yolo(str(root))
    np.testing.assert_allclose(data.truth("val")["images/train/a.png"].boxes, [[0, 4, 30, 20]])
    notes = "\n".join(data.truth_notes())
    assert (
        "1 box ('labels/train/a.txt, line 2') whose box lies outside its image: left out" in notes
    )
    assert "1 box ('labels/train/a.txt, line 1') of 3 stuck out of its image" in notes


def test_several_classes_are_refused_or_left_out(tmp_path: Path) -> None:
    root = small(tmp_path, {"a": [CAT, DOG], "b": [DOG], "c": [CAT, CAT.replace("5 0.5", "5 0.4")]})
    with pytest.raises(UserError, match=r"1 image .*a.png: cat, dog.*data.several=leave_out"):
        _ = Yolo(str(root)).splits
    data = Yolo(str(root), several="leave_out", held_back=0, val=0)
    assert data.ids("train") == ["images/train/b.png", "images/train/c.png"]
    kept = Yolo(str(root), several="keep", held_back=0, val=0)
    assert kept.is_multi_label
    assert kept.label_sets("train").tolist() == [[True, True], [False, True], [True, False]]
    truth = kept.truth("train")["images/train/a.png"]
    assert truth.classes.tolist() == [0, 1]
    assert len(truth.of_class(1)) == 1


def test_images_without_an_object_show_no_class(tmp_path: Path) -> None:
    """An empty file says so, and so does none; a file that cannot be used says nothing."""
    rows = {"a": [CAT], "b": [DOG], "c": None, "d": [], "e": ["7 0.5 0.5 0.5 0.5"], "f": ["cat"]}
    root = small(tmp_path, rows)
    kept = Yolo(str(root), several="keep", held_back=0, val=0)
    ids, backgrounds = kept.ids("train"), kept.backgrounds("train")
    assert [Path(id).stem for id in ids] == [*"abcd"]
    assert backgrounds.tolist() == [False, False, True, True]
    assert not kept.label_sets("train")[backgrounds].any()
    assert [Path(id).stem for id in kept.ids("test")] == [*"ef"]
    assert not kept.backgrounds("test").any()
    notes = "\n".join(kept.notes())
    assert "('images/train/d.png') of 6 with an empty label file: they show no class" in notes
    assert "of 6 without a label file (labels/ beside images/): taken to show no class" in notes
    assert "data.missing=unlabelled" in notes
    unlabelled = Yolo(str(root), several="keep", missing="unlabelled", held_back=0, val=0)
    assert [Path(id).stem for id in unlabelled.ids("test")] == [*"cef"]
    assert unlabelled.fingerprint("train") != kept.fingerprint("train")
    assert "data.missing=none learns and scores them" in "\n".join(unlabelled.notes())
    with pytest.raises(UserError, match=r"data\.missing=none: .*data\.several=keep"):
        Yolo(str(root), missing="none")


def test_what_is_not_scored_is_unlabelled_without_a_label_file(tmp_path: Path) -> None:
    root = small(tmp_path, {"a": [CAT], "b": [DOG]}, "train: images/train\nval: images/val\n"
                 "test: images/test\nnames: [cat, dog]\n")  # fmt: skip
    for name in ("val/c", "test/d", "test/e"):
        image(root / f"images/{name}.png")
    write(root / "labels/val/c.txt", [CAT])
    write(root / "labels/test/e.txt", [])
    data = Yolo(str(root), several="keep")
    assert data.ids("test") == ["images/test/d.png", "images/test/e.png"]
    assert data.backgrounds("test").tolist() == [False, True]
    assert data.backgrounds("all").sum() == 1


@pytest.mark.parametrize(("yaml", "message"), [
    ("train: images/train\n", "no `names`"),
    ("names: [cat]\n", "no `train`"),
    ("train: images/gone\nnames: [cat]\n", "images/gone is not there"),
    ("train: images/train\nnames: [cat, cat]\n", "both called 'cat'"),
    ("train: images/train\nnames: {a: cat}\n", "no number of a class"),
    ("train: 3\nnames: [cat]\n", "no path"),
    ("train: [\n", "line 2: cannot be read as YAML"),
    ("[]\n", "no data.yaml of YOLO"),
])  # fmt: skip
def test_a_wrong_data_yaml_is_refused(tmp_path: Path, yaml: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        Yolo(str(small(tmp_path, {"a": [CAT]}, yaml)))


def test_a_folder_that_is_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no data set of YOLO"):
        Yolo(str(tmp_path))
    with pytest.raises(UserError, match="no such folder"):
        Yolo(str(tmp_path / "gone"))
    image(tmp_path / "images/train/a.png")
    with pytest.raises(UserError, match=r"write classes\.txt"):
        Yolo(str(tmp_path))


def test_truth_has_a_fingerprint_of_its_own(tmp_path: Path) -> None:
    write_shapes(tmp_path, Shapes(images=8, val_images=4, held_back=0))
    splits: tuple[Split, ...] = ("train", "val")
    first = Yolo(str(tmp_path))
    before = [[hashed(split) for split in splits] for hashed in hashes(first)]
    path = next((tmp_path / "labels/val").iterdir())
    label = path.read_text().split()[0]
    path.write_text(f"{label} 0.5 0.5 0.25 0.25\n")
    after = [[hashed(split) for split in splits] for hashed in hashes(Yolo(str(tmp_path)))]
    assert after[0] == before[0]
    assert after[1][0] == before[1][0]
    assert after[1][1] != before[1][1]


def hashes(data: Yolo) -> list[Callable[[Split], str]]:
    return [data.fingerprint, data.truth_fingerprint]
