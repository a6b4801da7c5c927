"""Mosaics: two to four shapes of one class an image, apart, and never those of the embedded set."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from pipeline.data.mosaics import GAP, Mosaics
from pipeline.data.shapes import Shapes
from pipeline.errors import UserError
from pipeline.protocols.data import HasSeveralLabels


@pytest.fixture(scope="module")
def mosaics() -> Mosaics:
    return Mosaics(images=40, val_images=60)


def test_each_image_holds_two_to_four_boxes_that_are_apart(mosaics: Mosaics) -> None:
    counts = []
    for truth in mosaics.truth("val").values():
        boxes = truth.boxes
        counts.append(len(boxes))
        for n, first in enumerate(boxes):
            for second in boxes[n + 1 :]:
                distance = max((second[:2] - first[2:]).max(), (first[:2] - second[2:]).max())
                assert distance >= GAP - 1, "boxes are rounded to whole pixels"
    assert set(counts) == {2, 3, 4}
    assert min(counts.count(count) for count in (2, 3, 4)) >= 10


def test_shapes_have_the_sizes_that_the_module_names(mosaics: Mosaics) -> None:
    sides = [
        (truth.boxes[:, 2:] - truth.boxes[:, :2]).max(1) for truth in mosaics.truth("val").values()
    ]
    assert np.concatenate(sides).min() >= 52
    assert np.concatenate(sides).max() <= 87


def test_images_are_other_than_those_of_the_embedded_set(mosaics: Mosaics) -> None:
    shapes = Shapes(images=40, val_images=60)
    assert mosaics.ids("val") == shapes.ids("val")
    assert mosaics.classes == shapes.classes
    for split in ("train", "val", "all"):
        assert mosaics.fingerprint(split) != shapes.fingerprint(split)
    mosaic, shape = mosaics.example("val", 0), shapes.example("val", 0)
    assert mosaic.image.shape[0] > shape.image.shape[0]


def test_an_image_is_drawn_the_same_by_another_set_of_the_seed(mosaics: Mosaics) -> None:
    again, other = Mosaics(val_images=7), Mosaics(val_images=7, seed=1)
    image = mosaics.example("val", 5).image
    assert np.array_equal(image, again.example("val", 5).image)
    assert not np.array_equal(image, other.example("val", 5, at=image.shape[:2]).image)


def test_a_wrong_option_is_refused() -> None:
    with pytest.raises(UserError, match="val_images"):
        Mosaics(val_images=0)


def test_images_of_one_class_are_those_of_earlier_versions(mosaics: Mosaics) -> None:
    """Boxes and brightness as they were before mosaics could have several classes."""
    boxes = {id: known.boxes.tolist() for id, known in mosaics.truth("val").items()}
    assert boxes["val/00000-arrow.png"] == [
        [39, 111, 91, 172], [114, 75, 163, 134], [51, 22, 106, 83], [128, 145, 176, 210],
    ]  # fmt: skip
    assert boxes["val/00001-crescent.png"] == [[4, 87, 80, 159], [20, 170, 91, 238]]
    means = [mosaics.example("val", n).image.mean() for n in range(2)]
    assert means == pytest.approx([168.89, 199.49], abs=0.02)


# -- several classes


@pytest.fixture(scope="module")
def several() -> Mosaics:
    return Mosaics(images=300, val_images=200, several_classes=True)


def test_labels_are_the_classes_of_the_shapes(several: Mosaics) -> None:
    assert isinstance(several, HasSeveralLabels)
    assert several.is_multi_label
    sets, labels, truth = several.label_sets("val"), several.labels("val"), several.truth("val")
    assert sets.shape == (200, 10)
    for n, id in enumerate(several.ids("val")):
        known = truth[id]
        assert known.classes is not None
        assert 2 <= len(known.classes) == len(known.boxes) <= 4
        assert np.flatnonzero(sets[n]).tolist() == np.unique(known.classes).tolist()
        assert known.label == labels[n] == np.flatnonzero(sets[n])[0]
        names = "-".join(several.classes[c] for c in np.flatnonzero(sets[n]))
        assert id == f"val/{n:05d}-{names}.png"
    example = several.example("val", 3)
    assert example.labels == tuple(np.flatnonzero(sets[3]))


def test_classes_are_drawn_independently_and_all_as_likely(several: Mosaics) -> None:
    classes = [known.classes for known in several.truth("all").values()]
    counts = np.bincount(np.concatenate(classes), minlength=10)
    assert counts.sum() > 1400
    assert np.abs(counts - counts.mean()).max() < 4 * np.sqrt(counts.mean())
    numbers = [len(each) for each in classes if each is not None]
    assert min(numbers.count(count) for count in (2, 3, 4)) > 120
    first = np.array([each[:2] for each in classes if each is not None])
    assert 0.05 < (first[:, 0] == first[:, 1]).mean() < 0.15, "a tenth, by chance"


def test_a_mask_has_the_outline_of_its_class(several: Mosaics) -> None:
    """A ring covers less of its box than a square does."""
    shares: dict[int, list[float]] = {}
    for known in several.truth("val").values():
        assert known.classes is not None
        assert known.masks is not None
        for label, box, mask in zip(known.classes, known.boxes, known.masks, strict=True):
            area = (box[2] - box[0]) * (box[3] - box[1])
            shares.setdefault(int(label), []).append(coco_mask.area(mask) / area)
    mean = {several.classes[label]: np.mean(each) for label, each in shares.items()}
    assert max(mean, key=lambda name: mean[name]) == "square"
    assert mean["crescent"] < mean["ring"] < mean["square"]


def test_they_are_other_images_than_those_of_one_class(several: Mosaics, mosaics: Mosaics) -> None:
    assert several.fingerprint("val") != Mosaics(images=300, val_images=200).fingerprint("val")
    assert not mosaics.is_multi_label
    sets = mosaics.label_sets("val")
    assert (sets.sum(1) == 1).all()
    assert sets.argmax(1).tolist() == mosaics.labels("val").tolist()
    again = Mosaics(val_images=7, several_classes=True)
    np.testing.assert_array_equal(again.example("val", 5).image, several.example("val", 5).image)
