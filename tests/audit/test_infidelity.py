"""Infidelity against captum and Quantus, on the same perturbations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import quantus
import torch
from captum.metrics import infidelity
from torch import Tensor

from pipeline.audit.infidelity import (
    PARTS,
    SIDES,
    Infidelity,
    compute_infidelity,
    draw_squares,
    measure_infidelity,
)
from pipeline.errors import UserError
from tests.audit.networks import small
from tests.audit.test_composite import Logits

COUNT = 6


def start(channels: int = 3) -> tuple[Logits, Tensor, Tensor, Tensor]:
    torch.manual_seed(2)
    images, maps = torch.randn(3, channels, 28, 32), torch.randn(3, 28, 32)
    logits = Logits(small(channels), images)
    with torch.no_grad():
        return logits, images, maps, logits(images).argmax(1)


def measured(
    logits: Logits, images: Tensor, maps: Tensor, classes: Tensor, removed: Tensor
) -> dict[str, Tensor]:
    with torch.no_grad():
        return measure_infidelity(
            lambda some: logits(some).gather(1, classes[:, None])[:, 0], images, maps, removed
        )


@pytest.mark.parametrize(
    ("normalize", "name"), [(True, "infidelity"), (False, "infidelity_unscaled")]
)
def test_it_is_captums(normalize: bool, name: str) -> None:
    """The map stands for all channels: a third of it for each of captum's."""
    logits, images, maps, classes = start()
    removed = draw_squares(images, range(3), COUNT)
    found = measured(logits, images, maps, classes, removed)

    def perturb(inputs: Tensor) -> tuple[Tensor, Tensor]:
        masks = removed.flatten(0, 1)[:, None].expand_as(inputs)  # each image COUNT times
        return masks.float(), inputs * ~masks

    wanted = infidelity(logits, perturb, images, maps[:, None].expand_as(images) / 3,
                        target=classes, n_perturb_samples=COUNT, normalize=normalize)  # fmt: skip
    np.testing.assert_allclose(found[name], wanted, rtol=2e-4)
    assert wanted.min() > 1e-3, "a test that tells nothing"


def test_unscaled_it_is_quantus() -> None:
    """Quantus removes block after block and restores none; I is what was there, not 1."""
    logits, images, maps, classes = start(channels=1)
    blocks = torch.zeros(49 + 7, 28, 32, dtype=torch.bool)
    for n in range(56):
        y, x = 4 * (n // 8), 4 * (n % 8)
        blocks[n, y : y + 4, x : x + 4] = True
    removed = blocks.cumsum(0).bool().expand(3, -1, -1, -1)
    found = measured(logits, images, maps * images[:, 0], classes, removed)
    metric = quantus.Infidelity(perturb_patch_sizes=[4], n_perturb_samples=1,
                                perturb_baseline=0.0, disable_warnings=True)  # fmt: skip
    wanted = metric(model=logits, x_batch=images.numpy(), y_batch=classes.numpy(),
                    a_batch=maps[:, None].numpy(), device="cpu", channel_first=True)  # fmt: skip
    np.testing.assert_allclose(found["infidelity_unscaled"], wanted, rtol=1e-4)


def test_a_map_that_says_each_change_has_none() -> None:
    """This score is the sum of the image times a map, in any unit of the map."""
    torch.manual_seed(0)
    weights, images = torch.randn(28, 28), torch.rand(2, 3, 28, 28)
    exact = (images * weights).sum(1)

    def score(some: Tensor) -> Tensor:
        return (some * weights).sum((1, 2, 3))

    removed = draw_squares(images, [0, 1], 20)
    for maps, scale in ((exact, 1.0), (exact * -50, -1 / 50)):
        found = measure_infidelity(score, images, maps, removed)
        assert found["infidelity_share"].max() < 1e-6
        torch.testing.assert_close(found["scale"], torch.full((2,), scale).double(), rtol=1e-3,
                                   atol=0)  # fmt: skip
    other = measure_infidelity(score, images, torch.randn(2, 28, 28), removed)
    assert other["infidelity_share"].min() > 0.3


def test_maps_and_scores_that_say_nothing() -> None:
    found = compute_infidelity(torch.tensor([[0.0, 0.0], [1.0, 2.0]]),
                               torch.tensor([[1.0, 3.0], [0.0, 0.0]]))  # fmt: skip
    assert found["scale"].tolist() == [0, 0]
    assert found["infidelity_share"].tolist() == [1, 0]
    assert found["infidelity"].tolist() == [5, 0]


def test_squares_are_squares_and_each_images_own() -> None:
    images = torch.zeros(2, 3, 56, 70)
    masks = draw_squares(images, [4, 5], 200)
    assert torch.equal(masks[1:], draw_squares(images[1:], [5], 200))
    sides = set()
    for mask in masks.flatten(0, 1):
        rows, columns = mask.any(1).sum().item(), mask.any(0).sum().item()
        assert rows == columns
        assert mask.sum() == rows * columns
        sides.add(rows)
    assert sides == {2 * k for k in range(1, SIDES + 1)}
    assert PARTS == 28
    reached = masks.flatten(0, 1).any(0)
    assert reached.any(0).all(), "squares reach both borders"
    assert reached.any(1).all()


def test_one_square_is_refused() -> None:
    with pytest.raises(UserError, match="samples=1"):
        Infidelity(samples=1)


def test_the_shares_are_between_0_and_1_for_any_map() -> None:
    logits, images, maps, classes = start()
    removed = draw_squares(images, range(3), COUNT)
    wild: Any = maps * 1e6
    wild[0, 0, 0] = torch.nan
    found = measured(logits, images, wild, classes, removed)
    assert all(torch.isfinite(values).all() for values in found.values())
    assert (found["infidelity_share"] >= 0).all()
    assert (found["infidelity_share"] <= 1).all()
