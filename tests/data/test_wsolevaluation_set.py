"""wsolevaluation: splits, boxes and masks as the published files have them; odd lines are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from pipeline.data.wsolevaluation import WsolEvaluation
from pipeline.engine.choices import instantiate, read_choice
from pipeline.errors import UserError
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
    assert "left out; unpack or download the images again" in note
    notes = "\n".join(data.truth_notes())
    assert "class_labels.txt: 1 line ('line 7')" in notes
    assert "localization.txt: 1 line ('line 7') of another form" in notes
    assert "whose box is reversed" in notes
    assert "99 x 98 in test/localization.txt" in notes
    assert f"{SIZE[1]} x {SIZE[0]} on disk" in notes
    assert sorted(data.truth("val")) == [
        "001.Crested_Auklet/test_1.jpg", "001.Crested_Auklet/test_2.jpg",
        "002.Least_Auklet/test_0.jpg", "002.Least_Auklet/test_2.jpg",
    ]  # fmt: skip


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
