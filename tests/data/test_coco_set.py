"""COCO 2014 and 2017: labels, boxes, crowds and numbers of the files; what is kept; bad records."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO

from pipeline.data import coco_labels
from pipeline.data.coco import Coco
from pipeline.errors import UserError
from pipeline.formats import files
from tests.data import drawn_sets
from tests.data.drawn_sets import COCO_CATEGORIES, SIZE

VAL = "annotations/instances_val2017.json"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/label2box"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    drawn_sets.coco(tmp_path / "coco")
    return tmp_path / "coco"


def change(root: Path, edit: Any, name: str = VAL) -> None:
    """Change a file of annotations in place."""
    content = json.loads((root / name).read_text())
    edit(content)
    (root / name).write_text(json.dumps(content))


@pytest.mark.parametrize(("year", "images"), [(2017, "."), (2014, "."), (2017, "images")])
def test_labels_and_boxes_are_those_of_pycocotools(
    tmp_path: Path, year: Any, images: str, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn_sets.coco(tmp_path, year, images)
    data = Coco(str(tmp_path), year=year, held_back=0)
    assert data.is_multi_label
    assert data.classes == tuple(name for _, name in COCO_CATEGORIES)
    for split in ("train", "val"):
        theirs = COCO(tmp_path / f"annotations/instances_{split}{year}.json")
        names, truth = data.coco_names(split), data.truth(split)
        assert list(names.category_ids) == theirs.getCatIds()
        assert sorted(names.image_ids) == sorted(theirs.imgs), "those without annotation, too"
        for n, number in enumerate(names.image_ids):
            id, entry = data.ids(split)[n], theirs.imgs[number]
            assert id == names.file_names[n] == f"{split}{year}/{entry['file_name']}"
            records = theirs.loadAnns(theirs.getAnnIds([number]))
            classes = [theirs.getCatIds().index(one["category_id"]) for one in records]
            row = data.label_sets(split)[n]
            assert data.backgrounds(split)[n] == (not records)
            assert {*classes} == {*np.flatnonzero(row).tolist()}, "crowds among them"
            counted = [one for one in records if not one["iscrowd"]]
            known = truth[id]
            boxes = [[x, y, x + w, y + h] for x, y, w, h in (one["bbox"] for one in counted)]
            assert known.boxes.tolist() == boxes
            assert known.classes is not None
            assert known.masks is not None
            assert [theirs.getCatIds()[c] for c in known.classes] == [
                one["category_id"] for one in counted
            ]
            assert known.size == SIZE
            assert (known.crowds is not None) == (len(counted) < len(records))
    (note,) = [note for note in data.notes() if "val" in note]
    assert "without an annotation: they show no class, and are learned and scored so" in note
    crowds = [note for note in data.truth_notes() if "crowd" in note]
    assert crowds
    assert not any("data.crowds" in note for note in crowds), "it has no such option"
    capsys.readouterr()


def test_the_index_and_the_labels_are_kept(
    root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coco_labels, "MIN_KEPT_BYTES", 0)
    monkeypatch.setattr(files, "SETTLED_NS", 0)
    first = Coco(str(root))

    def describe(data: Coco) -> list[Any]:
        sets, backgrounds = data.label_sets("all").tolist(), data.backgrounds("all").tolist()
        return [data.fingerprint("all"), sets, backgrounds]

    before = [*describe(first), first.notes()]
    assert len([*cache.glob("coco-*.npz")]) == 2
    with monkeypatch.context() as patched:
        patched.setattr(coco_labels, "iterate_lists", None)
        again = Coco(str(root))
        assert describe(again) == before[:3]
        assert again.notes() == before[3]
        assert again._indexed.searched == 0
        assert again.coco_names("val") == first.coco_names("val")

    def drop(content: dict[str, Any]) -> None:
        content["annotations"] = content["annotations"][1:]

    change(root, drop)
    assert Coco(str(root)).backgrounds("val").sum() == 2, "a changed file is read again"
    next(cache.glob("coco-*.npz")).write_bytes(b"broken")
    assert Coco(str(root)).backgrounds("val").sum() == 2


def test_a_changed_image_is_refused(root: Path) -> None:
    data = Coco(str(root))
    path = data.path("val", 0)
    path.write_bytes(path.read_bytes() + b"more")
    os.utime(path, (1, 1))
    with pytest.raises(UserError, match="changed after its folder was indexed"):
        data.example("val", 0)


# -- files that are missing or wrong


@pytest.mark.parametrize(
    ("gone", "remedy"),
    [(VAL, "unpack annotations_trainval2017.zip there"), ("val2017", "unpack val2017.zip there"),
     ("train2017", "unpack train2017.zip there")],
)  # fmt: skip
def test_missing_parts_are_named(root: Path, gone: str, remedy: str) -> None:
    (root / gone).rename(root / "elsewhere")
    with pytest.raises(UserError) as caught:
        Coco(str(root))
    assert Path(gone).name in str(caught.value)
    assert remedy in str(caught.value)
    assert "expected train2017/*.jpg" in str(caught.value)


def test_a_half_extracted_archive_goes_on_with_what_is_there(root: Path) -> None:
    data = Coco(str(root))
    data.path("val", 1).unlink()
    drawn_sets.paint(root / "val2017/another.jpg", 3)
    data = Coco(str(root))
    assert len(data.ids("val")) == 4
    notes = "\n".join(map(str, data.notes()))
    assert "1 image ('000000001016.jpg') of 5 not in" in notes
    assert "unpack val2017.zip again" in notes
    assert "val2017/: 1 image not in instances_val2017.json: left out" in notes


def test_a_file_that_ends_early_is_refused_with_its_line(root: Path) -> None:
    path = root / VAL
    text = path.read_text().replace('"annotations": [', '"annotations": [\n')
    path.write_text(text[:-400])
    with pytest.raises(UserError, match=r"instances_val2017.json, line 2, column \d+: "):
        Coco(str(root)).ids("val")


def test_odd_records_are_named_and_the_others_go_on(root: Path) -> None:
    def edit(content: dict[str, Any]) -> None:
        records = content["annotations"]
        records[0]["bbox"] = [12, 8, -3, 24]
        records[0]["segmentation"] = []
        records[1]["bbox"] = [40, 30, 60, 40]
        records.append({**records[1], "id": 77, "image_id": 12345})
        records.append({**records[1], "id": 78, "category_id": 5})
        records.append({"id": 79, "image_id": None})
        records.append({**records[1], "id": 80, "image_id": content["images"][3]["id"],
                        "category_id": 5})  # fmt: skip
        content["images"][4]["width"] = 40
        content["images"][4]["height"] = 60
        content["images"].append({"id": 4, "height": 1, "width": 1})

    change(root, edit)
    data = Coco(str(root))
    assert len(data.ids("val")) == 4, "a bad box is a label all the same"
    assert not data.backgrounds("val").any(), "what is of no category may be of any"
    notes = "\n".join(map(str, data.notes()))
    assert "('annotations[8]: image_id 12345, category_id " in notes
    assert "') of an image that is not in the file: left out" in notes
    assert "('annotations[9]: image_id 10" in notes
    assert ", category_id 5') of a category that is not in the file: left out" in notes
    assert "1 image ('000000001030.jpg') of 5 whose annotations cannot be used: neither" in notes
    assert "('annotations[10]') without a number as image_id and category_id" in notes
    assert "('images[5] (id 4)') without a file_name: left out" in notes
    truth = data.truth("val")
    assert [len(known.boxes) for known in truth.values()] == [0, 3, 1], "the last is left out"
    notes = "\n".join(map(str, data.truth_notes()))
    assert "('annotations[0] (id 1000001): image_id 1009, category_id 18')" in notes
    assert "whose bbox has a negative width or height" in notes
    assert "stuck out of its image and was clipped" in notes
    assert "of another size than the file says" in notes


def test_the_year_that_is_there_is_named(root: Path) -> None:
    with pytest.raises(UserError, match=r"2017 is there: data\.year=2017"):
        Coco(str(root), year=2014)


def test_files_of_two_releases_are_refused(root: Path) -> None:
    def edit(content: dict[str, Any]) -> None:
        content["categories"][0]["name"] = "human"

    change(root, edit)
    with pytest.raises(UserError, match="its categories are not those of instances_train2017"):
        Coco(str(root)).ids("val")


def test_truth_of_a_part_says_where_its_records_stand(root: Path) -> None:
    def edit(content: dict[str, Any]) -> None:
        content["annotations"][6]["bbox"] = [1, 1, 0, 5]
        content["annotations"][6]["segmentation"] = []

    change(root, edit, "annotations/instances_train2017.json")
    data = Coco(str(root), held_back=0.5)
    parts = [data.truth(split) for split in ("train", "held_back")]
    assert sorted(map(len, parts)) != [0, 4], "both have images"
    notes = [note for split in ("train", "held_back") for note in data._get_truth(split)[1]]
    assert any("annotations[6] (id 7)" in note for note in notes)


def test_a_root_that_is_a_level_off_is_answered_with_the_right_one(root: Path) -> None:
    for wrong in (root / "train2017", root.parent):
        with pytest.raises(UserError, match=rf"it is in data\.root={root}$"):
            Coco(str(wrong))
    with pytest.raises(UserError, match=r"unpack annotations_trainval2017\.zip there"):
        Coco(str(root / "train2017/gone"))
