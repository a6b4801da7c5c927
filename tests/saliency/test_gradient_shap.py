"""Gradient SHAP: captum's numbers for the same draws, and what it tends to."""

from typing import Any

import numpy as np
import pytest
import torch
from captum.attr import GradientShap
from captum.attr._core.gradient_shap import InputBaselineXGradient

from pipeline.errors import UserError
from pipeline.saliency.gradient_shap import GradientSHAP
from pipeline.saliency.integrated import IntegratedGradients, build_baseline
from tests.saliency.networks import SIDE, build_network
from tests.saliency.test_relu_rules import Logits, classes, picture, same

COLOURS = ((-2.0, 0.5, 1.0), (0.3, 0.3, 0.3))


@pytest.mark.parametrize("kind", ["plain", "squeeze_excitation", "transformer"])
@pytest.mark.parametrize("baselines", ["normal", "mean", "image_mean", COLOURS])
def test_each_draw_is_captum_s(baselines: Any, kind: str, monkeypatch: Any) -> None:
    net, x = build_network(kind), picture(2, 3, SIDE, SIDE)
    method = GradientSHAP(5, 0.2, baselines)
    explanation = method(net, x, classes(2, 0))
    for column, label in enumerate((2, 0)):
        total = torch.zeros_like(x)
        for copies, start, position in method.draw(x):
            monkeypatch.setattr(
                np.random, "uniform", lambda low, high, size, a=position: np.full(size, a)
            )
            peer = InputBaselineXGradient(Logits(net))
            total += peer.attribute(copies.clone(), start.clone(), target=label).detach()
        same(explanation.colour[:, column], total / 5, 1e-5)
        same(explanation.maps[:, column], total.sum(1) / 5, 1e-5)


def test_it_is_captum_s_as_a_whole(monkeypatch: Any) -> None:
    net, x = build_network("residual"), picture(2, 3, SIDE, SIDE)
    method = GradientSHAP(6, baselines=((-2.0, 0.5, 1.0),))
    positions = [position for _, _, position in method.draw(x)]
    monkeypatch.setattr(np.random, "uniform", lambda low, high, size: np.tile(positions, 2))
    start = build_baseline(x, (-2.0, 0.5, 1.0)).expand(1, 3, SIDE, SIDE).contiguous()
    wanted = GradientShap(Logits(net)).attribute(x.clone(), start, n_samples=6, target=1)
    same(method(net, x, classes(1)).colour[:, 0], wanted.detach(), 1e-5)


def test_with_one_baseline_it_tends_to_integrated_gradients() -> None:
    net, x = build_network("concatenation"), picture(1, 3, SIDE, SIDE)
    wanted = IntegratedGradients(64, baseline=(-2.0, 0.5, 1.0))(net, x, classes(1)).colour
    off = [
        (GradientSHAP(n, baselines=((-2.0, 0.5, 1.0),))(net, x, classes(1)).colour - wanted).norm()
        for n in (4, 256)
    ]
    assert off[1] < 0.1 * wanted.norm()
    assert off[1] < 0.5 * off[0]


def test_completeness_in_expectation() -> None:
    net, x = build_network("plain"), picture(2, 3, SIDE, SIDE)
    method = GradientSHAP(256)
    explanation = method(net, x, classes(1))
    with torch.no_grad():
        starts = torch.cat([start[:1] for _, start, _ in method.draw(x)])
        wanted = explanation.logits[:, 1] - net(starts).logits[:, 1].mean()
    sums = explanation.maps.sum((2, 3))[:, 0]
    assert (sums - wanted).abs().max() < 0.05 * wanted.abs().max() + 0.02


def test_draws_are_what_was_asked_for() -> None:
    x = picture(2, 3, 48, 48)
    draws = list(GradientSHAP(40, 0.3).draw(x))
    noise = torch.stack([copies - x for copies, _, _ in draws])
    assert float(noise.std()) == pytest.approx(0.3, rel=0.02)
    assert torch.allclose(noise[:, 0], noise[:, 1], atol=1e-6)  # the same for all images
    starts = torch.stack([start for _, start, _ in draws])
    assert float(starts.std()) == pytest.approx(1, rel=0.02)
    positions = np.array([position for _, _, position in draws])
    assert positions.mean() == pytest.approx(0.5, abs=0.15)
    assert 0 <= positions.min() < positions.max() <= 1
    coloured = GradientSHAP(40, baselines=COLOURS)
    assert len({tuple(start[0, :, 0, 0].tolist()) for _, start, _ in coloured.draw(x)}) == 2
    other = next(iter(GradientSHAP(seed=1).draw(x)))
    assert other[2] != draws[0][2]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GradientSHAP(samples=0), "saliency.samples=0: expected at least 1"),
        (lambda: GradientSHAP(noise=-1.0), "saliency.noise=-1.0: expected 0 or more"),
        (lambda: GradientSHAP(baselines=()), "saliency.baselines=.*expected one or more colours"),
        (lambda: GradientSHAP(baselines=((1.0,),)), "expected one or more colours"),  # type: ignore[arg-type]
    ],
)
def test_wrong_arguments_are_refused(make: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()
