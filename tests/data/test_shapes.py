"""Shapes: the same images always, labels that are the outlines, boxes that are the masks'."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco

from pipeline.data import shapes
from pipeline.data.shape_outlines import compute_box, cover, draw_mask
from pipeline.data.shape_painting import paint, paint_paper
from pipeline.data.shapes import Shapes
from pipeline.errors import UserError
from pipeline.formats import photo
from pipeline.types import Split

SPLITS: tuple[Split, ...] = ("train", "held_back", "val", "all")


@pytest.fixture(scope="module")
def drawn() -> Shapes:
    return Shapes(images=120, val_images=60)


def test_an_image_is_painted_once_and_what_is_done_to_it_changes_no_other() -> None:
    data = Shapes(images=5, val_images=3)
    shapes._paint_once.cache_clear()
    first = data.example("val", 1).image
    wanted = first.copy()
    first[:] = 0
    again = Shapes(images=5, val_images=3).example("val", 1)
    assert np.array_equal(again.image, wanted)
    assert again.size == wanted.shape[:2]
    assert shapes._paint_once.cache_info().misses == 1
    large = Shapes(images=shapes.MAX_KEPT, val_images=3)
    assert np.array_equal(large.example("val", 1).image, wanted), "painted each time"
    assert shapes._paint_once.cache_info().misses == 1


@pytest.fixture
def painted_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes, "MAX_KEPT", 0)


@pytest.mark.usefixtures("painted_anew")
def test_an_image_is_the_same_alone_in_any_order_and_in_any_thread(drawn: Shapes) -> None:
    once = [drawn.example("val", n).image for n in range(24)]
    again = Shapes(images=7, val_images=60, size=32)
    with ThreadPoolExecutor(4) as threads:
        order = list(reversed(range(24)))
        twice = list(threads.map(lambda n: again.example("val", n).image, order))
    assert all(np.array_equal(once[n], image) for n, image in zip(order, twice, strict=True))


def test_another_seed_or_pool_is_another_image(drawn: Shapes) -> None:
    here = drawn.example("all", 0).image
    assert not np.array_equal(here, Shapes(seed=1).example("all", 0).image)
    train, val = drawn.truth("all"), drawn.truth("val")
    boxes = {tuple(truth.boxes.ravel()) for truth in (*train.values(), *val.values())}
    assert len(boxes) == 180  # none is drawn twice


def test_splits_are_disjoint_and_sum_up(drawn: Shapes) -> None:
    train, held, val, all_ids = (drawn.ids(split) for split in SPLITS)
    assert list(all_ids) == [*train, *held, *val]
    assert len(set(all_ids)) == 180
    assert len(val) == 60
    assert 2 <= len(held) <= 30
    assert Shapes(images=50, held_back=0.0).ids("held_back") == []
    # More images leave the ones that are there where they are.
    assert set(train) <= set(Shapes(images=300).ids("train"))


@pytest.mark.parametrize("split", SPLITS)
def test_labels_ids_and_examples_agree(drawn: Shapes, split: Split) -> None:
    labels, ids = drawn.labels(split), drawn.ids(split)
    assert len(labels) == len(ids)
    for position in range(0, len(ids), 7):
        example = drawn.example(split, position)
        assert (example.id, example.label) == (ids[position], labels[position])
        assert f"-{drawn.classes[example.label]}.png" in example.id
        assert example.image.shape[:2] == example.size


def test_ids_are_listed_once(drawn: Shapes) -> None:
    """Stages ask for them for each image."""
    assert drawn.ids("val") is drawn.ids("val")
    assert drawn.ids("val") != drawn.ids("train")


def test_classes_are_balanced(drawn: Shapes) -> None:
    assert len(drawn.classes) == 10
    assert np.bincount(drawn.labels("val")).tolist() == [6] * 10


def test_boxes_are_the_tight_half_open_boxes_of_the_masks(drawn: Shapes) -> None:
    for truth in drawn.truth("val").values():
        assert truth.masks is not None
        for true_box, rle in zip(truth.boxes, truth.masks, strict=True):
            mask = coco.decode(rle)
            assert mask.shape == truth.size
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            assert true_box.tolist() == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
            height, width = truth.size
            assert true_box[:2].min() >= 1
            assert true_box[2] <= width - 1
            assert true_box[3] <= height - 1
            share = (true_box[2:] - true_box[:2]).max() / min(truth.size)
            assert 0.25 <= share <= 0.75


def test_the_mask_is_where_the_shape_was_painted(drawn: Shapes) -> None:
    """Painted twice, with the shape and without: what differs is the shape and its shadow."""
    for number in range(12):
        rng, frame, outlines = drawn._geometry("val", number)
        before = rng.bit_generator.state
        with_shapes = paint(rng, frame, outlines)
        rng.bit_generator.state = before
        mask = np.max([draw_mask(outline, frame) for outline in outlines], 0)
        plain = with_shapes.copy()
        after = np.random.default_rng(5)
        for outline in outlines:  # another paper on the same places
            paper = np.array([[255, 0, 255], [0, 255, 0]], np.float32)
            paint_paper(after, plain, outline, paper)
        changed = (plain != with_shapes).any(2)
        assert changed[mask > 0].mean() > 0.98
        near = cv2.dilate(mask, np.ones((19, 19), np.uint8))
        assert not changed[near == 0].any()


def test_coverage_of_a_square() -> None:
    square = [np.array([[10.1, 20.3], [30.1, 20.3], [30.1, 40.0], [10.1, 40.0]])]
    alpha, x, y = cover(square, (64, 64))
    assert (x, y) == (10, 20)
    assert alpha.sum() / 255 == pytest.approx(20 * 19.7, rel=0.03)
    assert compute_box(draw_mask(square, (64, 64))).tolist() == [10, 20, 30, 40]


def test_a_ring_has_its_hole(drawn: Shapes) -> None:
    ring = drawn.classes.index("ring")
    position = int(np.flatnonzero(drawn.labels("val") == ring)[0])
    truth = drawn.truth("val")[drawn.ids("val")[position]]
    assert truth.masks is not None
    x0, y0, x1, y1 = truth.boxes[0]
    assert not coco.decode(truth.masks[0])[int(y0 + y1) // 2, int(x0 + x1) // 2]


def test_a_few_images_hold_two_shapes_apart() -> None:
    truths = Shapes(images=1, val_images=320).truth("val").values()
    pairs = [truth.boxes for truth in truths if len(truth.boxes) == 2]
    assert 0.02 < len(pairs) / 320 < 0.12
    for first, second in pairs:
        assert (first[2:] <= second[:2]).any() or (second[2:] <= first[:2]).any()


def test_scaling(drawn: Shapes) -> None:
    unscaled = drawn.example("val", 3)
    assert drawn.example("val", 3, at=(50, 70)).image.shape == (50, 70, 3)
    assert drawn.example("val", 3, at=(50, 70)).size == unscaled.size
    assert np.array_equal(drawn.example("val", 3, at_least=(60, 60)).image, unscaled.image)
    large = drawn.example("val", 3, at_least=(300, 200)).image.shape
    assert large[0] >= 300
    assert large[1] >= 200
    assert large[0] / large[1] == pytest.approx(unscaled.size[0] / unscaled.size[1], rel=0.02)


def test_a_file_of_an_image_is_read_as_the_image_is_drawn(tmp_path: Path) -> None:
    drawn, path = Shapes(images=20, val_images=6, scaling="file"), tmp_path / "image.png"
    assert drawn.fingerprint("val") != Shapes(images=20, val_images=6).fingerprint("val")
    for position in range(6):
        cv2.imwrite(str(path), drawn.example("val", position).image[..., ::-1])
        for at in (None, (64, 64), (50, 70), (200, 180)):
            ours = drawn.example("val", position, at=at)
            read = photo.read(path, at=at)
            assert np.array_equal(read.pixels, ours.image)
            assert read.size == ours.size
        large = drawn.example("val", position, at_least=(300, 200)).image
        assert np.array_equal(large, photo.read(path, at_least=(300, 200)).pixels)


def test_fingerprints_change_with_what_is_drawn_and_nothing_else() -> None:
    shapes = Shapes(images=20)
    assert shapes.fingerprint("train") == Shapes(images=20, size=(32, 48)).fingerprint("train")
    assert shapes.fingerprint("val") == Shapes(images=30).fingerprint("val")
    assert shapes.fingerprint("train") != Shapes(images=30).fingerprint("train")
    assert shapes.fingerprint("val") != Shapes(images=20, seed=1).fingerprint("val")
    assert len({shapes.fingerprint(split) for split in SPLITS}) == 4
    assert shapes.truth_fingerprint("val") == shapes.fingerprint("val")


def test_coco_names_and_pickling(drawn: Shapes) -> None:
    names = drawn.coco_names("val")
    assert list(names.image_ids) == list(range(1, 61))
    assert names.file_names == drawn.ids("val")
    assert list(names.category_ids) == list(range(1, 11))
    assert pickle.loads(pickle.dumps(drawn)) == drawn


def test_size_is_a_side_or_height_and_width() -> None:
    assert Shapes(size=48).size == (48, 48)
    assert Shapes(size=[32, 48]).size == (32, 48)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"size": 4}, "data.size=4"),
        ({"images": 0}, "data.images=0"),
        ({"val_images": 0}, "data.val_images=0"),
        ({"seed": -1}, "data.seed=-1"),
        ({"held_back": 1.0}, "data.held_back=1.0"),
    ],
)
def test_what_cannot_be_drawn_is_refused(wrong: dict[str, float], named: str) -> None:
    with pytest.raises(UserError, match=named):
        Shapes(**wrong)  # type: ignore[arg-type]
