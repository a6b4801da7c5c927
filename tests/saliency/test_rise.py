"""RISE equals its definition, written here with OpenCV's scaling; masks are the seed's alone."""

from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from pipeline.errors import UserError
from pipeline.model.classifier import Classifier, MeanLinear
from pipeline.ops.probabilities import HasProbabilities
from pipeline.saliency.rise import RISE


def top(count):
    return lambda logits: logits.topk(count, dim=1).indices


def network():
    torch.manual_seed(0)
    body = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU()
    )  # fmt: skip
    net = Classifier(body, MeanLinear(8, 6), "abcdef").eval().requires_grad_(False)
    net.head.linear.weight.mul_(8)
    return net


def build_masks(seed, count, cells, probability, height, width):
    """Build masks as section 3.2 of the paper: cells scaled up to one more, cropped at random."""
    random = np.random.default_rng(seed)
    opened = random.random((count, cells, cells)) < probability
    shifts = random.random((count, 2))
    cell_height, cell_width = -(-height // cells), -(-width // cells)
    masks = np.empty((count, height, width))
    for n in range(count):
        large = cv2.resize(
            opened[n].astype(np.float64),
            ((cells + 1) * cell_width, (cells + 1) * cell_height),
            interpolation=cv2.INTER_LINEAR,
        )
        y, x = int(shifts[n, 0] * cell_height), int(shifts[n, 1] * cell_width)
        masks[n] = large[y : y + height, x : x + width]
    return masks


@pytest.mark.parametrize(
    ("count", "cells", "probability", "size"),
    [(50, 7, 0.5, (42, 56)), (33, 4, 0.3, (30, 45)), (5, 1, 1.0, (16, 24)), (20, 8, 0.7, (17, 9))],
)
def test_equals_the_definition(count, cells, probability, size):
    net, x = network(), torch.randn(2, 3, *size)
    explanation = RISE(count, cells, probability, seed=3, batch=8)(net, x, top(3))
    masks = build_masks(3, count, cells, probability, *size)
    assert explanation.maps.shape == (2, 3, *size)
    for n in range(2):
        masked = (x[n].double().numpy()[None] * masks[:, None]).astype(np.float32)
        logits = net(torch.from_numpy(masked)).logits.double().numpy()
        shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        wanted = np.einsum("nc,nhw->chw", shares, masks) / (count * probability)
        wanted = wanted[explanation.classes[n].numpy()]
        np.testing.assert_allclose(explanation.maps[n].numpy(), wanted, rtol=1e-5, atol=1e-5)


def test_finds_the_only_thing_that_counts():
    """Check a score that reads a corner only: with enough masks the map is largest there."""

    class Corner(HasProbabilities, nn.Module):
        classes = ("seen", "not")

        def forward(self, images, at=()):
            from pipeline.types import NetworkOutput

            seen = 4 * images[:, :, :14, :14].mean((1, 2, 3)) - 2
            return NetworkOutput(torch.stack((seen, -seen), 1))

    corner: Any = Corner()
    explanation = RISE(2000)(
        corner, torch.ones(1, 3, 56, 70), lambda logits: torch.tensor([[0, 1]])
    )
    maps = explanation.maps[0]
    assert maps[0, 2:12, 2:12].mean() > 1.2 * maps[0, 28:].mean()
    assert maps[1, 2:12, 2:12].mean() < 0.8 * maps[1, 28:].mean()
    # P(0) + P(1) = 1, so both maps add up to the mean of the masks over p: 1 but for chance.
    torch.testing.assert_close(maps.sum(0), torch.ones(56, 70), rtol=0, atol=0.1)


def test_the_same_masks_for_each_image_whatever_the_batch():
    net, x = network(), torch.randn(4, 3, 42, 56)
    together = RISE(20, batch=16)(net, x, top(2))
    for n in range(4):
        alone = RISE(20, batch=3)(net, x[n : n + 1], top(2))
        torch.testing.assert_close(alone.maps[0], together.maps[n], rtol=1e-5, atol=1e-6)
    same = RISE(20)(net, torch.cat((x[:1], x[:1])), top(2)).maps
    assert torch.equal(same[0], same[1])
    other = RISE(20, seed=1)(net, x[:1], top(2))
    assert not torch.allclose(other.maps[0], together.maps[0], rtol=1e-2)


def test_random_numbers_of_others_are_left_alone():
    net, x = network(), torch.randn(1, 3, 42, 56)
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    RISE(8)(net, x, top(1))
    assert torch.equal(torch.rand(3), wanted)


def test_passes_are_few_and_serve_all_classes():
    net = network()
    sizes = []
    net.body.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    RISE(25, batch=10)(net, torch.randn(2, 3, 42, 56), top(6))
    assert sizes == [2, 10, 10, 10, 10, 5, 5]


def test_bf16_gives_float32_maps():
    net, x = network(), torch.randn(1, 3, 42, 56)
    exact = RISE(100)(net, x, top(2))
    with torch.autocast("cpu", torch.bfloat16):
        explanation = RISE(100)(net, x, lambda logits: exact.classes)
    assert explanation.maps.dtype == torch.float32
    torch.testing.assert_close(explanation.maps, exact.maps, rtol=0.02, atol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"masks": 0}, "saliency.masks=0"),
        ({"cells": 0}, "saliency.cells=0"),
        ({"probability": 0.0}, "saliency.probability=0.0"),
        ({"probability": 1.5}, "saliency.probability=1.5"),
        ({"seed": -1}, "saliency.seed=-1"),
        ({"batch": 0}, "saliency.batch=0"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(UserError, match=message):
        RISE(**arguments)
