"""Extremal perturbation: its parts against their definitions, and what a mask must do."""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from pipeline.errors import UserError
from pipeline.saliency.extremal_perturbation import ExtremalPerturbation, measure_area
from pipeline.types import NetworkOutput
from tests.saliency.cam_peers import NETWORKS, check_contract, pictures
from tests.saliency.networks import build_network

SPOTS = [(slice(9, 25), slice(28, 42)), (slice(30, 45), slice(4, 19))]
SIDE = 48


class Spots(torch.nn.Module):
    """A network of two classes, each of which reads the contrast in a rectangle of its own."""

    classes = ("upper", "lower")

    def forward(self, images, at=()):
        with torch.set_grad_enabled("input" in at):
            shown = images.detach().requires_grad_() if "input" in at else images
            parts = [shown[:, :, rows, columns] for rows, columns in SPOTS]
            logits = torch.stack([10 * part.square().mean((1, 2, 3)) for part in parts], 1)
        return NetworkOutput(logits, {"input": shown} if "input" in at else {})


def draw_image(size=(SIDE, SIDE)):
    """Draw noise of the mean 0, of which a blurred image keeps little."""
    return torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))


def both(logits):
    return torch.tensor([[0, 1]]).expand(len(logits), -1)


@pytest.mark.parametrize(("size", "cells", "sigma"), [((20, 28), 5, 1.0), ((17, 17), 4, 0.7)])
def test_masks_are_the_smooth_maximum(size, cells, sigma):
    method = ExtremalPerturbation(cells=cells, sigma=sigma)
    start, smooth = method.build_mask(size, torch.device("cpu"))
    assert (start == 1).all()
    values = torch.rand(start.shape, generator=torch.Generator().manual_seed(1))
    step = round(min(size) / cells)
    reach = math.ceil(1.5 * sigma)
    p = values[0].double().numpy()
    rows, columns = (math.ceil(side / step) for side in size)
    assert p.shape == (rows + 2 * reach, columns + 2 * reach)
    points = np.zeros((2 * rows, 2 * columns))
    for y in range(2 * rows):
        for x in range(2 * columns):
            # In cells, from the middle of the first cell of the image.
            place = np.array([y, x]) / 2 - 0.25
            marks = []
            for row in range(y // 2 - reach, y // 2 + reach + 1):
                for column in range(x // 2 - reach, x // 2 + reach + 1):
                    z = np.hypot(*(place - [row, column])) / sigma
                    if z <= 1.5:
                        k = math.exp(-2 * max(0, z - 0.5) ** 2)
                        marks.append(k * p[row + reach, column + reach])
            near = np.array(marks)
            weights = np.exp(20 * near)
            points[y, x] = (near * weights).sum() / weights.sum()
    wanted = cv2.resize(points, (columns * step, rows * step), interpolation=cv2.INTER_LINEAR)
    ours = smooth(values)[0].numpy()
    assert ours.shape == size
    np.testing.assert_allclose(ours, wanted[: size[0], : size[1]], rtol=0, atol=1e-5)


def test_the_area_is_that_of_the_sorted_mask():
    masks = np.random.default_rng(0).random((2, 9, 11))
    areas = np.array([0.1, 0.45])
    ours = measure_area(torch.from_numpy(masks), torch.from_numpy(areas))
    for mask, area, value in zip(masks, areas, ours.tolist(), strict=True):
        wanted = np.zeros(99)
        wanted[99 - round(99 * area) :] = 1
        assert value == pytest.approx(np.mean((np.sort(mask.ravel()) - wanted) ** 2))
    exact = torch.zeros(1, 10, 10)
    exact[0, 3:5, 2:7] = 1
    assert measure_area(exact, torch.tensor([0.1])) == 0


def test_where_the_mask_is_low_the_image_is_blurred():
    image = draw_image((24, 30))
    perturb = ExtremalPerturbation(blur=0.1).perturb(image)
    torch.testing.assert_close(perturb(torch.ones(1, 24, 30)), image)
    for level in (0.0, 2 / 7):
        wanted = [
            gaussian_filter(channel.double().numpy(), 2.4 * (1 - level), mode="nearest",
                            radius=math.ceil(3 * 2.4 * (1 - level)))
            for channel in image[0]
        ]  # fmt: skip
        ours = perturb(torch.full((1, 24, 30), level))[0].numpy()
        np.testing.assert_allclose(ours, wanted, rtol=0, atol=1e-5)
    between = perturb(torch.full((1, 24, 30), 0.25 / 7))
    neighbours = [perturb(torch.full((1, 24, 30), level)) for level in (0.0, 1 / 7)]
    torch.testing.assert_close(between, 0.75 * neighbours[0] + 0.25 * neighbours[1],
                               rtol=0, atol=1e-5)  # fmt: skip
    faded = ExtremalPerturbation(perturbation="fade").perturb(image)(torch.full((1, 24, 30), 0.3))
    torch.testing.assert_close(faded, 0.3 * image)


@pytest.mark.parametrize("variant", ["preserve", "delete"])
def test_steps_are_those_of_torchs_optimizer(variant):
    net, image = build_network("residual"), draw_image((32, 32))
    options: dict[str, Any] = {"areas": (0.2,), "variant": variant, "cells": 8, "sigma": 1.0}
    method = ExtremalPerturbation(steps=6, **options)
    ours = method(net, image, lambda logits: torch.tensor([[1]])).maps[0, 0]
    start, smooth = method.build_mask((32, 32), torch.device("cpu"))
    perturb = method.perturb(image)
    values = start.clone().requires_grad_()
    optimizer = torch.optim.SGD([values], 0.01, momentum=0.9, dampening=0.9)
    network: Any = torch.nn.Sequential(net.body, net.head)
    for step in range(6):
        mask = smooth(values)
        kept = mask if variant == "preserve" else 1 - mask
        score = network(perturb(kept))[0, 1] * (1 if variant == "preserve" else -1)
        loss = 300 * 1.0035**step * measure_area(mask, torch.tensor([0.2])).sum() - score
        optimizer.zero_grad()
        loss.backward()
        if step == 0:  # torch does not damp the first step
            assert values.grad is not None
            values.grad *= 0.1
        optimizer.step()
        with torch.no_grad():
            values.clamp_(0, 1)
    assert (values != start).any()
    torch.testing.assert_close(ours, smooth(values)[0].detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [{}, {"perturbation": "fade"}, {"variant": "delete"}],
    ids=["preserve", "fade", "delete"],
)
def test_finds_what_a_class_reads_with_a_mask_of_its_area(options):
    net: Any = Spots()
    image = draw_image()
    method = ExtremalPerturbation(steps=350, cells=16, sigma=1.5, blur=0.15, **options)
    masks = method(net, image, both).maps[0]
    for label, mask in enumerate(masks):
        rows, columns = SPOTS[label]
        assert mask.min() >= 0
        assert mask.max() <= 1
        assert mask.mean() == pytest.approx(0.1, abs=0.06)
        assert (mask > 0.5).float().mean() == pytest.approx(0.1, abs=0.035)
        assert mask[rows, columns].mean() > 0.5
        inside = (mask > 0.5)[rows, columns].sum() / (mask > 0.5).sum()
        assert inside > 0.5  # a mask anywhere: 0.1
    assert_better_than_elsewhere(net, method, image, masks)


def assert_better_than_elsewhere(net, method, image, masks):
    """Check that the same mask at other places keeps (or deletes) less of the score."""
    perturb = method.perturb(image)
    sign = 1 if method.variant == "preserve" else -1
    random = np.random.default_rng(0)

    def score(mask, label):
        kept = mask if method.variant == "preserve" else 1 - mask
        return sign * float(net(perturb(kept[None])).logits[0, label])

    whole = net(image).logits[0]
    nothing = net(perturb(torch.zeros(1, SIDE, SIDE))).logits[0]
    for label, mask in enumerate(masks):
        reached = score(mask, label)
        for _ in range(20):
            shifts = tuple(random.integers(8, SIDE - 8, 2).tolist())
            assert reached > score(torch.roll(mask, shifts, (0, 1)), label)
        kept = (sign * reached - nothing[label]) / (whole[label] - nothing[label])
        assert kept > 0.45 if sign > 0 else kept < 0.45


def test_masks_of_several_areas_are_averaged():
    net: Any = Spots()
    options: dict[str, Any] = {"steps": 5, "cells": 12, "sigma": 1.0}
    several = ExtremalPerturbation((0.05, 0.3), batch=3, **options)(net, draw_image(), both).maps
    single = [
        ExtremalPerturbation((area,), **options)(net, draw_image(), both).maps
        for area in (0.05, 0.3)
    ]
    torch.testing.assert_close(several, torch.stack(single).mean(0))


@pytest.mark.parametrize("kind", NETWORKS)
def test_contract(kind):
    net = NETWORKS[kind]()
    method = ExtremalPerturbation(steps=3, cells=8, sigma=1.0, batch=4)
    check_contract(method, net, pictures(net), tolerance=1e-4)


def test_wrong_arguments():
    cases: list[tuple[dict[str, Any], str]] = [
        ({"steps": 0}, "saliency.steps=0"),
        ({"cells": 0}, "saliency.cells=0"),
        ({"batch": 0}, "saliency.batch=0"),
        ({"blur": 0.0}, "saliency.blur=0"),
        ({"sigma": -1.0}, "saliency.sigma=-1"),
        ({"areas": ()}, r"saliency.areas=\[\]"),
        ({"areas": (0.1, 1.0)}, r"saliency.areas=\[0.1, 1.0\]"),
    ]
    for arguments, message in cases:
        with pytest.raises(UserError, match=message):
            ExtremalPerturbation(**arguments)
