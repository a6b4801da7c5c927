"""Likeness of maps against SciPy, scikit-image and Quantus."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from quantus.functions.similarity_func import correlation_spearman
from scipy.stats import spearmanr
from skimage.metrics import structural_similarity

from pipeline.audit.likeness import (
    compare_top_k,
    normalize_min_max,
    order_by_importance,
    rank_correlation,
    ssim,
)


@pytest.mark.parametrize("levels", [0, 4])
def test_rank_correlation_is_scipys_and_quantus(levels: int) -> None:
    """Also where many cells are equal, as those that a ReLU shut."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 3, 9, 13)).astype(np.float32)
    b += a
    if levels:
        a, b = np.round(a * levels).clip(0), np.round(b * levels).clip(0)
    found = rank_correlation(torch.from_numpy(a), torch.from_numpy(b)).numpy()
    flat = a.reshape(3, -1), b.reshape(3, -1)
    np.testing.assert_allclose(found, [spearmanr(x, y)[0] for x, y in zip(*flat, strict=True)])
    np.testing.assert_allclose(found, correlation_spearman(*flat, batched=True), atol=1e-12)


def test_a_map_without_differences_is_like_no_other() -> None:
    flat, other = torch.zeros(1, 5, 5), torch.rand(1, 5, 5)
    assert rank_correlation(flat, other).item() == 0
    assert torch.isfinite(ssim(flat, other)).all()


@pytest.mark.parametrize("size", [(24, 40), (7, 9)])
def test_ssim_is_scikit_images(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    a = rng.random((2, *size)).astype(np.float32)
    b = (a + 0.4 * rng.random((2, *size))).astype(np.float32)
    scaled = [normalize_min_max(torch.from_numpy(one)).numpy() for one in (a, b)]
    wanted = [structural_similarity(x.astype(float), y.astype(float), data_range=1.0)
              for x, y in zip(*scaled, strict=True)]  # fmt: skip
    found = ssim(torch.from_numpy(a), torch.from_numpy(b)).numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_importance_and_top_k_by_hand() -> None:
    a = torch.tensor([[[3.0, 1.0], [2.0, 0.0]]])
    b = torch.tensor([[[0.0, 1.0], [2.0, 3.0]]])
    first, second = order_by_importance(a, [0]), order_by_importance(b, [0])
    assert first.tolist() == [[0, 2, 1, 3]]
    assert [compare_top_k(first, second, k).item() for k in (1, 2, 4)] == [0, 0.5, 1]


def test_equals_come_in_an_order_of_the_images_own() -> None:
    flat = torch.zeros(2, 30, 30)
    one, other = order_by_importance(flat, [1, 2])
    assert not torch.equal(one, other)
    assert not torch.equal(one.sort().values, one)
    assert torch.equal(order_by_importance(flat[:1], [2])[0], other)


def test_values_that_are_not_finite_count_as_the_lowest() -> None:
    maps = torch.tensor([[[float("nan"), 1.0], [3.0, -float("inf")]]])
    assert normalize_min_max(maps).flatten().tolist() == [0, 0, 1, 0]
