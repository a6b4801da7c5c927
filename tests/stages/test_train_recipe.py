"""What training learns by: the rate, the order of images, when to stop."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.ops.schedule import lr_factor
from pipeline.stages.train.recipe import (
    RECIPES,
    Settings,
    build_epoch_record,
    check_trainable,
    draw_order,
    is_out_of_patience,
)


def settings(**more: object) -> Settings:
    same = {"momentum": 0.9, "flip": True, "accumulate": 1, "ema": None, "patience": None,
            "balanced": False, "seed": 0, **more}  # fmt: skip
    return Settings(recipe="scratch", **RECIPES["scratch"], **same)  # type: ignore[arg-type]


def test_a_loss_that_is_not_finite_says_what_to_do() -> None:
    with pytest.raises(UserError, match=r"the loss is nan in epoch 3; try a smaller train\.lr"):
        build_epoch_record(2, [1.0, float("nan")], 0.5)


def test_the_rate_warms_up_and_falls_to_nothing() -> None:
    rates = [lr_factor(step, 100, 10) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == 1.0
    assert rates[9] == 1.0
    assert rates[-1] < 0.001
    assert all(a >= b for a, b in pairwise(rates[10:]))


def test_an_epoch_has_every_image_once() -> None:
    labels = np.array([0] * 90 + [1] * 10)
    first, second = (draw_order(labels, settings(), epoch) for epoch in (0, 1))
    assert sorted(first.tolist()) == list(range(100))
    assert first.tolist() != second.tolist()


@pytest.mark.parametrize("rare", [1, 7, 10])
def test_balanced_draws_every_class_equally_often(rare: int) -> None:
    labels = np.array([0] * 60 + [1] * (40 - rare) + [2] * rare)
    order = draw_order(labels, settings(balanced=True), 0)
    assert len(order) == 100
    counts = np.bincount(labels[order])
    assert counts.max() - counts.min() <= 1
    of_rare = np.bincount(order, minlength=100)[labels == 2]
    assert of_rare.max() - of_rare.min() <= 1, "a class's own in turn"
    assert np.bincount(order, minlength=100)[labels == 0].max() == 1
    assert order.tolist() == draw_order(labels, settings(balanced=True), 0).tolist()


def test_balanced_draws_images_of_no_class_as_often_as_a_class() -> None:
    sets = np.zeros((60, 2), bool)
    sets[:40, 0] = sets[38:44, 1] = True
    order = draw_order(sets, settings(balanced=True), 0)
    assert len(order) == 60
    assert (sets[order].sum(1) == 0).sum() == 20
    assert 20 <= sets[order, 1].sum() < 30, "some are of both"
    every = draw_order(sets[:44], settings(balanced=True), 0)
    assert sets[:44][every].any(1).all(), "without such images no group is added"


def test_a_single_class_can_be_told_from_none(capsys: pytest.CaptureFixture[str]) -> None:
    check_trainable(np.array([[True], [False]]), ("red",))
    for labels in (np.array([[True], [True]]), np.array([0, 0])):
        with pytest.raises(UserError, match="nothing to tell it from"):
            check_trainable(labels, ("red",))


def test_patience_counts_from_the_first_of_the_best() -> None:
    def history(*judged: float) -> list[dict[str, float]]:
        return [{"held_back_top1": one} for one in judged]

    assert not is_out_of_patience([], 1)
    assert not is_out_of_patience(history(0.5, 0.6), 1)
    assert is_out_of_patience(history(0.6, 0.6), 1), "as good is not better"
    assert not is_out_of_patience(history(0.5, 0.6, 0.6), 2)
    assert is_out_of_patience(history(0.6, 0.5, 0.6), 2)
    assert not is_out_of_patience(history(0.6, 0.5, 0.6), None)


def test_classes_without_images_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    check_trainable(np.array([0, 1]), tuple("abcdefgh"))
    said = capsys.readouterr().out
    assert "train: 6 classes ('c', 'd', 'e', ...) of 8 have no image to learn from" in said
