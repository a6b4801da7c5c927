"""Pets, dogs, cars, aircraft, Caltech 101, Tiny ImageNet: boxes, masks, torchvision, bad files."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from torchvision.datasets import Caltech101 as TorchCaltech101
from torchvision.datasets import FGVCAircraft, OxfordIIITPet, StanfordCars

from pipeline.data import published
from pipeline.data.aircraft import Aircraft
from pipeline.data.caltech101 import Caltech101
from pipeline.data.cars import Cars
from pipeline.data.pets import Pets
from pipeline.data.published import Published
from pipeline.data.stanford_dogs import StanfordDogs
from pipeline.data.tiny_imagenet import TinyImageNet
from pipeline.errors import UserError
from tests.data import drawn_sets
from tests.data.drawn_sets import BOX

HALF_OPEN = [BOX[0], BOX[1], BOX[2] + 1, BOX[3] + 1]
Draw = Callable[[Path], None]

# What draws a set, its class, how many images are trained on and scored, its classes.
SETS: dict[str, tuple[Draw, Callable[..., Published], int, int, tuple[str, ...]]] = {
    "pets": (drawn_sets.pets, Pets, 10, 6, ("Abyssinian", "american bulldog")),
    "dogs": (drawn_sets.stanford_dogs, StanfordDogs, 10, 6, ("Chihuahua", "Japanese spaniel")),
    "cars": (drawn_sets.cars, Cars, 10, 6, ("AM General Hummer SUV 2000", "Acura RL Sedan 2012")),
    "aircraft": (drawn_sets.aircraft, Aircraft, 10, 6, ("707-320", "A300B4")),
    "tiny_imagenet": (
        drawn_sets.tiny_imagenet, TinyImageNet, 15, 6, ("tench", "English springer", "chain saw"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SETS)
def test_splits_classes_and_boxes(tmp_path, name):
    draw, data_set, trained, scored, classes = SETS[name]
    draw(tmp_path)
    data = data_set(str(tmp_path))
    assert data.classes == classes
    assert len(data.ids("train")) + len(data.ids("held_back")) == trained
    assert len(data.ids("val")) == scored
    truth = data.truth("val")
    assert list(truth) == list(data.ids("val"))
    assert all(known.boxes.tolist() == [HALF_OPEN] for known in truth.values())
    assert data.notes() == data.truth_notes() == []
    inside = [path for path in tmp_path.iterdir() if path.is_dir()]
    if len(inside) == 1:  # the folder that torchvision makes, and what is in it
        assert data_set(str(inside[0])).fingerprint("val") == data.fingerprint("val")


def test_caltech101_is_split_by_hash_without_backgrounds(tmp_path):
    drawn_sets.caltech101(tmp_path)
    data = Caltech101(str(tmp_path), val=0.5)
    assert data.classes == ("Faces", "accordion")
    assert 0 < len(data.ids("val")) < 16
    assert len(data.ids("all")) == 16
    assert all(known.boxes.tolist() == [HALF_OPEN] for known in data.truth("val").values())
    assert len(data.truth("all")) == 16, "Faces are annotated in the folder Faces_2"


def torch_labels(name: str, root: Path, is_train: bool) -> dict[str, int]:
    """File names and classes as torchvision reads them."""
    split = {"pets": ("trainval", "test"), "cars": ("train", "test"),
             "aircraft": ("trainval", "test")}[name][not is_train]  # fmt: skip
    if name == "pets":
        pets = OxfordIIITPet(root, split)
        return {path.name: label for path, label in zip(pets._images, pets._labels, strict=True)}
    if name == "cars":
        return {Path(path).name: label for path, label in StanfordCars(root, split)._samples}
    planes = FGVCAircraft(root, split)
    return {Path(p).name: n for p, n in zip(planes._image_files, planes._labels, strict=True)}


@pytest.mark.parametrize("name", ["pets", "cars", "aircraft"])
def test_labels_are_those_of_torchvision(tmp_path, name):
    draw, data_set, *_ = SETS[name]
    draw(tmp_path)
    data = data_set(str(tmp_path), held_back=0)
    for split in ("train", "val"):
        ours = zip(data.ids(split), data.labels(split).tolist(), strict=True)
        named = {Path(id).name: label for id, label in ours}
        assert named == torch_labels(name, tmp_path, split == "train")


def test_caltech101_has_the_classes_of_torchvision(tmp_path):
    drawn_sets.caltech101(tmp_path)
    theirs = TorchCaltech101(tmp_path)
    data = Caltech101(str(tmp_path))
    assert list(data.classes) == theirs.categories
    assert len(data.ids("all")) == len(theirs)


@pytest.mark.parametrize("level", ["family", "manufacturer"])
def test_aircraft_of_other_levels(tmp_path, level):
    drawn_sets.aircraft(tmp_path)
    data = Aircraft(str(tmp_path), level=level)
    expected = {"family": ("Boeing 707", "A300"), "manufacturer": ("Boeing", "Airbus")}
    assert data.classes == expected[level]


# -- masks


def test_trimaps_are_masks_whose_outline_is_ignored(tmp_path):
    drawn_sets.pets(tmp_path)
    known = Pets(str(tmp_path)).truth("val")["Abyssinian_100.jpg"]
    np.testing.assert_array_equal(coco_mask.decode(known.masks[0]), drawn_sets.object_mask())
    trimap = np.asarray(
        Image.open(tmp_path / "oxford-iiit-pet/annotations/trimaps/Abyssinian_100.png")
    )
    np.testing.assert_array_equal(coco_mask.decode(known.crowds.masks[0]) == 1, trimap == 3)


@pytest.mark.parametrize(
    ("values", "reason"),
    [(np.full(drawn_sets.SIZE, 2, np.uint8), "whose mask is empty"),
     (np.full((9, 9), 1, np.uint8), "whose trimap is of another size than the image"),
     (np.full(drawn_sets.SIZE, 7, np.uint8), "with other values than 1, 2 and 3"),
     (None, "with a trimap or image not read")],
)  # fmt: skip
def test_bad_trimaps_are_named_and_the_others_go_on(tmp_path, values, reason):
    drawn_sets.pets(tmp_path)
    path = tmp_path / "oxford-iiit-pet/annotations/trimaps/Abyssinian_100.png"
    path.write_bytes(b"") if values is None else Image.fromarray(values).save(path)
    data = Pets(str(tmp_path))
    assert len(data.truth("val")) == 5
    (note,) = data.truth_notes()
    assert reason in note
    assert "trimaps/Abyssinian_100.png" in note


# -- files that are missing or wrong

NEEDED = [
    ("pets", "oxford-iiit-pet/annotations/test.txt", "data.download=true"),
    ("dogs", "test_list.mat", "unpack images.tar, annotation.tar and lists.tar"),
    ("cars", "stanford_cars/cars_test_annos_withlabels.mat", "server does not answer"),
    ("aircraft", "fgvc-aircraft-2013b/data/images_variant_test.txt", "data.download=true"),
    ("tiny_imagenet", "tiny-imagenet-200/val/val_annotations.txt", "unpack tiny-imagenet-200.zip"),
]


@pytest.mark.parametrize(("name", "file", "remedy"), NEEDED)
def test_a_missing_list_is_refused_with_the_layout(tmp_path, name, file, remedy):
    draw, data_set, *_ = SETS[name]
    draw(tmp_path)
    (tmp_path / file).unlink()
    with pytest.raises(UserError) as caught:
        data_set(str(tmp_path))
    assert Path(file).name in str(caught.value)
    assert "expected " in str(caught.value)
    assert remedy in str(caught.value)


@pytest.mark.parametrize("name", SETS)
def test_missing_images_are_counted_and_the_others_go_on(tmp_path, name):
    draw, data_set, *_ = SETS[name]
    draw(tmp_path)
    gone = data_set(str(tmp_path)).path("val", 0)
    gone.unlink()
    data = data_set(str(tmp_path))
    assert len(data.ids("val")) == SETS[name][3] - 1
    (note,) = data.notes()
    assert gone.name in note
    assert "left out; unpack or download the images again" in note
    for path in (gone, *(data.path("all", n) for n in range(len(data.ids("all"))))):
        path.unlink(missing_ok=True)
    with pytest.raises(UserError, match=r"none of the listed images is on disk|no image in"):
        data_set(str(tmp_path)).ids("val")


ODD_LINES = [
    ("pets", "oxford-iiit-pet/annotations/test.txt", "Abyssinian_200 x", "Abyssinian_1 1 1 1"),
    ("aircraft", "fgvc-aircraft-2013b/data/images_variant_test.txt", "0000100 747",
     "whose class is not in variants.txt"),
    ("tiny_imagenet", "tiny-imagenet-200/val/val_annotations.txt", "val_9.JPEG\tn1\t1\t1\t2\t2",
     "whose class is not in wnids.txt"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "file", "line", "reason"), ODD_LINES)
def test_odd_lines_are_named_and_the_others_go_on(tmp_path, name, file, line, reason):
    draw, data_set, *_ = SETS[name]
    draw(tmp_path)
    path = tmp_path / file
    path.write_text(path.read_text() + line + "\n")
    data = data_set(str(tmp_path))
    assert len(data.ids("val")) == 6
    (note,) = data.notes()
    assert note.startswith(f"{path.name}: 1 line ('line 7')")
    assert reason in note


ODD_BOXES = [
    ("aircraft", "fgvc-aircraft-2013b/data/images_box.txt", "0000100 13 9 44 32",
     "0000100 44 9 13 32", "images_box.txt, line 11') whose box is reversed"),
    ("aircraft", "fgvc-aircraft-2013b/data/images_box.txt", "0000100 13 9 44 32",
     "0000100 13 9", "images_box.txt, line 11') of another form"),
    ("aircraft", "fgvc-aircraft-2013b/data/images_box.txt", "0000100 13 9 44 32",
     "0000100 913 9 944 32", "images_box.txt, line 11, box 1') whose box lies outside"),
    ("tiny_imagenet", "tiny-imagenet-200/val/val_annotations.txt", "val_0.JPEG\tn01440764\t12",
     "val_0.JPEG\tn01440764\tx", "val_annotations.txt, line 1') whose last fields"),
    ("dogs", "Annotation/n02085620-Chihuahua/n02085620_100", "<xmin>12", "<xmin>99",
     "Annotation/n02085620-Chihuahua/n02085620_100') whose bndbox is reversed"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "file", "old", "new", "reason"), ODD_BOXES)
def test_odd_boxes_are_named_and_the_others_go_on(tmp_path, name, file, old, new, reason):
    draw, data_set, *_ = SETS[name]
    draw(tmp_path)
    path = tmp_path / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    data = data_set(str(tmp_path))
    assert len(data.truth("val")) == 5
    (note,) = data.truth_notes()
    assert reason in note


def test_a_list_of_cars_without_labels_is_refused(tmp_path):
    drawn_sets.cars(tmp_path)
    rows = np.array([(1, 1, 5, 5, "00001.jpg")], [
        ("bbox_x1", object), ("bbox_y1", object), ("bbox_x2", object), ("bbox_y2", object),
        ("fname", object)])  # fmt: skip
    path = tmp_path / "stanford_cars/cars_test_annos_withlabels.mat"
    drawn_sets.save_mat(path, annotations=rows[None])
    with pytest.raises(UserError, match=r"annotation 1: no fname and class.*cannot be scored"):
        Cars(str(tmp_path)).ids("val")


@pytest.mark.parametrize("name", ["dogs", "cars"])
def test_scipy_is_an_extra(tmp_path, monkeypatch, name):
    draw, data_set, *_ = SETS[name]
    draw(tmp_path)
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(UserError, match=r"MATLAB file, which SciPy reads; pip install.*\[mat\]"):
        data_set(str(tmp_path)).ids("val")


# -- downloads


@pytest.mark.parametrize(
    ("name", "data_set", "theirs"),
    [("pets", Pets, OxfordIIITPet), ("aircraft", Aircraft, FGVCAircraft),
     ("caltech101", Caltech101, TorchCaltech101)],
)  # fmt: skip
def test_downloads(tmp_path, monkeypatch, name, data_set, theirs):
    """Archives are fetched, then torchvision's own code is called once; a failure is told."""
    draw = getattr(drawn_sets, name)
    fetched, calls = [], []

    def refuse(url, target, md5):
        raise OSError("Network is unreachable")

    monkeypatch.setattr(published, "fetch", refuse)
    with pytest.raises(UserError, match=r"Network is unreachable.*put the unpacked files there"):
        data_set(str(tmp_path / "set"), download=True)

    def unpack(self, root, *given, **options):
        calls.append(options)
        draw(Path(root))

    monkeypatch.setattr(published, "fetch", lambda url, target, md5: fetched.append(target.name))
    monkeypatch.setattr(theirs, "__init__", unpack)
    data = data_set(str(tmp_path / "set"), download=True)
    assert len(data.ids("all"))
    data_set(str(tmp_path / "set"), download=True)
    assert calls == [{"download": True}]
    assert len(fetched) == len({*fetched}) > 0
    shutil.rmtree(tmp_path / "set")
