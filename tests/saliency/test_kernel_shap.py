"""KernelSHAP equals Shapley values by enumeration, and captum's KernelShap in expectation."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from captum.attr import KernelShap

from pipeline.engine.choices import instantiate, read_choice
from pipeline.errors import UserError
from pipeline.saliency.kernel_shap import KernelSHAP
from pipeline.saliency.superpixels import segment_superpixels
from tests.saliency.networks import KINDS, SIDE, build_network

CHOSEN = [2, 0]


def choose(logits):
    return torch.tensor(CHOSEN).expand(len(logits), -1)


def draw_images(count=2):
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(4))


def enumerate_shapley(net, image, labels, cover):
    """Compute Shapley values [d, t] from their definition, the mean over all orders."""
    count = labels.max() + 1
    players = range(count)
    scores = {}
    for size in range(count + 1):
        for kept in combinations(players, size):
            shown = torch.from_numpy(np.isin(labels, kept))
            logits = net(torch.where(shown, image, cover)[None]).logits
            scores[kept] = logits[0, CHOSEN].double().numpy()
    values = np.zeros((count, len(CHOSEN)))
    for player in players:
        for size in range(count):
            for kept in combinations([other for other in players if other != player], size):
                share = math.factorial(size) * math.factorial(count - size - 1)
                gain = scores[tuple(sorted((*kept, player)))] - scores[kept]
                values[player] += share / math.factorial(count) * gain
    return values


@pytest.mark.parametrize("kind", KINDS)
def test_equals_shapley_values_where_all_coalitions_are_used(kind):
    net, images = build_network(kind), draw_images()
    maps = KernelSHAP(samples=62, segments=6, value=0.2)(net, images, choose).maps
    for image, ours in zip(images, maps, strict=True):
        labels = segment_superpixels(image, "slic", 6, 1.0)
        assert 3 <= labels.max() + 1 <= 6
        values = enumerate_shapley(net, image, labels, torch.tensor(0.2))
        np.testing.assert_allclose(ours.numpy(), values.T[:, labels], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", ["plain", "connected_head"])
def test_equals_captum_on_the_same_coalitions(kind):
    net, image = build_network(kind), draw_images(1)
    method = KernelSHAP(samples=100, superpixels="grid", segments=16)
    ours = method(net, image, choose).maps[0]
    labels = torch.from_numpy(segment_superpixels(image[0], "grid", 16, 1.0))
    kept = torch.from_numpy(method.draw(16)).float()

    def give_coalitions(original, **kwargs):
        yield torch.ones(1, 16)
        yield torch.zeros(1, 16)
        yield from kept[:, None]

    peer = KernelShap(lambda x: net(x).logits)
    peer.perturb_func = give_coalitions
    for n, label in enumerate(CHOSEN):
        wanted = peer.attribute(image, target=label, feature_mask=labels[None, None],
                                n_samples=102, perturbations_per_eval=17)[0, 0]  # fmt: skip
        # The peer's constraint is a large weight, in float32.
        torch.testing.assert_close(ours[n], wanted, rtol=0, atol=0.005 * float(wanted.abs().max()))


def test_is_captums_in_expectation():
    net, image = build_network("connected_head"), draw_images(1)
    exact = KernelSHAP(samples=600, superpixels="grid", segments=9)(net, image, choose).maps[0, 0]
    labels = torch.from_numpy(segment_superpixels(image[0], "grid", 9, 1.0))
    torch.manual_seed(0)
    peer = KernelShap(lambda x: net(x).logits).attribute(
        image, target=CHOSEN[0], feature_mask=labels[None, None], n_samples=3000,
        perturbations_per_eval=100)[0, 0]  # fmt: skip
    sampled = KernelSHAP(samples=200, superpixels="grid", segments=9)(net, image, choose).maps[0, 0]
    peak = float(exact.abs().max())
    assert (peer - exact).abs().max() < 0.05 * peak
    assert (sampled - exact).abs().max() < 0.1 * peak


def test_sampling_comes_closer_with_more_samples_and_always_adds_up():
    net, image = build_network("connected_head"), draw_images(1)
    whole = net(image).logits[0, CHOSEN]
    empty = net(torch.zeros_like(image)).logits[0, CHOSEN]
    exact = KernelSHAP(2**12, "grid", 12)(net, image, choose).maps[0]
    errors = []
    for samples in (30, 120, 1200):
        maps = KernelSHAP(samples, "grid", 12)(net, image, choose).maps[0]
        errors.append(float((maps - exact).abs().max()))
        total = segment_sums(maps, segment_superpixels(image[0], "grid", 12, 1.0))
        torch.testing.assert_close(total, whole - empty, rtol=1e-4, atol=1e-5)
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.03 * float(exact.abs().max())


def segment_sums(maps, labels):
    """Add up a map's values, each superpixel counted once."""
    firsts = [int(np.flatnonzero(labels == n)[0]) for n in range(labels.max() + 1)]
    return maps.flatten(1)[:, firsts].sum(1)


def test_sizes_are_those_of_the_shapley_kernel():
    coalitions = KernelSHAP(samples=20_000).draw(20)
    sizes = np.arange(1, 20)
    wanted = 1 / (sizes * (20 - sizes))
    counts = np.bincount(coalitions.sum(1), minlength=20)[1:]
    np.testing.assert_allclose(counts / counts.sum(), wanted / wanted.sum(), atol=2e-3)
    # All superpixels alike, each coalition beside its complement.
    np.testing.assert_allclose(coalitions.mean(0), 0.5, atol=1e-9)
    pairs = coalitions[coalitions.sum(1) == 1].sum(0) / (coalitions.sum(1) == 1).sum()
    np.testing.assert_allclose(pairs, 1 / 20, atol=0.015)
    assert np.array_equal(coalitions[::2], ~coalitions[1::2])


def test_a_single_superpixel_and_an_odd_number_of_samples():
    net, image = build_network("plain"), draw_images(1)
    maps = KernelSHAP(samples=7, segments=1)(net, image, choose).maps[0]
    wanted = (net(image).logits - net(torch.zeros_like(image)).logits)[0, CHOSEN]
    torch.testing.assert_close(maps.mean((1, 2)), wanted, rtol=1e-4, atol=1e-5)
    assert KernelSHAP(samples=7).draw(16).shape == (7, 16)


def test_a_part_that_no_score_reads_has_no_value():
    """Check a score that reads a corner only: cells elsewhere get 0, exactly."""
    net, image = build_network("plain"), draw_images(1)

    class Corner(torch.nn.Module):
        classes = net.classes

        def forward(self, images, at=()):
            return net(images[:, :, :16, :16])

    maps = KernelSHAP(100, "grid", 4)(Corner(), image, choose).maps[0]  # type: ignore[arg-type]
    assert maps[:, :16, :16].abs().min() > 1e-3
    assert maps[:, 16:].abs().max() < 1e-6
    assert maps[:, :, 16:].abs().max() < 1e-6


def test_wrong_arguments():
    with pytest.raises(UserError, match=r"saliency.samples=0"):
        KernelSHAP(samples=0)
    node = read_choice("saliency", "kernel_shap")
    # The annotation of an inherited option names what the module of the base class imports.
    built = instantiate("saliency", {**node, "superpixels": "grid", "batch": "4"})
    assert built == KernelSHAP(superpixels="grid", batch=4)
    with pytest.raises(UserError, match=r"saliency.superpixels=hexagons: .*'slic' or 'grid'"):
        instantiate("saliency", {**node, "superpixels": "hexagons"})
