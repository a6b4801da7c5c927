"""Classes learned by what is on the object: when they are kept, and that nothing is lost."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.formats.arrays import read_arrays
from pipeline.model.second_order import SecondOrderHead
from pipeline.stages.refine import object_class
from pipeline.stages.refine.object_class import FittedClasses
from tests.conftest import Cli
from tests.stages.test_refine import BEST, result


def learned(held: int, by_object: float, two_fold: float = 0.7) -> FittedClasses:
    return FittedClasses(None, two_fold, 0.7, by_object, 0.8, 0.02, held)


def test_it_is_kept_where_unseen_images_do_not_speak_against_it() -> None:
    assert learned(100, 0.8).kept
    assert learned(100, 0.785).kept  # within a standard error
    assert not learned(100, 0.77).kept
    assert not learned(100, 0.9, two_fold=0.69).kept  # no better than means
    assert not learned(19, 1.0).kept
    assert "too few" in learned(19, 1.0).describe()
    assert "classes are predicted by the head" in learned(100, 0.77).describe()
    assert learned(100, 0.77).record()["kept"] is False


def test_two_fold_says_that_products_tell_what_means_do_not() -> None:
    """Means are noise, one product is the label: halves that have not seen an image name it."""
    random, labels = np.random.default_rng(0), np.arange(80) // 2 % 2
    head = SecondOrderHead(("last", "fine", "foreground"), last=3, channels=2, classes=2)
    views = [random.standard_normal((80, 6)).astype(np.float16) for _ in range(2)]
    for view in views:
        view[:, 4] = labels
    assert object_class._two_fold(head, views, labels) > 0.95
    assert object_class._two_fold(head, views, labels, means_alone=True) < 0.75
    assert views[0][:, 4].any()  # what was seen is as it was


def test_crops_lie_between_the_image_and_the_found_box_and_are_each_images_own() -> None:
    boxes = torch.tensor([[0.3, 0.4, 0.6, 0.9]]).repeat(50, 1)
    crops, mirrored = object_class._draw_crops(boxes, np.arange(50), 0, 1)
    assert (crops[:, :2] >= 0).all()
    assert (crops[:, :2] <= boxes[:, :2]).all()
    assert (crops[:, 2:] >= boxes[:, 2:]).all()
    assert (crops[:, 2:] <= 1).all()
    assert 10 < int(mirrored.sum()) < 40
    again, _ = object_class._draw_crops(boxes[:2], np.array([7, 3]), 0, 1)
    assert torch.equal(again, crops[[7, 3]])


def test_refine_carries_it_or_says_why_not(cli: Cli, tmp_path: Path) -> None:
    assert cli(*BEST, "data.images=240") == 0
    card = json.loads((result(tmp_path, "refine") / "card.json").read_text())
    record = card["refine"]["object_class"]
    assert record["held_back"] > 0
    assert ("object_class" in card["branches"]) == record["kept"]
    views = list((tmp_path / "outputs" / "object_views").iterdir())
    assert len(views) == 2  # of the images to learn from, and of those that judge
    assert cli(*BEST, "data.images=240", "refine.object_class=false") == 0
    cards = [json.loads(p.read_text()) for p in (tmp_path / "outputs").glob("refine/*/card.json")]
    assert sorted(card["refine"]["object_class"] is None for card in cards) == [False, True]


@pytest.mark.usefixtures("shared_results")
def test_a_killed_run_goes_on_to_the_same_weights(cli: Cli, tmp_path: Path) -> None:
    assert cli(*BEST) == 0
    before = (result(tmp_path, "refine") / "weights.safetensors").read_bytes()
    views = sorted((tmp_path / "outputs" / "object_views").iterdir())
    kept = [shard for folder in views for shard in sorted(folder.glob("shard-*"))]
    times = {path: path.stat().st_mtime_ns for path in kept[1:]}
    kept[0].unlink()
    (kept[0].parent / "DONE").unlink()
    (result(tmp_path, "refine") / "DONE").unlink()
    assert cli(*BEST) == 0
    assert (result(tmp_path, "refine") / "weights.safetensors").read_bytes() == before
    assert {path: path.stat().st_mtime_ns for path in kept[1:]} == times


@pytest.mark.usefixtures("shared_results")
def test_only_labels_are_read(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is described of an image is its pixels and its label, in float16, a row a view."""
    assert cli(*BEST) == 0
    for folder in (tmp_path / "outputs" / "object_views").iterdir():
        for shard in folder.glob("shard-*"):
            arrays, _ = read_arrays(shard)
            views = {name for name in arrays if name.startswith("seen")}
            assert set(arrays) == {"labels", "logits"} | views
            assert len(views) in (1, 1 + object_class.ZOOMS)
            assert all(arrays[name].dtype == np.float16 for name in views)
