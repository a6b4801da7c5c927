"""wsolevaluation: splits, boxes and masks as the published files have them; odd lines are named."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from pipeline.data import kept_splits
from pipeline.data.wsolevaluation import WsolEvaluation
from pipeline.engine.choices import instantiate, read_choice
from pipeline.errors import UserError
from pipeline.formats import wsolevaluation
from pipeline.protocols import AnnotatedDataSet
from pipeline.types import Split
from tests.data import drawn_sets
from tests.data.drawn_sets import BOX, SIZE

HALF_OPEN = [BOX[0], BOX[1], BOX[2] + 1, BOX[3] + 1]


def open_set(root: Path, **options) -> WsolEvaluation:
    options = {"images": str(root / "dataset"), **options}
    return WsolEvaluation(str(root / "metadata"), **options)


@pytest.mark.parametrize("names", [(), ("train-weaksup", "train-fullsup", "test")])
def test_splits_and_boxes(tmp_path, names):
    drawn_sets.wsolevaluation(tmp_path, names=names)
    data = open_set(tmp_path)
    assert data.classes == ("Crested Auklet", "Least Auklet")
    assert len(data.ids("train")) + len(data.ids("held_back")) == 12
    assert len(data.ids("held_back")) > 0
    assert [len(data.ids(split)) for split in ("calibration", "val")] == [4, 6]
    assert data.labels("val").tolist() == [0, 0, 0, 1, 1, 1]
    for split in ("calibration", "val"):
        truth = data.truth(split)
        assert list(truth) == list(data.ids(split))
        assert all(known.boxes.tolist() == [HALF_OPEN] for known in truth.values())
    assert data.truth("train") == {}, "train-weaksup has no boxes"
    assert data.notes() == data.truth_notes() == []


def test_the_threshold_is_chosen_on_train_fullsup(tmp_path):
    from pipeline.stages.calibrate.calibration import find_boxed_images

    drawn_sets.wsolevaluation(tmp_path)
    few = find_boxed_images(cast(AnnotatedDataSet, open_set(tmp_path)))
    assert few.source == "two_fold"
    assert "has 4 of the 10 images with boxes that this takes: not used" in few.notes[0]
    ids = tmp_path / "metadata/val"
    for name, value in (("image_ids", ""), ("class_labels", ",0"),
                        ("image_sizes", f",{SIZE[1]},{SIZE[0]}"),
                        ("localization", f",{','.join(map(str, BOX))}")):  # fmt: skip
        more = [f"001.Crested_Auklet/more_{n}.jpg" for n in range(10)]
        with open(ids / f"{name}.txt", "a") as file:
            file.writelines(f"{id}{value}\n" for id in more)
        for n, id in enumerate(more):
            drawn_sets.paint(tmp_path / "dataset" / id, 100 + n)
    boxed = find_boxed_images(cast(AnnotatedDataSet, open_set(tmp_path)))
    assert (boxed.split, boxed.source, len(boxed.truth)) == ("calibration", "split", 14)


def test_masks_and_what_they_ignore(tmp_path):
    drawn_sets.openimages(tmp_path)
    data = open_set(tmp_path, masks=str(tmp_path / "masks"))
    known = data.truth("val")[data.ids("val")[0]]
    assert known.boxes.tolist() == [HALF_OPEN]
    np.testing.assert_array_equal(coco_mask.decode(known.masks[0]), drawn_sets.object_mask())
    assert known.crowds.boxes.tolist() == [[0, 0, SIZE[1], 3]]
    assert coco_mask.decode(known.crowds.masks[0]).sum() == 3 * SIZE[1]
    before = data.truth_fingerprint("val")
    drawn_sets.write_mask(tmp_path / "masks/001.Crested_Auklet/test_0_a.png", np.ones(SIZE, bool))
    assert open_set(tmp_path, masks=str(tmp_path / "masks")).truth_fingerprint("val") != before


def test_masks_are_measured_as_pixels(tmp_path):
    """PxAP of a perfect map is 1, and ignored pixels do not count: as that evaluator has it."""
    from pipeline.metric.measurement import merge_masks
    from pipeline.metric.pxap import histograms
    from pipeline.stages.evaluate.regions import ignored_regions, own_masks

    drawn_sets.openimages(tmp_path)
    data = open_set(tmp_path, masks=str(tmp_path / "masks"))
    known = data.truth("val")[data.ids("val")[0]]
    mask = merge_masks(own_masks(known), ignored_regions(known), SIZE)
    expected = drawn_sets.object_mask().astype(np.uint8)
    expected[:3] = 255
    np.testing.assert_array_equal(mask, expected)
    counted = histograms(drawn_sets.object_mask().astype(np.float64), mask)
    assert np.asarray(counted).sum() == (expected != 255).sum()


def test_masks_of_another_size_are_scaled_to_their_image(tmp_path):
    drawn_sets.openimages(tmp_path)
    half = drawn_sets.object_mask()[::2, ::2]
    path = tmp_path / "masks/001.Crested_Auklet/test_0_a.png"
    drawn_sets.write_mask(path, half)
    known = open_set(tmp_path, masks=str(tmp_path / "masks")).truth("val")
    first = known["001.Crested_Auklet/test_0.jpg"]
    expected = half.repeat(2, 0).repeat(2, 1)
    np.testing.assert_array_equal(coco_mask.decode(first.masks[0]), expected)


def test_without_test_val_is_scored(tmp_path):
    import shutil

    drawn_sets.wsolevaluation(tmp_path)
    shutil.rmtree(tmp_path / "metadata/test")
    data = open_set(tmp_path)
    assert len(data.ids("val")) == 4
    assert len(data.ids("calibration")) == 0


def test_images_in_several_folders(tmp_path):
    drawn_sets.wsolevaluation(tmp_path)
    apart = tmp_path / "cubv2/001.Crested_Auklet"
    apart.mkdir(parents=True)
    moved = tmp_path / "dataset/001.Crested_Auklet/val_0.jpg"
    moved.rename(apart / moved.name)
    data = open_set(tmp_path, images=[str(tmp_path / "dataset"), str(tmp_path / "cubv2")])
    assert len(data.ids("calibration")) == 4
    assert data.notes() == []


def test_missing_images_and_odd_lines_are_named_and_the_others_go_on(tmp_path):
    drawn_sets.wsolevaluation(tmp_path)
    (tmp_path / "dataset/001.Crested_Auklet/test_0.jpg").unlink()
    folder = tmp_path / "metadata/test"
    for name, line in (("class_labels", "no number,x"), ("localization", "a.jpg,1,2,3"),
                       ("localization", "002.Least_Auklet/test_0.jpg,50,20,10,30")):  # fmt: skip
        with open(folder / f"{name}.txt", "a") as file:
            file.write(f"{line}\n")
    sizes = (folder / "image_sizes.txt").read_text().replace(
        f"002.Least_Auklet/test_1.jpg,{SIZE[1]},{SIZE[0]}", "002.Least_Auklet/test_1.jpg,99,98"
    )  # fmt: skip
    (folder / "image_sizes.txt").write_text(sizes)
    data = open_set(tmp_path)
    (note,) = data.notes()
    assert note.startswith("test/image_ids.txt: 1 image ('001.Crested_Auklet/test_0.jpg')")
    assert "left out; data.images=FOLDER names" in note
    assert "else unpack or download the images again" in note
    notes = "\n".join(data.truth_notes())
    assert "test/image_ids.txt: 4 of its 6 images are measured" in notes
    assert "class_labels.txt: 1 line ('line 7')" in notes
    assert "localization.txt: 1 line ('line 7') of another form" in notes
    assert "whose box is reversed" in notes
    assert "99 x 98 in test/localization.txt" in notes
    assert f"{SIZE[1]} x {SIZE[0]} on disk" in notes
    assert sorted(data.truth("val")) == [
        "001.Crested_Auklet/test_1.jpg", "001.Crested_Auklet/test_2.jpg",
        "002.Least_Auklet/test_0.jpg", "002.Least_Auklet/test_2.jpg",
    ]  # fmt: skip


def test_each_fault_is_said_once_with_its_remedy(tmp_path):
    """A box that sticks out, and an image without a class."""
    drawn_sets.wsolevaluation(tmp_path)
    folder = tmp_path / "metadata/test"
    id = "002.Least_Auklet/test_1.jpg"
    for name, line in (("class_labels", None), ("localization", f"{id},5,5,900,20")):
        path = folder / f"{name}.txt"
        lines = [each for each in path.read_text().splitlines() if not each.startswith(id)]
        path.write_text("\n".join([*lines, line] if line else lines) + "\n")
    (labels, measured) = open_set(tmp_path).truth_notes()
    assert "class_labels.txt: 1 image ('002.Least_Auklet/test_1.jpg') has no class; give" in labels
    assert "test/image_ids.txt: 5 of its 6 images are measured" in measured
    with open(folder / "class_labels.txt", "a") as file:
        file.write(f"{id},1\n")
    (clipped,) = open_set(tmp_path).truth_notes()
    assert "1 box ('test/localization.txt, 002.Least_Auklet/test_1.jpg') of" in clipped
    assert "stuck out of its image and was clipped" in clipped


def test_an_image_of_two_splits_is_not_trained_on(tmp_path):
    drawn_sets.wsolevaluation(tmp_path)
    shared = "001.Crested_Auklet/test_0.jpg"
    for name, line in (("image_ids", shared), ("class_labels", f"{shared},0")):
        with open(tmp_path / f"metadata/train/{name}.txt", "a") as file:
            file.write(f"{line}\n")
    data = open_set(tmp_path)
    assert shared not in {*data.ids("train"), *data.ids("held_back")}
    assert "in the list of another split, too: not trained on" in data.notes()[0]


def test_names_of_classes(tmp_path):
    drawn_sets.wsolevaluation(tmp_path)
    names = tmp_path / "names.txt"
    names.write_text("auk\nlittle auk\n")
    assert open_set(tmp_path, names=str(names)).classes == ("auk", "little auk")
    names.write_text("auk\n")
    with pytest.raises(UserError, match=r"1 names, and class_labels\.txt has 2 classes"):
        open_set(tmp_path, names=str(names)).ids("val")


@pytest.mark.parametrize("name", ["cubv2", "ilsvrc", "openimages30k"])
def test_presets_compare_with_the_published_counts(tmp_path, name):
    drawn_sets.wsolevaluation(tmp_path, has_masks=name == "openimages30k")
    options: dict[str, Any] = {
        "root": str(tmp_path / "metadata"), "images": str(tmp_path / "dataset")
    }  # fmt: skip
    data = instantiate("data", {**read_choice("data", name), **options})
    published = read_choice("data", name)["published"]
    notes = "\n".join(data.notes())
    for count, what in ((2, "classes"), (12, "images in train/"), (4, "images in val/"),
                        (6, "images in test/")):  # fmt: skip
        assert f"{count} {what}, the published set has" in notes
    assert set(published) == {"classes", "train", "calibration", "val"}
    assert not WsolEvaluation(**options, published={"classes": 2, "train": 12}).notes()


@pytest.mark.parametrize(
    ("break_it", "words"),
    [("metadata/test", r"no metadata to score.*train-fullsup/ \(or val/\)"),
     ("dataset", r"data\.images=.*no such folder")],
)  # fmt: skip
def test_wrong_folders(tmp_path, break_it, words):
    import shutil

    drawn_sets.wsolevaluation(tmp_path)
    shutil.rmtree(tmp_path / break_it)
    shutil.rmtree(tmp_path / "metadata/val")
    with pytest.raises(UserError, match=words):
        open_set(tmp_path)


def test_cub_of_the_shared_folder_in_this_form_is_the_same_set(shared, tmp_path):
    """The 30 classes written as wsolevaluation's metadata give the boxes that data=cub gives."""
    from pipeline.data.cub import Cub

    cub = Cub(str(shared / "data/cub30"))
    parts: tuple[tuple[Split, str], ...] = (("train", "train"), ("val", "test"))
    for split, name in parts:
        ids = [*cub.ids(split)][:150]
        truth, folder = cub.truth(split), tmp_path / "metadata" / name
        labels = dict(zip(cub.ids(split), cub.labels(split).tolist(), strict=True))
        drawn_sets.write_lines(folder / "image_ids.txt", ids)
        drawn_sets.write_lines(folder / "class_labels.txt", [f"{id},{labels[id]}" for id in ids])
        if name == "test":
            sizes = [f"{id},{truth[id].size[1]},{truth[id].size[0]}" for id in ids]
            drawn_sets.write_lines(folder / "image_sizes.txt", sizes)
            boxes = [truth[id].boxes[0] - (0, 0, 1, 1) for id in ids]
            lines = [f"{id},{','.join(map(str, box))}" for id, box in zip(ids, boxes, strict=True)]
            drawn_sets.write_lines(folder / "localization.txt", lines)
    data = open_set(tmp_path, images=str(cub.folder / "images"))
    assert data.notes() == [] or all("class" in note for note in data.notes())
    for id, known in data.truth("val").items():
        np.testing.assert_allclose(known.boxes, cub.truth("val")[id].boxes, atol=1e-3)
    assert len(data.truth("val")) == 150


# -- the kept lists


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A set that counts as large; two images of a listed folder are not there."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(kept_splits, "MIN_KEPT", 1)
    monkeypatch.setattr("pipeline.data.file_table.pack.__defaults__", (1,))
    drawn_sets.wsolevaluation(tmp_path)
    for name, text in (("image_ids", ""), ("class_labels", ",1")):
        with open(tmp_path / "metadata/train" / f"{name}.txt", "a") as file:
            file.writelines(f"003.Later/{n}.jpg{text}\n" for n in range(2))
    settle(tmp_path)
    return tmp_path


def settle(root: Path) -> None:
    """Let folders and lists look as if they changed long ago."""
    before = time.time_ns() - 10_000_000_000
    places = (root, root / "dataset", root / "metadata")
    for place in (*places, *(root / "dataset").iterdir(), *(root / "metadata").rglob("*")):
        os.utime(place, ns=(before, before))


def describe(data: WsolEvaluation) -> list[Any]:
    parts: tuple[Split, ...] = ("train", "held_back", "calibration", "val", "test", "all")
    of_parts = [(p, [*data.ids(p)], data.labels(p).tolist(), data.fingerprint(p)) for p in parts]
    stamps = [data.stamp("all", n) for n in range(len(data.ids("all")))]
    return [of_parts, [str(note) for note in data.notes()], stamps, data.classes,
            data.path("val", 1), data.common_folder("all"), sorted(data.truth("val"))]  # fmt: skip


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders whose lists of training images were read."""
    real, seen = wsolevaluation.read_labels, list[str]()

    def note(folder: Path) -> Any:
        seen.append(folder.name)
        return real(folder)

    monkeypatch.setattr(wsolevaluation, "read_labels", note)
    return seen


def test_the_lists_are_kept_and_are_the_same(kept, reads, monkeypatch):
    first = describe(open_set(kept))
    assert describe(open_set(kept)) == first
    assert reads == ["train"]
    assert any("2 images" in note and "left out" in note for note in first[1])
    data = open_set(kept)
    monkeypatch.setattr(kept_splits._KeptArrays, "columns", property(lambda _: 1 / 0))
    monkeypatch.setattr(kept_splits._KeptArrays, "labels", property(lambda _: 1 / 0))
    parts: tuple[Split, ...] = ("train", "val", "all")
    assert [data.fingerprint(part) for part in parts] == [
        fingerprint for part, _, _, fingerprint in first[0] if part in parts
    ], "without the names of the files"
    assert (len(data.ids("val")), data.common_folder("all")) == (6, first[5])
    assert data.truth_fingerprint("val") == open_set(kept).truth_fingerprint("val")


@pytest.mark.parametrize("change", ["list", "image", "options", "late folder"])
def test_lists_are_read_again_where_something_changed(kept, reads, change):
    before = describe(open_set(kept))
    options = {}
    if change == "list":
        path = kept / "metadata/train/image_ids.txt"
        path.write_text("\n".join(path.read_text().split("\n")[1:]))
    elif change == "image":
        next((kept / "dataset/001.Crested_Auklet").glob("train_*")).unlink()
    elif change == "options":
        options = {"held_back": 0.5}
    else:
        drawn_sets.paint(kept / "dataset/003.Later/0.jpg", 7)
    after = describe(open_set(kept, **options))
    assert after != before
    assert len(reads) == 2
    settle(kept)
    for _ in range(2):
        assert describe(open_set(kept, **options))[0][0][1] == after[0][0][1]


def test_an_image_that_changed_in_place_is_found_when_it_is_read(kept):
    describe(open_set(kept))
    data = open_set(kept)
    drawn_sets.paint(data.path("val", 2), 99)
    with pytest.raises(UserError, match="the file was changed after its folder was indexed"):
        data.example("val", 2)
    assert data.example("val", 1).size == SIZE
    assert open_set(kept).example("val", 2).size == SIZE


def test_classes_in_another_order_than_the_images(tmp_path):
    drawn_sets.wsolevaluation(tmp_path)
    expected = describe(open_set(tmp_path))
    path = tmp_path / "metadata/train/class_labels.txt"
    lines = path.read_text().strip().split("\n")
    path.write_text("\n".join([*lines[3:], *lines[:3], lines[0], "nowhere/1.jpg,1"]) + "\n")
    assert describe(open_set(tmp_path))[:1] == expected[:1]
    path.write_text("\n".join([*lines[1:], lines[1][:-1] + "1"]) + "\n")
    notes = open_set(tmp_path).notes()
    assert any("contradict an earlier line" in note for note in notes)
    assert any("has no class: left out" in note for note in notes)
