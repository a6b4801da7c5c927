"""Hide-and-Seek: which cells are hidden, how often, and with what."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.objective.cross_entropy import CrossEntropy
from pipeline.objective.has import HideAndSeek, draw_kept_pixels
from pipeline.types import NetworkOutput


def seen(objective: HideAndSeek, images: Tensor) -> Tensor:
    """Return what the network is given."""
    got: list[Tensor] = []

    def network(inputs: Tensor) -> NetworkOutput:
        got.append(inputs)
        return NetworkOutput(torch.zeros(len(inputs), 2))

    objective(network, images, torch.zeros(len(images), dtype=torch.long))
    return got[0]


def test_whole_cells_are_hidden_with_their_probability() -> None:
    torch.manual_seed(0)
    grids = torch.stack([draw_kept_pixels(224, 224, 56, 0.3) for _ in range(400)])
    cells = grids.view(400, 4, 56, 4, 56).permute(0, 1, 3, 2, 4).flatten(3)
    assert torch.equal(cells.all(3), cells.any(3)), "a cell is hidden as a whole"
    assert cells.all(3).float().mean().item() == pytest.approx(0.7, abs=0.02)


def test_a_cell_scales_with_the_image_and_the_last_is_clipped() -> None:
    torch.manual_seed(0)
    kept = draw_kept_pixels(50, 112, 44, 0.5)  # 44 / 224 of 50 and of 112: 10 by 22
    assert kept.shape == (50, 112)
    for top in range(0, 50, 10):
        for left in range(0, 112, 22):
            assert kept[top : top + 10, left : left + 22].unique().numel() == 1
    assert kept.any()
    assert not kept.all()


def test_what_is_hidden_becomes_the_mean_colour_and_the_rest_stays() -> None:
    images = torch.rand(5, 3, 32, 32) + 1
    torch.manual_seed(0)
    given = seen(HideAndSeek(cells=(56,)), images)
    hidden = (given == 0).all(1, keepdim=True)
    torch.testing.assert_close(given, images * ~hidden)
    assert 0 < hidden.float().mean() < 1
    assert len({tuple(mask.flatten().tolist()) for mask in hidden}) == 5, (
        "each image has another mask"
    )


@pytest.mark.parametrize("objective", [HideAndSeek(cells=(0,)), HideAndSeek(hide=0.0)])
def test_with_nothing_hidden_it_is_cross_entropy(
    objective: HideAndSeek, network: Any, batch: tuple[Tensor, Tensor]
) -> None:
    torch.testing.assert_close(
        objective(network.eval(), *batch), CrossEntropy()(network.eval(), *batch)
    )


def test_all_is_hidden_at_probability_one() -> None:
    assert not seen(HideAndSeek(cells=(16,), hide=1.0), torch.rand(2, 3, 32, 32)).any()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"cells": ()}, "cells="),
        ({"cells": (16, -1)}, "0 or more"),
        ({"hide": 1.5}, "hide=1.5: expected a share"),
        ({"label_smoothing": -0.1}, "label_smoothing"),
    ],
)
def test_wrong_arguments_are_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        HideAndSeek(**wrong)
