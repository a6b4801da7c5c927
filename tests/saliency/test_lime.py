"""LIME equals its definition, captum's Lime on the same samples, and scikit-learn's regressions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from captum._utils.models.linear_model import SkLearnLasso, SkLearnRidge
from captum.attr import Lime as CaptumLime

from pipeline.errors import UserError
from pipeline.saliency.lime import LIME
from pipeline.saliency.superpixels import segment_superpixels
from tests.saliency.networks import KINDS, SIDE, build_network

CHOSEN = [2, 0]


def choose(logits):
    return torch.tensor(CHOSEN).expand(len(logits), -1)


def draw_images(count=2):
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(4))


def score_coalitions(net, image, labels, kept, cover):
    """Compute the probabilities of the images whose superpixels are covered by a colour."""
    covered = [np.where(row[labels], image.numpy(), cover) for row in kept]
    logits = net(torch.from_numpy(np.stack(covered).astype(np.float32))).logits.double().numpy()
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return shares[:, CHOSEN]


def average_segments(image, labels):
    means = [image.numpy()[:, labels == n].mean(1) for n in range(labels.max() + 1)]
    return np.stack(means, 1)[:, labels]


@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_definition(kind):
    net, images = build_network(kind), draw_images()
    method = LIME(samples=60, segments=8, strength=0.03, width=0.4, seed=2, batch=7)
    maps = method(net, images, choose).maps
    for image, ours in zip(images, maps, strict=True):
        labels = segment_superpixels(image, "slic", 8, 1.0)
        count = labels.max() + 1
        kept = np.random.default_rng(2).random((60, count)) < 0.5
        kept[0] = True
        scores = score_coalitions(net, image, labels, kept, average_segments(image, labels))
        cosine = kept.sum(1) / np.maximum(1e-9, np.sqrt(kept.sum(1)) * np.sqrt(count))
        share = np.exp(-((1 - cosine) ** 2) / (2 * 0.4**2))
        # Ridge as least squares with a row for each weight, none for the constant.
        root = np.sqrt(share / share.sum())[:, None]
        design = np.concatenate([kept, np.ones((60, 1))], 1) * root
        penalty = np.sqrt(0.03) * np.eye(count, count + 1)
        sides = np.concatenate([scores * root, np.zeros((count, 2))])
        solution = np.linalg.lstsq(np.concatenate([design, penalty]), sides)[0]
        wanted = solution[:-1].T[:, labels]
        np.testing.assert_allclose(ours.numpy(), wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("penalty", "strength"), [("ridge", 0.01), ("lasso", 0.002)])
@pytest.mark.parametrize("kind", ["residual", "connected_head", "transformer"])
def test_equals_captum_on_the_same_samples(kind, penalty, strength):
    net, image = build_network(kind), draw_images(1)
    options: dict[str, Any] = {"samples": 80, "superpixels": "grid", "segments": 9, "value": 0.3}
    method = LIME(**options, penalty=penalty, strength=strength, width=0.5, score="logit")
    labels = segment_superpixels(image[0], "grid", 9, 1.0)
    kept = torch.from_numpy(method.draw(9))
    distance = 1 - kept.double().mean(1).sqrt()
    total = float((-(distance**2) / (2 * 0.5**2)).exp().sum())

    def give_samples(original, **kwargs):
        yield from kept[:, None].float()

    def compute_similarity(original, perturbed, sample, **kwargs):
        near = torch.nn.functional.cosine_similarity(sample, torch.ones_like(sample)).double()
        return (-((1 - near) ** 2) / (2 * 0.5**2)).exp()

    model = (
        SkLearnRidge(alpha=strength * total, solver="cholesky")
        if penalty == "ridge"
        else SkLearnLasso(alpha=strength, tol=1e-6)
    )
    peer = CaptumLime(lambda x: net(x).logits, model, compute_similarity, give_samples)
    ours = method(net, image, choose).maps[0]
    for n, label in enumerate(CHOSEN):
        wanted = peer.attribute(
            image, baselines=0.3, target=label, feature_mask=torch.from_numpy(labels)[None, None],
            n_samples=80, perturbations_per_eval=10,
        )[0, 0]  # fmt: skip
        peak = float(wanted.abs().max())
        assert peak > 0
        torch.testing.assert_close(ours[n], wanted, rtol=0, atol=0.002 * peak)
    if penalty == "lasso":
        assert 0 < (ours == 0).float().mean() < 1


def test_a_score_that_is_linear_in_the_superpixels_has_its_weights():
    """Check a score that sums the means of cells: their weight is what covering takes away."""

    class Sum(torch.nn.Module):
        classes = ("sum",)

        def forward(self, images, at=()):
            from pipeline.types import NetworkOutput

            cells = torch.nn.functional.avg_pool2d(images.mean(1, keepdim=True), 8).flatten(1)
            return NetworkOutput((cells * torch.arange(16.0)).sum(1, keepdim=True))

    net: Any = Sum()
    method = LIME(400, "grid", 16, value=0.0, score="logit", strength=1e-9)
    maps = method(net, torch.ones(1, 3, SIDE, SIDE), lambda logits: logits.argmax(1)[:, None]).maps
    wanted = torch.arange(16.0).view(4, 4).repeat_interleave(8, 0).repeat_interleave(8, 1)
    torch.testing.assert_close(maps[0, 0], wanted, rtol=0, atol=1e-4)


def test_an_image_has_the_same_map_in_any_batch_and_the_seed_matters():
    net, images = build_network("plain"), draw_images(3)
    together = LIME(samples=50, segments=9)(net, images, choose).maps
    for n in range(3):
        alone = LIME(samples=50, segments=9, batch=50)(net, images[n : n + 1], choose).maps[0]
        torch.testing.assert_close(alone, together[n], rtol=1e-4, atol=1e-6)
    other = LIME(samples=50, segments=9, seed=1)(net, images, choose).maps
    assert not torch.allclose(other, together, rtol=0.05)


def test_passes_are_few_and_serve_all_classes():
    net, sizes = build_network("plain"), []
    net.body.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    LIME(samples=25, segments=9, batch=10)(net, draw_images(2), lambda logits: logits.topk(3)[1])
    assert sizes == [2, 10, 10, 6, 10, 10, 6]


def test_the_cover_is_a_number_or_the_mean_colour_of_image_or_segment():
    net, image = build_network("plain"), draw_images(1) + 1
    maps = [LIME(60, segments=9, value=value)(net, image, choose).maps
            for value in ("segment", "mean", 0.0)]  # fmt: skip
    assert not torch.allclose(maps[0], maps[1], rtol=0.01)
    assert not torch.allclose(maps[1], maps[2], rtol=0.01)
    constant = torch.full((1, 3, SIDE, SIDE), 0.5)
    for value in ("segment", "mean", 0.5):
        flat = LIME(60, segments=9, value=value)(net, constant, choose).maps
        assert flat.abs().max() < 1e-6  # covering changes nothing


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"samples": 0}, "saliency.samples=0"),
        ({"segments": 0}, "saliency.segments=0"),
        ({"batch": 0}, "saliency.batch=0"),
        ({"compactness": -1.0}, "saliency.compactness=-1"),
        ({"value": float("nan")}, "saliency.value=nan"),
        ({"seed": -1}, "saliency.seed=-1"),
        ({"width": 0.0}, "saliency.width=0"),
        ({"strength": 0.0}, "saliency.strength=0"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(UserError, match=message):
        LIME(**arguments)
