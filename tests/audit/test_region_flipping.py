"""Region flipping against Quantus' RegionPerturbation, and against the definition in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import quantus
import torch
from torch import Tensor

from pipeline.audit.faithfulness import compute_probability
from pipeline.audit.region_flipping import (
    RegionFlipping,
    average_regions,
    draw_colours,
    measure_region_flipping,
)
from pipeline.errors import UserError
from tests.audit.networks import small
from tests.audit.test_composite import Logits

SIDE = 4
SIZE = (24, 32)  # 6 x 8 regions


def measured(maps: Tensor, steps: int, **settings: Any) -> tuple[Any, Logits, Tensor, Tensor]:
    torch.manual_seed(0)
    images = torch.randn(len(maps), 3, *maps.shape[1:])
    logits = Logits(small(), images)
    with torch.no_grad():
        classes = logits(images).argmax(1)
        found = measure_region_flipping(
            lambda some: compute_probability(logits(some), classes),
            images,
            torch.zeros_like(images),
            maps,
            range(len(maps)),
            RegionFlipping(steps=steps, region=SIDE, **settings),
        )
    return found, logits, images, classes


@pytest.mark.parametrize("order", ["morf", "lerf"])
def test_curves_are_quantus_region_perturbation(order: str) -> None:
    """With three channels: its regions hold all of them."""
    maps = torch.randn(4, *SIZE, generator=torch.Generator().manual_seed(3))
    found, logits, images, classes = measured(maps, steps=48)
    metric = quantus.RegionPerturbation(
        patch_size=SIDE, order=order, regions_evaluation=48, perturb_baseline=0.0,
        normalise=False, disable_warnings=True,
    )  # fmt: skip
    wanted = np.array(
        metric(model=logits, x_batch=images.numpy(), y_batch=classes.numpy(),
               a_batch=maps[:, None].numpy(), device="cpu", channel_first=True)
    )  # fmt: skip
    curve = found[f"{order}_curve"].numpy()
    np.testing.assert_allclose(curve[:, :1] - curve[:, 1:], wanted, atol=2e-6)
    # AOPC has the start, where nothing has changed, among its L + 1 points.
    np.testing.assert_allclose(found[f"aopc_{order}"], wanted.sum(1) / 49, atol=2e-6)
    assert np.abs(wanted).max() > 0.1, "a test that tells nothing"


@pytest.mark.parametrize(("order", "sign"), [("morf", 1), ("lerf", -1)])
def test_regions_of_one_pixel_are_quantus_pixel_flipping(order: str, sign: int) -> None:
    """On one channel; of three it orders the features, not the pixels. LeRF is MoRF of -map."""
    torch.manual_seed(0)
    images, maps = torch.randn(4, 1, 20, 24), torch.randn(4, 20, 24)
    logits = Logits(small(channels=1), images)
    with torch.no_grad():
        classes = logits(images).argmax(1)
        found = measure_region_flipping(
            lambda some: compute_probability(logits(some), classes), images,
            torch.zeros_like(images), maps, range(4), RegionFlipping(steps=10, region=1),
        )  # fmt: skip
    metric = quantus.PixelFlipping(features_in_step=48, perturb_baseline=0.0, normalise=False,
                                   disable_warnings=True)  # fmt: skip
    wanted = metric(model=logits, x_batch=images.numpy(), y_batch=classes.numpy(),
                    a_batch=sign * maps[:, None].numpy(), device="cpu",
                    channel_first=True)  # fmt: skip
    np.testing.assert_allclose(found[f"{order}_curve"][:, 1:], np.array(wanted), atol=1e-6)


def test_first_regions_in_few_steps_by_hand() -> None:
    """Narrow regions at the border count by their mean; a share of 0.25 are 6 of 24 regions."""
    maps = torch.rand(2, 15, 22, generator=torch.Generator().manual_seed(5))  # 4 x 6 regions
    found, logits, images, classes = measured(maps, steps=3, share=0.25)
    for n in range(2):
        means = {
            (y, x): maps[n, y : y + SIDE, x : x + SIDE].mean().item()
            for y in range(0, 15, SIDE)
            for x in range(0, 22, SIDE)
        }
        for name, sign in (("morf", -1), ("lerf", 1)):
            ranked = sorted(means, key=lambda at: sign * means[at])
            for step in range(4):
                changed = images[n : n + 1].clone()
                for y, x in ranked[: 2 * step]:
                    changed[..., y : y + SIDE, x : x + SIDE] = 0
                with torch.no_grad():
                    wanted = logits(changed).softmax(1)[0, classes[n]]
                assert found[f"{name}_curve"][n, step] == pytest.approx(wanted.item(), abs=1e-5)


def test_the_area_between_is_that_of_lerf_minus_morf() -> None:
    found, *_ = measured(torch.rand(3, *SIZE), steps=6)
    between = (found["lerf_curve"] - found["morf_curve"]).mean(1)
    torch.testing.assert_close(found["abpc"], between)
    torch.testing.assert_close(found["lerf_curve"][:, [0, -1]], found["morf_curve"][:, [0, -1]])


def test_a_map_of_what_counts_beats_its_opposite() -> None:
    """Only one corner matters to this classifier."""
    images = torch.ones(2, 3, *SIZE)

    def score(some: Tensor) -> Tensor:
        return some[:, :, :8, :8].mean((1, 2, 3))

    right = torch.zeros(2, *SIZE)
    right[:, :8, :8] = 1
    areas = [
        measure_region_flipping(score, images, torch.zeros_like(images), maps, [0, 1],
                                RegionFlipping(steps=12, region=SIDE))["abpc"]
        for maps in (right, -right)
    ]  # fmt: skip
    assert (areas[0] > 0.5).all()
    torch.testing.assert_close(areas[1], -areas[0])


def test_colours_are_those_of_pixels_and_each_images_own() -> None:
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    drawn = draw_colours(torch.zeros(2, 3, 40, 50), [7, 8], mean, std)
    pixels = drawn * torch.tensor(std)[:, None, None] + torch.tensor(mean)[:, None, None]
    assert pixels.min() >= -1e-6
    assert pixels.max() <= 1 + 1e-6
    assert pixels.mean((2, 3)) == pytest.approx(0.5, abs=0.03)
    alone = draw_colours(torch.zeros(1, 3, 40, 50), [8], mean, std)
    assert torch.equal(drawn[1:], alone)


def test_regions_of_values_that_are_not_finite_are_the_least_relevant_of_a_positive_map() -> None:
    maps = torch.ones(1, 4, 8)
    maps[:, :, :4] = torch.nan
    assert average_regions(maps, 4).tolist() == [[[0, 1]]]


@pytest.mark.parametrize("wrong", [{"region": 0}, {"share": 0.0}, {"share": 1.5}, {"steps": 0}])
def test_what_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(UserError, match=f"{name}="):
        RegionFlipping(**wrong)
