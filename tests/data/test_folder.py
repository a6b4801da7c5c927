"""folder: classes and splits as the folders have them, boxes as the annotation file has them."""

from __future__ import annotations

import json
import os
import shutil
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.data.folder import Folder
from pipeline.errors import SkippedImage, UserError
from pipeline.formats import photo
from pipeline.formats.results_folder import mark


@pytest.fixture
def root(tmp_path, paint) -> Path:
    for split, count in (("train", 12), ("val", 3)):
        for name in ("n01", "n02"):
            for n in range(count):
                paint(tmp_path / f"data/{split}/{name}/{split}{n}.png", size=(30, 40 + n))
    (tmp_path / "data/classes.txt").write_text("n01 tench\nn02 English springer\n")
    return tmp_path / "data"


def annotate(root: Path, **change: object) -> Path:
    """Write instances_val.json, with other lists in place of its lists where they are given."""
    data_set = {
        "images": [
            {"id": 70 + n, "file_name": f"n01/val{n}.png", "width": 40 + n, "height": 30}
            for n in range(2)
        ],
        "annotations": [
            {"id": 1, "image_id": 70, "category_id": 5, "bbox": [1, 2, 10, 20]},
            {"id": 2, "image_id": 71, "category_id": 5, "bbox": [0, 0, 5, 6]},
            {"id": 3, "image_id": 71, "category_id": 3, "bbox": [2, 2, 5, 6]},
        ],
        "categories": [{"id": 5, "name": "n01"}, {"id": 3, "name": "English springer"}],
    }
    (root / "instances_val.json").write_text(json.dumps(data_set | change))
    return root / "instances_val.json"


# -- images and labels


def make_calibration(root: Path, paint, name: str = "valid") -> None:
    """Add a folder of three classes with a box in an image, and its annotation file."""
    for folder in ("n01", "n02", "n03"):
        paint(root / f"{name}/{folder}/x.png", size=(30, 40))
    data_set = {"images": [{"id": 1, "file_name": f"{name}/n01/x.png"}],
             "annotations": [{"id": 1, "image_id": 1, "category_id": 5, "bbox": [1, 2, 10, 20]}],
             "categories": [{"id": 5, "name": "n01"}]}  # fmt: skip
    (root / f"instances_{name}.json").write_text(json.dumps(data_set))


def test_a_split_that_only_chooses_a_threshold(root, paint):
    annotate(root)
    make_calibration(root, paint)
    plain, data = Folder(str(root)), Folder(str(root), calibration="valid")
    assert plain.ids("calibration") == []
    assert plain.truth("calibration") == {}
    assert data.ids("calibration") == ["valid/n01/x.png", "valid/n02/x.png"]
    for split in ("train", "held_back", "val"):
        assert data.ids(split) == plain.ids(split)
    assert set(data.ids("all")) == set(plain.ids("all")) | set(data.ids("calibration"))
    (known,) = data.truth("calibration").values()
    assert known.boxes.tolist() == [[1, 2, 11, 22]]
    assert list(data.truth("val")) == list(plain.truth("val"))
    assert data.classes == plain.classes
    assert any("valid: 1 class folder ('n03')" in note for note in data.notes())
    assert data.truth_fingerprint("calibration") != data.truth_fingerprint("val")
    assert data.truth_fingerprint("val") == plain.truth_fingerprint("val")
    # Without data.calibration, a folder called `valid` would be scored.
    shutil.rmtree(root / "val")
    (root / "instances_val.json").unlink()
    scored = Folder(str(root), calibration="valid").ids("val")
    assert scored
    assert all(id.startswith("train/") for id in scored)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("vali", "did you mean 'val'"), ("train", "learned from"), ("other", "instances_other.json")],
)
def test_a_calibration_that_cannot_be(root, paint, name, expected):
    paint(root / "other/n01/x.png")
    with pytest.raises(UserError, match=f"data.calibration={name}") as caught:
        Folder(str(root), calibration=name)
    assert expected in str(caught.value)


def test_a_calibration_beside_classes_would_be_one(tmp_path, paint):
    for name in ("n01", "n02"):
        paint(tmp_path / f"{name}/x.png")
    make_calibration(tmp_path, paint)
    with pytest.raises(UserError, match="it would be a class"):
        Folder(str(tmp_path), calibration="valid")


def test_crowds_come_with_the_truth(root):
    path = annotate(root)
    data_set = json.loads(path.read_text())
    data_set["annotations"][1]["iscrowd"] = 1
    path.write_text(json.dumps(data_set))
    known = Folder(str(root)).truth("val")["val/n01/val1.png"]
    assert len(known.boxes) == 1
    assert known.crowds.boxes.tolist() == [[0, 0, 5, 6]]
    assert known.crowds.classes.tolist() == [0]
    assert known.crowds.masks == [None]


def test_train_and_val(root):
    data = Folder(str(root))
    assert data.classes == ("tench", "English springer")
    assert data.size == (224, 224)
    assert list(data.ids("val")) == [f"val/n0{c}/val{n}.png" for c in (1, 2) for n in range(3)]
    assert data.labels("val").tolist() == [0, 0, 0, 1, 1, 1]
    train, held_back = set(data.ids("train")), set(data.ids("held_back"))
    assert len(train) + len(held_back) == 24
    assert held_back
    assert not train & held_back
    assert set(data.ids("all")) == train | held_back | set(data.ids("val"))
    assert data.notes() == []
    for split in ("train", "held_back", "val", "all"):
        assert len(data.labels(split)) == len(data.ids(split)) == len(set(data.ids(split)))
    example = data.example("val", 4, at=(10, 12))
    assert (example.id, example.label, example.size) == ("val/n02/val1.png", 1, (30, 41))
    assert example.image.shape == (10, 12, 3)


@pytest.mark.parametrize("name", ["valid", "validation", "test"])
def test_other_names_of_val(root, name):
    (root / "val").rename(root / name)
    assert Folder(str(root)).ids("val")[0] == f"{name}/n01/val0.png"


def test_one_folder_is_split_by_hash(tmp_path, paint):
    for n in range(60):
        paint(tmp_path / f"{'ab'[n % 2]}/{n}.png", size=(4, 4))
    data = Folder(str(tmp_path), val=0.3)
    assert data.classes == ("a", "b")
    assert 8 < len(data.ids("val")) < 30
    assert len(data.ids("all")) == 60
    before = set(data.ids("val"))
    paint(tmp_path / "a/new.png", size=(4, 4))
    assert set(Folder(str(tmp_path), val=0.3).ids("val")) - {"a/new.png"} == before


def test_val_alone(root):
    """A pretrained network with its head needs no images to train on."""
    shutil.rmtree(root / "train")
    data = Folder(str(root))
    assert data.classes == ("tench", "English springer")
    assert (len(data.ids("train")), len(data.ids("val"))) == (0, 6)


def test_train_alone_is_split(root):
    shutil.rmtree(root / "val")
    data = Folder(str(root))
    assert len(data.ids("all")) == 24
    assert 0 < len(data.ids("val")) < 12


def test_a_class_called_train(tmp_path, paint):
    for name in ("bus", "car", "train"):
        for n in range(4):
            paint(tmp_path / name / f"{n}.png", size=(4, 4))
    assert Folder(str(tmp_path)).classes == ("bus", "car", "train")


def test_what_is_left_out_is_named(root, paint):
    (root / "train/n03").mkdir()
    (root / "train/n04").symlink_to(root / "nothing")
    (root / "train/n05").symlink_to(root / "train/n05")
    paint(root / "train/loose.png")
    (root / "train/n01/loop").symlink_to(root / "train")
    data = Folder(str(root))
    assert data.classes == ("tench", "English springer")
    assert len(data.ids("all")) == 30
    assert data.notes() == [
        "1 image ('train/loose.png'): in no class folder, left out; "
        "move each into the folder of its class",
        "train/n01/loop: a link back to a folder above it, not followed",
        "1 class folder ('train/n03'): no image in it, left out",
        "2 links ('train/n04', 'train/n05'): a link to nothing, left out; the files are elsewhere: "
        "git annex get, or download them",
    ]


def test_a_class_folder_that_cannot_be_read(root, monkeypatch):
    original = os.scandir

    def scandir(path):
        if os.fspath(path).endswith("train/n02"):
            raise PermissionError(13, "Permission denied", str(path))
        return original(path)

    monkeypatch.setattr(os, "scandir", scandir)
    data = Folder(str(root))
    assert data.classes == ("tench", "English springer")  # val has it still
    assert set(data.labels("train")) == {0}
    assert data.notes() == [
        "train/n02: the folder cannot be read (Permission denied)",
        "1 class ('n02') with images in val but none in train: not learned",
    ]


def test_a_file_that_vanishes_is_set_aside(root):
    data = Folder(str(root))
    assert data.ids("val")[0] == "val/n01/val0.png"
    (root / "val/n01/val0.png").unlink()
    with pytest.raises(SkippedImage, match=r"val/n01/val0\.png: no such file"):
        data.example("val", 0)
    assert data.example("val", 1).id == "val/n01/val1.png"


def test_odd_names(tmp_path, paint):
    folders = ["a b=c,[d]", "ü\n", os.fsdecode(b"\xff")]
    for folder in folders:
        for n in range(3):
            paint(tmp_path / folder / f"{n}'\".png", size=(4, 4))
    data = Folder(str(tmp_path))
    assert data.classes == (r"\xff", "a b=c,[d]", r"ü\n")
    assert len(set(data.ids("all"))) == 9
    for n in range(9):
        assert data.example("all", n).size == (4, 4)


def test_wrong_roots(tmp_path):
    with pytest.raises(UserError, match=r"data\.root=.*no such folder; expected.*train/<class>"):
        Folder(str(tmp_path / "none"))
    with pytest.raises(UserError, match=r"data\.root=.*no image found; expected"):
        _ = Folder(str(tmp_path)).classes
    for wrong in ({"val": 1}, {"held_back": -0.1}, {"size": 3}):
        with pytest.raises(UserError, match=f"data.{next(iter(wrong))}="):
            Folder(str(tmp_path), **wrong)


def test_classes_txt(root):
    path = root / "classes.txt"
    path.write_text("n01 tench\nn02 dog\n\nn01 fish\n")
    with pytest.raises(UserError, match=r"classes\.txt, line 4: the folder 'n01' is there twice"):
        _ = Folder(str(root)).classes
    path.write_text("n01 dog\nn02 dog\n")
    with pytest.raises(UserError, match=r"classes\.txt: the class name 'dog' stands for several"):
        _ = Folder(str(root)).classes
    path.write_text("n02\tEnglish springer\nn99 not here\n")
    assert Folder(str(root)).classes == ("n01", "English springer")


# -- fingerprints


def test_fingerprint(root, paint, tmp_path):
    def now(place=root):
        data = Folder(str(place))
        return tuple(data.fingerprint(split) for split in ("train", "val", "all"))

    first = now()
    assert now() == first
    root.rename(tmp_path / "moved")
    assert now(tmp_path / "moved") == first
    (tmp_path / "moved").rename(root)

    victim = root / "val/n01/val0.png"
    content, times = victim.read_bytes(), victim.stat()
    victim.write_bytes(content + b"\0")  # another size
    os.utime(victim, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert now()[0] == first[0]
    assert now()[1] != first[1]
    assert now()[2] != first[2]
    victim.write_bytes(content)  # another time
    os.utime(victim, ns=(times.st_atime_ns, times.st_mtime_ns + 1))
    assert now()[1] != first[1]
    os.utime(victim, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert now() == first

    added = paint(root / "val/n02/new.png")
    assert now()[1] != first[1]
    added.unlink()
    victim.rename(root / "val/n02/val0b.png")  # another label
    relabelled = now()[1]
    assert relabelled != first[1]
    (root / "val/n02/val0b.png").unlink()
    assert now()[1] not in (first[1], relabelled)

    before = now()
    (root / "classes.txt").write_text("n01 tench\nn02 dog\n")
    assert now()[0] != before[0]


def test_truth_fingerprint(root):
    assert Folder(str(root)).truth_fingerprint("val") == "none"
    annotate(root)
    first = Folder(str(root)).truth_fingerprint("val")
    annotate(root, annotations=[])
    assert Folder(str(root)).truth_fingerprint("val") not in (first, "none")


# -- annotations


def test_no_annotations(root):
    data = Folder(str(root))
    assert data.truth("val") == {}
    assert data.truth_notes() == []
    names = data.coco_names("val")
    assert list(names.image_ids) == [1, 2, 3, 4, 5, 6]
    assert list(names.category_ids) == [1, 2]
    assert names.file_names == data.ids("val")


def test_truth(root):
    annotate(root)
    data = Folder(str(root))
    truth = data.truth("val")
    assert list(truth) == ["val/n01/val0.png", "val/n01/val1.png"]
    assert truth["val/n01/val0.png"].boxes.tolist() == [[1, 2, 11, 22]]
    second = truth["val/n01/val1.png"]
    assert (second.label, second.size, second.classes.tolist()) == (0, (30, 41), [0, 1])
    assert second.of_label().tolist() == [[0, 0, 5, 6]]
    assert data.truth("train") == {}
    assert set(data.truth("all")) == set(truth)
    assert data.truth_notes() == []
    names = data.coco_names("val")
    assert list(names.image_ids) == [70, 71, 72, 73, 74, 75]
    assert names.file_names[:3] == ["n01/val0.png", "n01/val1.png", "val/n01/val2.png"]
    assert list(names.category_ids) == [5, 3]


def test_categories_that_the_file_lacks_get_free_numbers(root):
    annotate(root, categories=[{"id": 5, "name": "tench"}], annotations=[])
    assert list(Folder(str(root)).coco_names("val").category_ids) == [5, 6]


@pytest.mark.parametrize("name", ["val/n01/val0.png", "n01/val0.png", "./n01/val0.png"])
def test_how_images_may_be_named(root, name):
    annotate(root, images=[{"id": 70, "file_name": name}], annotations=[])
    assert Folder(str(root)).coco_names("val").image_ids[0] == 70


def test_a_bare_name_that_fits_several(root):
    """val0.png is there in both classes; train0.png is not among the images of val."""
    images = [{"id": n, "file_name": name}
              for n, name in enumerate(["n01/val0.png", "val0.png", "n01/train0.png"])]  # fmt: skip
    annotate(root, images=images, annotations=[])
    assert Folder(str(root)).truth_notes() == [
        "instances_val.json: holds no box, so nothing can be localized against it; annotate "
        "objects of the scored images with boxes, or give the file that has them (data.boxes=FILE)",
        "instances_val.json: 1 image ('n01/train0.png') not in the data set; file_name is best the "
        "path below data.root; unpack the images again where they are to be there",
        "instances_val.json: 1 image ('val0.png: val/n01/val0.png or val/n02/val0.png') with a "
        "name that several images of the data set end in, left out; file_name is best the path "
        "below data.root",
    ]


def test_a_name_with_a_line_break(root, paint):
    paint(root / "val/n01/a\nb.png")
    annotate(root, images=[{"id": 70, "file_name": "n01/a\nb.png"}])
    data_set = json.loads((root / "instances_val.json").read_text())
    annotate(root, images=data_set["images"], annotations=data_set["annotations"][:1])
    assert list(Folder(str(root)).truth("val")) == [r"val/n01/a\nb.png"]


def problem(root: Path, **options: Any) -> str:
    """Return the message that reading the ground truth is refused with."""
    with pytest.raises(UserError) as caught:
        Folder(str(root), **options).truth("val")
    return str(caught.value)


def test_images_that_are_not_there(root):
    images = [{"id": 70, "file_name": "other/0.jpg"}]
    path = annotate(root, images=images, annotations=[])
    message = problem(root)
    assert str(path) in message
    assert "none of its 1 images is in the data set; it names 'other/0.jpg'" in message
    assert "file_name is to be" in message


def test_several_records_of_an_image_are_joined(root):
    images = [{"id": n, "file_name": name, "width": 40, "height": 30}
              for n, name in ((70, "n01/val0.png"), (71, "val/n01/val0.png"))]  # fmt: skip
    again = [{"id": 9, "image_id": 71, "category_id": 5, "bbox": [1, 2, 10, 20]}]
    annotations = json.loads(annotate(root).read_text())["annotations"]
    annotate(root, images=images, annotations=annotations + again)
    data = Folder(str(root))
    boxes = data.truth("val")["val/n01/val0.png"].boxes.tolist()
    assert boxes == [[1, 2, 11, 22], [0, 0, 5, 6], [2, 2, 7, 8]]
    assert data.truth_notes() == [
        "instances_val.json: 1 image ('val/n01/val0.png') that several records name: their "
        "annotations are joined",
        "instances_val.json: 1 annotation ('annotations[3]') of these with the box and category of "
        "another: left out",
    ]


def test_classes_not_listed(root):
    categories = [{"id": 5, "name": "n01"}, {"id": 3, "name": "wolf"}]
    annotate(root, categories=categories)
    data = Folder(str(root))
    assert data.truth("val")["val/n01/val1.png"].classes.tolist() == [0, -1]
    assert data.truth_notes() == [
        "instances_val.json: 1 of 3 boxes is of a category that is no class of the data set: "
        "'wolf' (1): found for no class; name categories as the classes or their folders are"
    ]
    annotate(root, categories=[{"id": 5, "name": "tensh"}, {"id": 3, "name": "wolf"}])
    assert "none of its 2 used categories is a class" in problem(root)
    assert "did you mean 'tench'?" in problem(root)


def test_size_from_the_image(root):
    images = [{"id": 70, "file_name": "n01/val0.png"}, {"id": 71, "file_name": "n01/val1.png"}]
    annotations = [{"id": 1, "image_id": 70, "category_id": 5, "bbox": [-9, 2, 100, 20]}]
    annotate(root, images=images, annotations=annotations)
    data = Folder(str(root))
    assert data.truth("val")["val/n01/val0.png"].boxes.tolist() == [[0, 2, 40, 22]]
    assert data.truth_notes() == [
        "instances_val.json: 1 box ('annotations[0]') of 1 stuck out of its image and was clipped"
    ]
    annotations.append({**annotations[0], "id": 2, "bbox": [90, 2, 100, 20]})
    annotate(root, images=images, annotations=annotations)
    data = Folder(str(root))
    assert data.truth("val")["val/n01/val0.png"].boxes.tolist() == [[0, 2, 40, 22]]
    assert data.truth_notes()[0] == (
        "instances_val.json: 1 annotation ('annotations[1]') whose box lies outside its image: "
        "left out; correct or drop them"
    )
    annotate(root, images=images, annotations=annotations[1:])
    notes = Folder(str(root)).truth_notes()
    assert "1 image ('val/n01/val0.png') whose boxes are all left out" in notes[1]


def test_an_image_of_another_size_is_left_out(root):
    images = [{"id": 70, "file_name": "n01/val0.png", "width": 30, "height": 40},
              {"id": 71, "file_name": "n01/val1.png"}]  # fmt: skip
    annotate(root, images=images)
    data = Folder(str(root))
    assert list(data.truth("val")) == ["val/n01/val1.png"]
    (note,) = data.truth_notes()
    assert note.startswith(
        "instances_val.json: 1 image ('n01/val0.png: 30 x 40 in the file, 40 x 30 on disk when "
        "upright') of another size than the file says: left out, so no number has them"
    )
    assert "EXIF" in note


def test_sizes_that_are_of_no_image_are_refused(root):
    images = [{"id": 70, "file_name": "n01/val0.png", "width": 30, "height": 40}]
    path = annotate(root, images=images)
    message = problem(root)
    assert f"{path}: no image has the size that the file says: n01/val0.png: 30 x 40" in message
    assert "EXIF" in message


def test_boxes_lie_on_the_upright_image(root, paint):
    exif = Image.Exif()
    exif[photo.ORIENTATION] = 6
    paint(root / "val/n01/val0.jpg", size=(40, 30), exif=exif)
    images = [{"id": 70, "file_name": "n01/val0.jpg", "width": 40, "height": 30}]
    annotations = [{"id": 1, "image_id": 70, "category_id": 5, "bbox": [30, 2, 10, 20]}]
    annotate(root, images=images, annotations=annotations)
    truth = Folder(str(root)).truth("val")["val/n01/val0.jpg"]
    assert (truth.size, truth.boxes.tolist()) == ((30, 40), [[30, 2, 40, 22]])


def test_truth_of_a_broken_image(root):
    annotate(root)
    (root / "val/n01/val0.png").write_bytes(b"broken")
    assert Folder(str(root)).truth("val")["val/n01/val0.png"].size == (30, 40)


def test_boxes_elsewhere(root, tmp_path):
    path = annotate(root).rename(tmp_path / "other.json")
    assert len(Folder(str(root), boxes=str(path)).truth("val")) == 2
    assert "data.boxes=none.json: no such file" in problem(root, boxes="none.json")


def test_boxes_of_a_folder_split_by_hash(tmp_path, paint):
    for n in range(30):
        paint(tmp_path / f"{'ab'[n % 2]}/{n}.png", size=(9, 9))
    images = [{"id": n, "file_name": f"{n}.png", "width": 9, "height": 9} for n in range(30)]
    annotations = [{"id": n, "image_id": n, "category_id": n % 2, "bbox": [1, 1, 2, 2]}
                   for n in range(30)]  # fmt: skip
    categories = [{"id": 0, "name": "a"}, {"id": 1, "name": "b"}]
    annotate(tmp_path, images=images, annotations=annotations, categories=categories)
    data = Folder(str(tmp_path))
    for split in ("train", "held_back", "val", "all"):
        assert set(data.truth(split)) == set(data.ids(split))
        labels = dict(zip(data.ids(split), data.labels(split), strict=True))
        for id, truth in data.truth(split).items():
            assert truth.label == labels[id] == truth.classes[0]


def test_imagenette(shared):
    data = Folder(str(shared / "data/imagenette"))
    assert len(data.classes) == 10
    assert data.classes[:2] == ("tench", "English springer")
    assert (len(data.ids("val")), len(data.ids("all"))) == (250, 3250)
    truth = data.truth("val")
    assert sum(len(image.boxes) for image in truth.values()) == 406
    assert all(len(image.of_label()) for image in truth.values())
    assert list(data.coco_names("val").image_ids) == list(range(1, 251))
    assert np.bincount(data.labels("val")).tolist() == [25] * 10
    assert data.truth_notes() == data.notes() == []


def test_capital_letters_of_the_split_folders(root):
    (root / "train").rename(root / "Train")
    (root / "val").rename(root / "Val")
    data = Folder(str(root))
    assert data.classes == ("tench", "English springer")
    assert data.notes() == []


def test_layouts_that_look_like_mistakes_are_named(root):
    shutil.rmtree(root / "train/n02")
    assert Folder(str(root)).notes() == [
        "1 class ('n02') with images in val but none in train: not learned"
    ]
    (root / "deeper").mkdir()
    (root / "train").rename(root / "deeper/train")
    shutil.rmtree(root / "val")
    (note,) = Folder(str(root / "deeper/train"), val=0.2).notes()
    assert "all images are of one class, 'n01'" in note


def test_lines_of_classes_txt_that_fit_no_folder(root):
    (root / "classes.txt").write_text("n01|tench\nn02 English springer\n")
    assert Folder(str(root)).notes() == [
        "classes.txt: 1 class folder ('n01') without a line, named after the folder",
        "classes.txt: 1 line ('n01|tench') without a folder of images, not used",
    ]


def test_boxes_of_objects_whatever_they_are(root):
    box = {"id": 1, "image_id": 70, "category_id": 9, "bbox": [1, 2, 3, 4]}
    annotate(root, categories=[{"id": 9, "name": "object"}], annotations=[box])
    data = Folder(str(root))
    truth = next(image for image in data.truth("val").values() if len(image.boxes))
    assert truth.of_label().tolist() == [[1, 2, 4, 6]]
    assert "taken as those of each image's own class" in " ".join(data.truth_notes())


# -- what is no photograph of a class


def test_own_results_are_no_class(root, paint):
    shutil.move(root / "train/n01", root / "n01")
    shutil.move(root / "train/n02", root / "n02")
    shutil.rmtree(root / "train")
    shutil.rmtree(root / "val")
    before = Folder(str(root)).fingerprint("all")
    paint(root / "outputs/draw/12/pictures/a.png")
    mark(root / "outputs/draw/12")
    data = Folder(str(root))
    assert data.classes == ("tench", "English springer")
    assert data.fingerprint("all") == before
    assert "1 results folder ('outputs/draw/12'): written by label2box" in " ".join(data.notes())
    with pytest.raises(UserError, match=r"data\.root=.*holds results that label2box wrote"):
        Folder(str(root / "outputs/draw/12"))


def test_system_folders_and_other_files_are_counted_in_a_line_for_all_classes(root, paint):
    for split in ("train", "val"):
        paint(root / f"{split}/@eaDir/n01/thumb.jpg")
        for name in ("n01", "n02"):
            paint(root / f"{split}/{name}/@eaDir/train0.png/thumb.jpg")
            (root / f"{split}/{name}/a.xml").touch()
    data = Folder(str(root))
    assert len(data.ids("all")) == 30
    assert data.classes == ("tench", "English springer")
    assert data.notes() == [
        "6 system folders ('train/@eaDir', 'train/n01/@eaDir', 'train/n02/@eaDir', ...): "
        "thumbnails and metadata, not searched",
        "4 other files beside the images, not read: 4 .xml",
    ]


def test_a_val_folder_that_is_a_link_to_train(root):
    shutil.rmtree(root / "val")
    (root / "val").symlink_to("train")
    data = Folder(str(root))
    assert len(data.ids("val")) == 24
    assert "24 images" in data.notes()[0]
    assert "trained on and scored" in data.notes()[0]


# -- Unicode forms of names


def nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def nfd(text: str) -> str:
    return unicodedata.normalize("NFD", text)


@pytest.mark.parametrize(("train", "val", "file"), [(nfd, nfd, nfc), (nfc, nfd, nfd),
                                                    (nfd, nfc, nfd)])  # fmt: skip
def test_names_are_the_same_in_any_unicode_form(tmp_path, paint, train, val, file):
    root = tmp_path / nfd("données")
    for split, count, form in (("train", 6, train), ("val", 3, val)):
        for name in ("Café", "blue"):
            for n in range(count):
                paint(root / split / form(name) / form(f"é{n}.png"), size=(30, 40))
    images = [{"id": 7 + n, "file_name": file(f"val/Café/é{n}.png")} for n in range(3)]
    boxes = [{"id": n, "image_id": 7 + n, "category_id": 5, "bbox": [1, 2, 3, 4]} for n in range(3)]
    categories = [{"id": 5, "name": file("Café")}, {"id": 3, "name": "blue"}]
    annotate(root, images=images, annotations=boxes, categories=categories)
    (root / "classes.txt").write_text(file("blue\nCafé\n"))
    data = Folder(str(tmp_path / nfc("données")))
    assert data.classes == ("Café", "blue")
    assert all(id == nfc(id) for id in data.ids("all"))
    assert (len(data.ids("all")), len(data.ids("val"))) == (18, 6)
    assert {id: truth.classes.tolist() for id, truth in data.truth("val").items()} == {
        f"val/Café/é{n}.png": [0] for n in range(3)
    }
    names = data.coco_names("val")
    assert (list(names.category_ids), list(names.image_ids)[:3]) == ([5, 3], [7, 8, 9])
    # What is written has the names of the annotation file, letter by letter.
    assert names.file_names[:3] == [image["file_name"] for image in images]
    assert data.example("val", 0).size == (30, 40)
    assert data.notes() == data.truth_notes() == []


def test_folders_of_a_class_in_two_unicode_forms_are_joined(tmp_path, paint):
    for form in (nfc, nfd):
        for name in ("Café", "blue"):
            for n in range(4):
                paint(tmp_path / form(name) / form(f"{form.__name__}{n}.png"), size=(4, 4))
        paint(tmp_path / form("Café") / "same.png", size=(4, 4))
        paint(tmp_path / "blue" / form("é.png"), size=(4, 4))
    images = [{"id": n, "file_name": form("blue/é.png")} for n, form in enumerate((nfc, nfd))]
    annotate(tmp_path, images=images, annotations=[], categories=[{"id": 1, "name": "blue"}])
    data = Folder(str(tmp_path))
    assert data.classes == ("Café", "blue")
    ids = set(data.ids("all"))
    assert len(ids) == len(data.ids("all")) == 20
    assert {"Café/same.png", r"Cafe\u0301/same.png", "blue/é.png", r"blue/e\u0301.png"} <= ids
    assert data.notes() == [
        r"2 class folders ('Cafe\\u0301', 'Caf\\xe9'): the same name in two Unicode forms, read as "
        "the class 'Café'",
        r"2 images ('Cafe\\u0301/same.png', 'blue/e\\u0301.png'): the name of another in a second "
        "Unicode form: both are used, it under this id; rename or remove it",
    ]
    numbers = dict(zip(data.ids("all"), data.coco_names("all").image_ids, strict=True))
    assert (numbers["blue/é.png"], numbers[r"blue/e\u0301.png"]) == (0, 1)


def test_a_calibration_in_another_unicode_form(root, paint):
    make_calibration(root, paint, nfd("kalé"))
    data = Folder(str(root), calibration=nfc("kalé"))
    assert data.ids("calibration")[0] == nfc("kalé/n01/x.png")
    assert len(data.truth("calibration")) == 1


# -- folders that no split uses


def test_images_that_no_split_uses_are_counted(root, paint):
    for n in range(3):
        paint(root / f"vaild/n01/{n}.png")
    paint(root / "vaild/n07/1.png")
    data = Folder(str(root))
    assert len(data.ids("all")) == 30
    (counted,) = data.notes()
    assert counted == (
        "vaild (4 images; 1 class ('n07') in no split): in no split, not used; val is scored, "
        "data.val_folder=vaild scores it instead"
    )
    assert len(Folder(str(root), val_folder="vaild").ids("val")) == 4


def test_files_beside_the_splits_are_counted(root, paint):
    for name in ("loose.png", ".hidden/1.png", "@eaDir/1.png", ".hidden.png"):
        paint(root / name)
    (root / "loose.png").rename(root / "loose")
    (root / "more.zip").write_bytes(b"PK\3\4" + bytes(30))
    (root / "README.md").write_text("Birds")
    data = Folder(str(root))
    assert len(data.ids("all")) == 30
    rename = "rename those that {} photographs, without the leading dot"
    assert data.notes() == [
        f"1 hidden folder ('.hidden'): not searched; {rename.format('hold')}",
        f"1 hidden file ('.hidden.png'): left out; {rename.format('are')}",
        "1 system folder ('@eaDir'): thumbnails and metadata, not searched",
        "1 image ('loose'): in no class folder, left out; move each into the folder of its class",
        "1 zip archive ('more.zip'): not read; unpack them",
        "1 other file beside the images, not read: 1 .md",
    ]


def test_annotation_files_are_no_files_that_are_not_read(root):
    boxes = annotate(root)
    (root / "annotations").mkdir()
    boxes.rename(root / "annotations/instances_val.json")
    assert Folder(str(root)).notes() == []
    boxes = (root / "annotations/instances_val.json").rename(root / "boxes.json")
    assert Folder(str(root), boxes=str(boxes)).notes() == []
    assert Folder(str(root)).notes() == ["1 other file beside the images, not read: 1 .json"]
    (root / "val").rename(root / "unused")
    of_classes = Folder(str(root / "train"), boxes=str(boxes.rename(root / "train/boxes.json")))
    assert of_classes.notes() == []


def test_a_loose_image_without_an_ending_is_counted_once(root, paint):
    paint(root / "train/loose.png")
    (root / "train/loose.png").rename(root / "train/loose")
    (note,) = Folder(str(root)).notes()
    assert note.startswith("1 image ('train/loose'): in no class folder, left out")


def test_without_val_a_share_is_scored_and_said(root):
    (root / "val").rename(root / "vaild")
    data = Folder(str(root))
    scored = len(data.ids("val"))
    assert data.notes() == [
        "vaild (6 images): in no split, not used; is it meant to be val? rename it, or give "
        "data.val_folder=vaild",
        f"no val/: {scored} of the 24 images of train/, chosen by hash of their names, are scored "
        "and not trained on (data.val=0.2)",
    ]
    assert "none of the 24 images" in Folder(str(root), val=0).notes()[-1]


def test_the_scored_folder_by_option(root, paint):
    paint(root / "test/n01/0.png", size=(30, 40))
    annotate(root)
    (root / "instances_test.json").write_text(json.dumps({
        "images": [{"id": 9, "file_name": "test/n01/0.png"}],
        "annotations": [{"id": 1, "image_id": 9, "category_id": 5, "bbox": [1, 2, 10, 20]}],
        "categories": [{"id": 5, "name": "n01"}]}))  # fmt: skip
    assert Folder(str(root)).notes() == [
        "test: 1 image, neither trained on nor scored; explain.split=all gives boxes to all "
        "images, explain.split=test to these alone; data.val_folder=test scores them instead of val"
    ]
    data = Folder(str(root), val_folder="test")
    assert data.ids("val") == list(data.truth("val")) == ["test/n01/0.png"]
    assert data.annotations == root / "instances_test.json"
    assert Folder(str(root)).annotations == root / "instances_val.json"
    for wrong, expected in (("tset", "did you mean 'test'"), ("train", "held out by hash")):
        with pytest.raises(UserError, match=f"data.val_folder={wrong}") as caught:
            Folder(str(root), val_folder=wrong)
        assert expected in str(caught.value)
