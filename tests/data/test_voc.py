"""PASCAL VOC: labels as in the devkit's lists, difficult objects, layouts, files that are wrong."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from torchvision.datasets import VOCDetection

from pipeline.data import published, voc_index
from pipeline.data.voc import CLASSES, Voc
from pipeline.errors import UserError
from pipeline.formats.pascal_voc import read_voc
from pipeline.metric.measurement import merge_masks
from pipeline.stages.evaluate.regions import ignored_regions, own_masks
from pipeline.types import GroundTruth, Note
from tests.data import drawn_sets
from tests.data.drawn_sets import CAT, DOG, HARD_CAT, PERSON, VOC_OBJECTS

YEAR_2007 = "VOCdevkit/VOC2007"


def labels_of(data: Voc, split: Any = "val") -> list[set[str]]:
    return [{CLASSES[n] for n in np.flatnonzero(row)} for row in data.label_sets(split)]


def devkit_label(objects: tuple[drawn_sets.VocBox, ...], name: str) -> int:
    """What ImageSets/Main/<class>_<list>.txt has: 1, 0 (difficult objects alone) or -1."""
    difficult = [is_difficult for each, _, is_difficult in objects if each == name]
    return -1 if not difficult else 0 if all(difficult) else 1


@pytest.fixture
def root(tmp_path: Path) -> Path:
    drawn_sets.voc(tmp_path)
    return tmp_path


def test_lists_labels_and_boxes(root: Path) -> None:
    data = Voc(str(root))
    assert data.is_multi_label
    assert data.classes == CLASSES
    assert list(CLASSES) == sorted(CLASSES)
    assert len(CLASSES) == 20
    trained = {*data.ids("train"), *data.ids("held_back")}
    assert trained == {f"{n:06d}.jpg" for n in (*range(5), *range(100, 105))}, "trainval"
    assert list(data.ids("val")) == [f"{n:06d}.jpg" for n in range(200, 205)], "test"
    for n, objects in enumerate(VOC_OBJECTS):
        expected = {name for name in CLASSES if devkit_label(objects, name) == 1}
        assert labels_of(data)[n] == expected
        known = data.truth("val")[data.ids("val")[n]]
        boxes = [(box[0] - 1, box[1] - 1, box[2], box[3]) for _, box, hard in objects if not hard]
        assert known.boxes.tolist() == [[*box] for box in boxes], "half-open, from 0"
        assert known.classes is not None
        assert [CLASSES[c] for c in known.classes] == [
            name for name, _, is_difficult in objects if not is_difficult
        ]
        regions = [box for _, box, hard in objects if hard]
        assert (known.crowds is not None) == bool(regions)
        if known.crowds is not None:
            assert known.crowds.boxes.tolist() == [[49, 29, 60, 40]]
            assert known.crowds.classes is not None
            assert [CLASSES[c] for c in known.crowds.classes] == ["cat"]
    assert data.notes() == data.truth_notes() == []


def test_objects_are_those_of_torchvision(root: Path) -> None:
    data = Voc(str(root), held_back=0)
    theirs = VOCDetection(root, "2007", "trainval")
    assert [Path(path).name for path in theirs.images] == list(data.ids("train"))
    for n, (_, target) in enumerate(theirs):
        objects = target["annotation"]["object"]
        names = {each["name"] for each in objects if each["difficult"] == "0"}
        assert labels_of(data, "train")[n] == names


def test_years_and_what_is_scored(root: Path) -> None:
    drawn_sets.voc(root, 2012)
    data = Voc(str(root), year=2012)
    assert {*data.ids("train"), *data.ids("held_back")} == {f"2008_{n:06d}.jpg" for n in range(5)}
    assert list(data.ids("val")) == [f"2008_{n:06d}.jpg" for n in range(100, 105)]
    both = Voc(str(root), year="2007+2012")
    assert len(both.ids("train")) + len(both.ids("held_back")) == 20
    assert list(both.ids("val")) == list(Voc(str(root)).ids("val")), "test of 2007"
    assert len(both.truth("train")) == len(both.ids("train"))
    val = Voc(str(root), scored="val")
    assert len(val.ids("train")) + len(val.ids("held_back")) == 5
    assert list(val.ids("val")) == [f"{n:06d}.jpg" for n in range(100, 105)]
    with pytest.raises(UserError, match=r"no test\.txt there.*VOC2007/ or VOC2012/"):
        Voc(str(root), year=2012, scored="test")


@pytest.mark.parametrize("inside", [".", "VOCdevkit", YEAR_2007])
def test_roots(root: Path, inside: str) -> None:
    data = Voc(str(root / inside))
    assert data.fingerprint("val") == Voc(str(root)).fingerprint("val")
    assert len(data.truth("val")) == 5


@pytest.mark.parametrize(
    ("given", "right"),
    [
        ("VOCdevkit/VOC2007/JPEGImages", YEAR_2007),
        ("VOCdevkit/VOC2007/ImageSets/Main", YEAR_2007),
        ("..", "."),
        ("../..", "."),
    ],
)
def test_a_root_that_is_levels_off_is_answered_with_the_right_one(
    tmp_path: Path, given: str, right: str
) -> None:
    root = tmp_path / "a/b"
    drawn_sets.voc(root)
    with pytest.raises(UserError) as caught:
        Voc(str(root / given))
    hint = str(caught.value).rpartition("data.root=")[2]
    assert Path(hint).resolve() == (root / right).resolve()
    assert len(Voc(hint).ids("val")) == 5


def test_the_folder_of_another_year_is_answered_with_that_year(root: Path) -> None:
    drawn_sets.voc(root, 2012)
    folder = root / "VOCdevkit/VOC2012"
    with pytest.raises(UserError, match=r"no trainval\.txt there.*data\.year=2012"):
        Voc(str(folder))
    assert len(Voc(str(folder), year=2012).ids("val")) == 5
    with pytest.raises(UserError) as caught:
        Voc(str(folder), year="2007+2012")
    assert str(caught.value).endswith(f"it is in data.root={root / 'VOCdevkit'}")


# -- masks


@pytest.fixture
def masked(root: Path) -> Path:
    """All scored images but the first have masks."""
    for n, objects in enumerate(VOC_OBJECTS[1:], 201):
        drawn_sets.voc_masks(root / YEAR_2007, f"{n:06d}", objects)
    return root


def decode(rle: Any) -> np.ndarray:
    return np.asarray(coco_mask.decode(rle)) == 1


def test_masks_are_those_of_the_boxes_and_void_counts_neither_way(masked: Path) -> None:
    data, boxes_alone = Voc(str(masked)), Voc(str(masked), masks=False)
    truth, without = data.truth("val"), boxes_alone.truth("val")
    assert truth["000200.jpg"].masks is None
    for n, objects in enumerate(VOC_OBJECTS[1:], 201):
        known = truth[f"{n:06d}.jpg"]
        numbers, kinds = drawn_sets.voc_mask_values(objects)
        counted = [number for number, each in enumerate(objects, 1) if not each[2]]
        assert known.masks is not None
        for mask, number in zip(known.masks, counted, strict=True):
            assert np.array_equal(decode(mask), numbers == number)
        assert np.array_equal(decode(known.void), numbers == 255)
        if known.crowds is not None:
            (hard,) = [number for number, each in enumerate(objects, 1) if each[2]]
            assert np.array_equal(decode(known.crowds.masks[0]), numbers == hard)
        assert known.boxes.tolist() == without[known.id].boxes.tolist(), "those of the XML files"
        assert without[known.id].masks is None
        _check_pixels(known, numbers, kinds, objects)
    (note,) = data.truth_notes()
    assert isinstance(note, Note)
    assert (note.total, note.names) == (1, ("000200.jpg",))
    assert note.startswith("val: 1 image ('000200.jpg') of 5 without masks: no part of the numbers")
    assert boxes_alone.truth_notes() == []
    assert data.truth_fingerprint("val") != boxes_alone.truth_fingerprint("val")


def _check_pixels(known: GroundTruth, numbers: np.ndarray, kinds: np.ndarray, objects: Any) -> None:
    """Compare what PxAP counts of each class with the devkit's rule: 255 is left out."""
    for name in {each[0] for each in objects if not each[2]}:
        label = CLASSES.index(name)
        of_class = GroundTruth(**{**vars(known), "label": label})
        merged = merge_masks(own_masks(of_class), ignored_regions(of_class), drawn_sets.SIZE)
        expected = (kinds == label + 1).astype(np.uint8)
        expected[kinds == 255] = 255
        for number, each in enumerate(objects, 1):
            if each[2] and each[0] == name:
                expected[numbers == number] = 255
        assert np.array_equal(merged, expected)


def test_masks_that_do_not_fit_leave_the_boxes(masked: Path) -> None:
    folder = masked / YEAR_2007
    Image.new("L", (9, 9)).save(folder / "SegmentationObject/000201.png")
    (folder / "SegmentationClass/000202.png").unlink()
    drawn_sets.voc_masks(folder, "000203", VOC_OBJECTS[3][:2])
    (folder / "SegmentationObject/000204.png").write_bytes(b"no image")
    data = Voc(str(masked))
    assert [known.masks for known in data.truth("val").values()] == [None] * 5
    notes = "\n".join(data.truth_notes())
    assert "('000201.jpg') with masks of another size than the image: boxes are used" in notes
    assert "('000202.jpg') with a mask in one of SegmentationObject/ and" in notes
    assert "('000203.jpg') with an object without a mask: boxes are used" in notes
    assert "('000204.jpg') with a mask that cannot be read: boxes are used" in notes
    assert "5 images ('000200.jpg', '000201.jpg', '000202.jpg', ...) of 5 without masks" in notes


# -- what is kept


def test_annotations_are_parsed_once_and_again_where_they_changed(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(root / "cache"))
    monkeypatch.setattr(voc_index, "MIN_KEPT", 1)
    parsed = list[str]()

    def note(path: Path) -> Any:
        parsed.append(path.stem)
        return read_voc(path)

    def read_all() -> tuple[Any, ...]:
        parsed.clear()
        data = Voc(str(root))
        read = [data.fingerprint("all"), data.truth_fingerprint("val"), data.notes()]
        return (*read, {id: known.boxes.tolist() for id, known in data.truth("all").items()})

    monkeypatch.setattr(voc_index, "read_voc", note)
    folder = root / YEAR_2007 / "Annotations"
    first = read_all()
    assert len(parsed) == 15
    assert not (root / "cache").exists(), "files that changed just now may change again"
    (folder / "000201.xml").write_text("<annotation><object>")
    drawn_sets.write_voc_objects(folder / "000203.xml", (CAT,))
    text = (folder / "000203.xml").read_text()
    (folder / "000203.xml").write_text(re.sub(r"<xmin>\d+", "<xmin>abc", text))
    for path in folder.iterdir():
        os.utime(path, ns=(10**18, 10**18))
    first = read_all()
    assert len(parsed) == 15
    assert read_all() == first
    assert parsed == [], "nothing is parsed, nor is the file that cannot be used"
    assert "000201.xml') not XML" in first[2][0]
    assert "000203.xml: cat abc, " in first[2][1], "what is wrong is kept as it is written"
    drawn_sets.write_voc_objects(folder / "000200.xml", (CAT,))
    os.utime(folder / "000200.xml", ns=(10**18, 10**18))  # the size alone is another one
    second = read_all()
    assert parsed == ["000200"]
    assert second[0] != first[0]
    drawn_sets.write_voc_objects(folder / "000201.xml", (CAT,))
    read_all()
    assert parsed == ["000201"]
    (kept,) = (root / "cache/label2box").glob("voc-*.json")
    kept.write_text('{"version": 2, "rows": [')
    read_all()
    assert len(parsed) == 15


# -- files that are missing or wrong


def test_a_missing_test_archive_is_named_with_what_else_can_be_done(root: Path) -> None:
    (root / YEAR_2007 / "ImageSets/Main/test.txt").unlink()
    with pytest.raises(UserError) as caught:
        Voc(str(root))
    message = str(caught.value)
    assert "data=voc data.year=2007" in message
    assert "no test.txt there" in message
    assert "unpack VOCtest_06-Nov-2007.tar there" in message
    assert "data.scored=val" in message
    assert len(Voc(str(root), scored="val").ids("val")) == 5


def test_images_and_annotations_that_are_missing_are_counted(root: Path) -> None:
    folder = root / YEAR_2007
    (folder / "JPEGImages/000200.jpg").unlink()
    (folder / "Annotations/000201.xml").unlink()
    (folder / "Annotations/000202.xml").write_text("<annotation><object>")
    data = Voc(str(root))
    assert list(data.ids("val")) == ["000203.jpg", "000204.jpg"]
    notes = "\n".join(data.notes())
    assert "'000201') of 5 without a file in Annotations, so of no class: left out" in notes
    assert "'VOC2007/Annotations/000202.xml') not XML from line 1" in notes
    assert f"'{YEAR_2007}/JPEGImages/000200.jpg') of 3 not in" in notes
    for path in (folder / "Annotations").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="none of its 10 images can be used"):
        Voc(str(root)).ids("val")


def test_odd_objects_are_named_and_the_others_go_on(root: Path) -> None:
    folder = root / YEAR_2007 / "Annotations"
    unicorn = ("unicorn", (1, 1, 9, 9), False)
    reversed_box = ("dog", (44, 9, 13, 32), False)
    outside = ("dog", (900, 9, 913, 32), False)
    sticks_out = ("dog", (40, 20, 75, 39), False)
    drawn_sets.write_voc_objects(folder / "000200.xml", (unicorn, CAT))
    drawn_sets.write_voc_objects(folder / "000201.xml", (reversed_box, CAT))
    drawn_sets.write_voc_objects(folder / "000202.xml", (outside, CAT))
    drawn_sets.write_voc_objects(folder / "000203.xml", (sticks_out, CAT))
    drawn_sets.write_voc_objects(folder / "000204.xml", (DOG, CAT), size=(60, 40))
    data = Voc(str(root))
    labels = labels_of(data)
    assert labels == [{"cat"}, {"cat"}, {"cat", "dog"}, {"cat", "dog"}, {"cat", "dog"}]
    (note,) = data.notes()
    assert "'000200.xml: unicorn') of a class that is none of the twenty: left out" in note
    truth = data.truth("val")
    assert {*truth} == {f"{n:06d}.jpg" for n in range(200, 204)}, "the size of the last differs"
    assert [len(known.boxes) for known in truth.values()] == [1, 1, 1, 2]
    notes = "\n".join(map(str, data.truth_notes()))
    assert "000201.xml') whose bndbox is reversed: left out" in notes
    assert "000202.xml, box 1') whose box lies outside its image: left out" in notes
    assert "000203.xml') of 5 stuck out of its image and was clipped" in notes
    assert "000204.jpg: 40 x 60 in" in notes


def test_an_image_without_a_usable_object_is_left_out_for_what_is_wrong_with_it(root: Path) -> None:
    folder = root / YEAR_2007 / "Annotations"
    drawn_sets.write_voc_objects(folder / "000200.xml", (CAT,))
    text = (folder / "000200.xml").read_text()
    (folder / "000200.xml").write_text(re.sub(r"<xmin>\d+", "<xmin>abc", text))
    drawn_sets.write_voc_objects(folder / "000201.xml", (("unicorn", (1, 1, 9, 9), False),))
    notes = "\n".join(map(str, Voc(str(root)).notes()))
    assert "'VOC2007/Annotations/000200.xml: cat abc, " in notes
    assert "with an object whose bndbox is not four numbers" in notes
    assert "'VOC2007/Annotations/000201.xml: unicorn') whose objects are of classes that" in notes
    assert "that is not difficult" not in notes


def test_the_root_may_be_relative(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root.parent)
    data = Voc(root.name)
    assert list(data.ids("val")) == list(Voc(str(root)).ids("val"))
    assert len(data.truth("val")) == 5


def test_the_year_that_is_there_is_named(root: Path) -> None:
    for year in (2012, "2007+2012"):
        with pytest.raises(UserError, match=r"VOC2007 is there: data\.year=2007"):
            Voc(str(root), year=year)


def test_images_with_difficult_objects_alone_have_no_label(root: Path) -> None:
    drawn_sets.write_voc_objects(root / YEAR_2007 / "Annotations/000200.xml", (HARD_CAT,))
    data = Voc(str(root))
    assert "000200.jpg" not in data.ids("val")
    (note,) = data.notes()
    assert "('000200') of 5 has no object that is not difficult" in note


def test_images_without_an_object_show_no_class(root: Path) -> None:
    drawn_sets.write_voc_objects(root / YEAR_2007 / "Annotations/000200.xml", ())
    data = Voc(str(root), held_back=0)
    assert data.ids("val")[int(data.backgrounds("val").argmax())] == "000200.jpg"
    assert not data.label_sets("val")[data.backgrounds("val")].any()
    assert data.backgrounds("val").sum() == 1
    assert not data.backgrounds("train").any()
    assert "000200.jpg" not in data.truth("val")
    (note,) = data.notes()
    assert "1 image ('000200') of 5 without an object: they show no class" in note


def test_wrong_options_are_refused(root: Path) -> None:
    with pytest.raises(UserError, match="held_back"):
        Voc(str(root), held_back=1.5)
    with pytest.raises(UserError, match=r"no trainval\.txt there"):
        Voc(str(root / "nowhere"))


def test_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each archive is fetched, then torchvision's own code unpacks it; failure names the layout."""
    calls, fetched = [], []

    def refuse(url: str, target: Path, md5: str | None) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setattr(published, "fetch", refuse)
    with pytest.raises(UserError, match=r"Network is unreachable.*put the unpacked files there"):
        Voc(str(tmp_path / "set"), download=True)

    def unpack(self: Any, root: str, year: str, image_set: str, download: bool) -> None:
        calls.append((year, image_set, download))
        drawn_sets.voc(Path(root))
        for name in {"test", "trainval"} - {image_set} if len(calls) == 1 else ():
            (Path(root) / YEAR_2007 / f"ImageSets/Main/{name}.txt").unlink()

    monkeypatch.setattr(published, "fetch", lambda url, target, md5: fetched.append(target.name))
    monkeypatch.setattr(VOCDetection, "__init__", unpack)
    for _ in range(2):
        assert len(Voc(str(tmp_path / "set"), download=True).ids("all")) == 15
    assert calls == [("2007", "trainval", True), ("2007", "test", True)]
    assert fetched == ["VOCtrainval_06-Nov-2007.tar", "VOCtest_06-Nov-2007.tar"]
    assert PERSON[0] in CLASSES
