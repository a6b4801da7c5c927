"""COCO files matched with images: categories, crowds, and names as exporters write them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.data.annotations import MatchedAnnotations
from pipeline.data.folder import Folder
from pipeline.formats import coco
from pipeline.formats.coco import read_json
from pipeline.types import Note
from tests.data.test_folder import annotate, problem


@pytest.fixture
def root(tmp_path, paint) -> Path:
    """Return a folder of two classes with images of val alone and a few of train."""
    for split, count in (("train", 3), ("val", 3)):
        for name in ("n01", "n02"):
            for n in range(count):
                paint(tmp_path / f"data/{split}/{name}/{split}{n}.png", size=(30, 40 + n))
    (tmp_path / "data/classes.txt").write_text("n01 tench\nn02 English springer\n")
    return tmp_path / "data"


UNUSED = [{"id": 0, "name": "parts-v2", "supercategory": "none"}, {"id": 7, "name": "n02"}]


@pytest.mark.parametrize("name", ["object", "background", "parts"])
def test_categories_that_no_annotation_uses_do_not_count(root, name):
    """Roboflow writes a root category that nothing is of."""
    box = {"id": 1, "image_id": 70, "category_id": 9, "bbox": [1, 2, 3, 4]}
    annotate(root, categories=[*UNUSED, {"id": 9, "name": name}], annotations=[box])
    data = Folder(str(root))
    assert data.truth("val")["val/n01/val0.png"].of_label().tolist() == [[1, 2, 4, 6]]
    (note,) = data.truth_notes()
    assert note == (
        f"instances_val.json: its one used category {name!r} is no class of the data set: its "
        "boxes are taken as those of each image's own class; 2 categories ('parts-v2', 'n02') that "
        "no annotation uses do not count"
    )


def test_a_used_category_that_is_a_class_is_that_class(root):
    box = {"id": 1, "image_id": 70, "category_id": 7, "bbox": [1, 2, 3, 4]}
    annotate(root, categories=[*UNUSED, {"id": 9, "name": "object"}], annotations=[box])
    data = Folder(str(root))
    assert data.truth("val")["val/n01/val0.png"].classes.tolist() == [1]
    assert data.truth_notes() == []


def test_crowds_may_be_objects(root):
    path = annotate(root)
    data_set = json.loads(path.read_text())
    for annotation in data_set["annotations"]:
        annotation["iscrowd"] = 1
    path.write_text(json.dumps(data_set))
    plain, data = Folder(str(root)), Folder(str(root), crowds="objects")
    assert [len(known.boxes) for known in plain.truth("val").values()] == [0, 0]
    assert "data.crowds=objects counts them as objects" in plain.truth_notes()[0]
    assert [len(known.boxes) for known in data.truth("val").values()] == [1, 2]
    assert "count as objects (data.crowds=objects)" in data.truth_notes()[0]
    assert plain.truth_fingerprint("val") != data.truth_fingerprint("val")
    assert plain.fingerprint("val") == data.fingerprint("val")


def test_images_of_the_data_set_with_crowds_alone(root):
    """Boxes of images that are not here do not hide that all others are crowds."""
    annotate(root)
    data_set = json.loads((root / "instances_val.json").read_text())
    data_set["images"].append({"id": 1, "file_name": "elsewhere.png"})
    for annotation in data_set["annotations"]:
        annotation["iscrowd"] = 1
    data_set["annotations"].append({"id": 9, "image_id": 1, "category_id": 5, "bbox": [1, 1, 2, 2]})
    annotate(root, **data_set)
    data = Folder(str(root))
    notes = " ".join(data.truth_notes())
    assert "2 images ('n01/val0.png', 'n01/val1.png') of the data set have crowds" in notes
    assert "localized against it; data.crowds=objects counts them as objects" in notes
    plain = _match_without_options(root, data)
    assert "localized against it" in plain.match_notes[0]
    assert not any("data." in note for note in plain.match_notes if "data.root" not in note)


def _match_without_options(root: Path, data: Folder) -> MatchedAnnotations:
    """Match the file as a published set does that has neither data.boxes nor data.crowds."""
    content = coco.parse(
        root / "instances_val.json", read_json(root / "instances_val.json"), option=None
    )
    by_name = {"n01": 0, "n02": 1}
    return MatchedAnnotations(content, data.ids("val"), data.splits.all, by_name, has_options=False)


def test_remedies_name_options_that_the_data_set_has(root):
    annotate(root, annotations=[])
    data = Folder(str(root))
    (note,) = data.truth_notes()
    assert note.endswith("with boxes, or give the file that has them (data.boxes=FILE)")
    (note,) = _match_without_options(root, data).match_notes
    assert note.endswith("annotate objects of the scored images with boxes")
    (note,) = data.drawn_notes(root / "instances_val.json")
    assert note.endswith("or give the file that has them (calibrate.boxes=FILE)")


@pytest.mark.parametrize(
    "prefix",
    ["C:\\photos\\", "s3://bucket/set/", "/home/anna/", "/data/local-files/?d=", "http://h/"],
)
def test_names_of_exporters_match_by_their_end_and_are_counted(root, prefix):
    start = f"{prefix}n01" + ("\\" if "\\" in prefix else "/")
    images = [{"id": 70 + n, "file_name": f"{start}val{n}.PNG", "width": 40 + n, "height": 30}
              for n in range(2)]  # fmt: skip
    annotate(root, images=images)
    data = Folder(str(root))
    assert list(data.truth("val")) == ["val/n01/val0.png", "val/n01/val1.png"]
    (note,) = data.truth_notes()
    assert note.startswith("instances_val.json: 2 images (")
    assert note.endswith("matched by the end of the path")
    assert data.coco_names("val").file_names[0] == images[0]["file_name"]


def test_names_that_fit_several_are_left_out_with_the_candidates(root):
    images = [{"id": 70, "file_name": "n01/val0.png"}, {"id": 71, "file_name": "C:\\x\\val1.png"},
              {"id": 72, "file_name": "s3://a/x/n02/val2.png"},
              {"id": 73, "file_name": "s3://b/x/n02/val2.png"}]  # fmt: skip
    annotate(root, images=images)
    data = Folder(str(root))
    assert list(data.truth("val")) == ["val/n01/val0.png"]
    notes = " ".join(data.truth_notes())
    assert "val1.png: val/n01/val1.png or val/n02/val1.png') with a name that several" in notes
    assert (
        "2 images ('s3://a/x/n02/val2.png: val/n02/val2.png', 's3://b/x/n02/val2.png: "
        "val/n02/val2.png') with a name that fits the same image as another name, left out"
    ) in notes
    annotate(root, images=images[1:2], annotations=[])
    message = problem(root)
    assert "val1.png: val/n01/val1.png or val/n02/val1.png, which is not certain" in message


def test_images_without_a_name_are_left_out(root):
    images = [{"id": 70, "file_name": "n01/val0.png"}, {"id": 71}]
    annotate(root, images=images)
    data = Folder(str(root))
    assert list(data.truth("val")) == ["val/n01/val0.png"]
    assert "1 image ('id 71') without a file_name, left out" in " ".join(data.truth_notes())


def test_odd_records_of_drawn_boxes_are_said(root):
    path = annotate(root)
    data_set = json.loads(path.read_text())
    data_set["annotations"][1]["bbox"][2] = 0
    path.write_text(json.dumps(data_set))
    data = Folder(str(root))
    assert len(data.drawn(path)["val/n01/val1.png"].boxes) == 1
    assert "whose bbox is empty" in data.drawn_notes(path)[0]


def test_drawn_boxes_are_parsed_once(root, monkeypatch):
    path = annotate(root)
    data, read = Folder(str(root)), []

    def note_reading(path):
        read.append(path)
        return read_json(path)

    monkeypatch.setattr(coco, "read_json", note_reading)
    assert data.drawn(path)
    assert not data.drawn_notes(path)
    assert read == [path]


def test_a_file_of_training_images_alone_is_said(root):
    images = [{"id": 70 + n, "file_name": f"train/n01/train{n}.png"} for n in range(2)]
    annotate(root, images=images)
    data = Folder(str(root))
    assert data.truth("val") == {}
    (note,) = data.truth_notes()
    assert note.startswith("instances_val.json: 2 of 2 images are of train, none is scored; give")
    assert isinstance(note, Note)
    assert note.total == 2
    annotate(root, images=[images[0], {"id": 71, "file_name": "val/n01/val1.png"}])
    assert Folder(str(root)).truth_notes() == [
        "instances_val.json: 1 of 2 images is of train: not scored, 1 of 2 are"
    ]


def test_categories_that_are_no_class_are_counted_with_the_class_they_may_mean(root):
    names = {5: "n01", 6: "TENCH", 7: "English Springers", 8: "wolf"}
    boxes = [
        {"id": n, "image_id": 70, "category_id": c, "bbox": [n, 2, 3, 4]}
        for n, c in enumerate([5, 6, 6, 7, 8])
    ]
    categories = [{"id": id, "name": name} for id, name in names.items()]
    annotate(root, categories=categories, annotations=boxes)
    (note,) = Folder(str(root)).truth_notes()
    assert note == (
        "instances_val.json: 4 of 5 boxes are of 3 categories that are no class of the data set: "
        "'TENCH' (2, class 'tench'?), 'English Springers' (1, class 'English springer'?), 'wolf' "
        "(1): found for no class; name categories as the classes or their folders are"
    )
    assert isinstance(note, Note)
    assert (note.names, note.total) == (("TENCH", "English Springers", "wolf"), 4)


def test_names_of_another_ending_match_and_are_counted(root):
    annotate(root, images=[{"id": 70, "file_name": "n01/val0.jpg"}], annotations=[])
    assert Folder(str(root)).truth_notes()[1:] == [
        "instances_val.json: 1 image ('n01/val0.jpg: val/n01/val0.png') matched by the name "
        "without its ending, as the ending is another"
    ]
