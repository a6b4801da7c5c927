"""Faithfulness against Quantus, on images of one channel.

With three, Quantus 0.6 repeats the map for each and orders 3 * H * W features, so that one pixel's
channels go at different steps, and ROAD's indices leave the image. ROAD keeps the first batch only.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import quantus
import torch
from quantus.functions.perturb_func import noisy_linear_imputation
from torch import Tensor, nn

from pipeline.audit.faithfulness import (
    RoadSettings,
    blur,
    compute_area,
    impute,
    measure_curve,
    measure_drop_and_increase,
    measure_faithfulness,
    measure_road,
)
from pipeline.audit.likeness import order_by_importance
from tests.audit.networks import small


class Bare(nn.Module):
    """Quantus wants a network that answers with logits alone."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.offset = torch.zeros(())

    def forward(self, images: Tensor) -> Tensor:
        return (self.network(images).logits - self.offset) * 100


def grey() -> tuple[Bare, Tensor, Tensor, Tensor]:
    network = Bare(small(channels=1)).eval()
    torch.manual_seed(0)
    images, maps = torch.randn(6, 1, 20, 24), torch.randn(6, 20, 24)
    with torch.no_grad():
        network.offset = network.network(images).logits.mean(0)  # so that classes differ
        return network, images, network(images).argmax(1), maps


def quantus_of(metric: object, network: nn.Module, x: Tensor, y: Tensor, maps: Tensor) -> object:
    assert callable(metric)
    arrays = {"x_batch": x.numpy(), "y_batch": y.numpy(), "a_batch": maps[:, None].numpy()}
    return metric(model=network, **arrays, device="cpu", channel_first=True)


@torch.no_grad()
def test_deletion_is_quantus_pixel_flipping() -> None:
    network, images, classes, maps = grey()
    metric = quantus.PixelFlipping(features_in_step=48, perturb_baseline=0.0, normalise=False,
                                   disable_warnings=True)  # fmt: skip
    wanted = np.array(quantus_of(metric, network, images, classes, maps))

    def score(some: Tensor) -> Tensor:
        return network(some).softmax(1).gather(1, classes[:, None])[:, 0]

    order = order_by_importance(maps, range(6))
    found = measure_curve(score, images, torch.zeros_like(images), order, 10).numpy()
    np.testing.assert_allclose(found[:, 1:], wanted, atol=1e-6)  # it leaves the start out
    np.testing.assert_allclose(found[:, 0], score(images), atol=1e-6)


def test_imputation_is_quantus_own() -> None:
    torch.manual_seed(0)
    images = torch.randn(3, 3, 31, 26)
    gone = torch.rand(3, 31, 26) < torch.tensor([0.1, 0.6, 0.95])[:, None, None]
    gone[0, 5:25, 3:20] = True  # a wide gap
    gone[1, :, 0] = True  # the border
    found = impute(images, gone, [0, 1, 2], noise=0, tolerance=1e-6).numpy()
    for n in range(3):
        where = np.nonzero(gone[n].numpy().ravel())[0]
        wanted = noisy_linear_imputation(images[n].numpy(), where, noise=0)
        np.testing.assert_allclose(found[n], wanted, atol=2e-4)
    usual = impute(images, gone, [0, 1, 2], noise=0).numpy()
    assert np.abs(usual - found).max() < 0.01, "less than the noise that is added"
    assert (found[~gone.numpy()[:, None].repeat(3, 1)] ==
            images.numpy()[~gone.numpy()[:, None].repeat(3, 1)]).all()  # fmt: skip


def test_noise_is_each_images_own() -> None:
    images, gone = torch.zeros(2, 3, 16, 16), torch.ones(2, 16, 16, dtype=torch.bool)
    gone[:, 0] = False
    both = impute(images, gone, [5, 6])
    assert torch.equal(both[1:], impute(images[1:], gone[1:], [6]))
    assert 0.005 < both[:, :, 1:].std() < 0.015


@torch.no_grad()
def test_road_is_quantus_road() -> None:
    network, images, classes, maps = grey()
    metric = quantus.ROAD(percentages=[10, 50, 90], noise=0, normalise=False, disable_warnings=True)
    wanted = quantus_of(metric, network, images, classes, maps)
    assert isinstance(wanted, dict)
    order = order_by_importance(maps, range(6))
    kept, probability = measure_road(
        network, images, classes, order, range(6), RoadSettings(shares=(0.1, 0.5, 0.9), noise=0)
    )
    np.testing.assert_allclose(kept.mean(0), [wanted[p] for p in (10, 50, 90)], atol=1e-6)
    assert 0 < kept.mean() < 1, "a test that tells nothing"
    assert ((probability >= 0) & (probability <= 1)).all()


def test_area_is_that_of_rises_code() -> None:
    curves = torch.rand(4, 9)
    wanted = (curves.sum(1) - curves[:, 0] / 2 - curves[:, -1] / 2) / 8
    torch.testing.assert_close(compute_area(curves), wanted)
    torch.testing.assert_close(compute_area(torch.ones(2, 5)), torch.ones(2))


def test_drop_and_increase_by_hand() -> None:
    """The class is the mean brightness: half of the image is half of the score."""
    images = torch.ones(2, 3, 4, 4)
    maps = torch.zeros(2, 4, 4)
    maps[:, :2] = 2
    score: Callable[[Tensor], Tensor] = lambda some: some.mean((1, 2, 3)) * 0.8  # noqa: E731
    drop, increase = measure_drop_and_increase(score, torch.tensor([0.8, 0.1]), images, maps)
    torch.testing.assert_close(drop, torch.tensor([0.5, 0.0]))
    assert increase.tolist() == [0, 1]


def test_blur_keeps_what_is_flat_and_the_mean() -> None:
    flat = torch.full((1, 3, 20, 30), 0.7)
    torch.testing.assert_close(blur(flat), flat)
    noise = torch.randn(1, 3, 64, 48)
    assert blur(noise).std() < 0.2 * noise.std()


def test_a_map_of_what_counts_beats_its_opposite() -> None:
    """Only one corner of the image matters to this classifier: everything is known beforehand."""

    def logits(some: Tensor) -> Tensor:
        corner = some[:, :, :8, :8].mean((1, 2, 3))
        return torch.stack([4 * corner, torch.full_like(corner, 1.0)], 1)

    images = torch.ones(2, 3, 32, 24)
    right = torch.zeros(2, 32, 24)
    right[:, :8, :8] = 1
    classes = torch.zeros(2, dtype=torch.long)
    good = measure_faithfulness(logits, images, classes, right, [0, 1], 12)
    bad = measure_faithfulness(logits, images, classes, -right, [0, 1], 12)
    assert (good["deletion"] < bad["deletion"] - 0.3).all()
    assert (good["average_drop"] < 1e-6).all()
    assert (bad["average_drop"] > 0.5).all()
    assert good["deletion_curve"].shape == (2, 13)
    torch.testing.assert_close(good["deletion_curve"][:, 0], good["score"])
    torch.testing.assert_close(good["insertion_curve"][:, -1], good["score"])
