"""Composite scores against pytorch-grad-cam, and against their definitions in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_grad_cam.metrics import arcc
from pytorch_grad_cam.metrics.cam_mult_image import CamMultImageConfidenceChange
from pytorch_grad_cam.metrics.road import NoisyLinearImputer
from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget
from torch import Tensor, nn

from pipeline.audit.composite import (
    ROAD,
    compute_coherency,
    compute_complexity,
    harmonic_mean,
    measure_composite,
)
from pipeline.audit.faithfulness import RoadSettings
from pipeline.audit.likeness import enlarge, normalize_min_max
from pipeline.saliency.gradcam import GradCAM
from tests.audit.networks import small

SIZE = (20, 25)  # 500 pixels: 20, 40, 60 and 80 % are whole numbers


class Logits(nn.Module):
    """The network with classes that differ, and logits alone."""

    def __init__(self, network: nn.Module, images: Tensor) -> None:
        super().__init__()
        self.network = network
        with torch.no_grad():
            self.offset = network(images).logits.mean(0)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        return (self.network(images).logits - self.offset) * 60


@pytest.fixture(name="subject")
def subject_fixture() -> tuple[Logits, Callable[[Tensor], Tensor], Tensor, Tensor]:
    """A network, its Grad-CAM maps of a class of each image, the images and the classes."""
    torch.manual_seed(0)
    images = torch.randn(5, 3, *SIZE)
    network: Any = small()
    logits = Logits(network, images)
    with torch.no_grad():
        classes = logits(images).argmax(1)

    def explain(some: Tensor) -> Tensor:
        maps = GradCAM()(network, some, lambda _: classes[:, None]).maps[:, 0].detach()
        return enlarge(maps, SIZE) + torch.linspace(0, 1e-4, 500).view(SIZE)  # no equal values

    return logits, explain, images, classes


def test_all_numbers_are_pytorch_grad_cams(subject: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    logits, explain, images, classes = subject
    road = RoadSettings(shares=ROAD.shares, noise=0)
    with torch.no_grad():
        ours = measure_composite(logits, explain, images, classes, range(5), road)

    maps = normalize_min_max(explain(images)).numpy()
    targets = [ClassifierOutputSoftmaxTarget(int(label)) for label in classes]
    monkeypatch.setattr(NoisyLinearImputer.__init__, "__defaults__", (0.0, []))

    def base_method(input_tensor: Tensor, targets: Any) -> np.ndarray:
        return normalize_min_max(explain(input_tensor)).numpy()

    inputs = images, maps, targets, logits
    metric = arcc.ARCC(base_method)
    coherency = metric.coherency(*inputs, base_method)
    # Its correlation has 1e-8 in the denominator.
    np.testing.assert_allclose(ours["coherency"], coherency, atol=1e-4)
    np.testing.assert_allclose(ours["complexity"], metric.complexity(maps), atol=1e-6)
    # What ROAD imputes is solved to 1e-4 here, and exactly there.
    removed = (metric.road(*inputs) * 2).clip(0, 1)
    assert removed.max() > 0.05, "a test that tells nothing"
    np.testing.assert_allclose(ours["composite_road"], removed, atol=2e-3)
    np.testing.assert_allclose(ours["arcc"], metric(*inputs), atol=5e-3)
    with torch.no_grad():
        change = CamMultImageConfidenceChange()(*inputs)
        before = logits(images).softmax(1).gather(1, classes[:, None])[:, 0].numpy()
    np.testing.assert_allclose(ours["composite_drop"], np.maximum(-change, 0) / before, atol=1e-5)


def test_adcc_is_its_definition(subject: Any) -> None:
    logits, explain, images, classes = subject
    with torch.no_grad():
        ours = {key: values.numpy() for key, values in
                measure_composite(logits, explain, images, classes, range(5)).items()}  # fmt: skip
        maps = explain(images).numpy().astype(float)
        low, high = maps.min((1, 2), keepdims=True), maps.max((1, 2), keepdims=True)
        marked = (maps - low) / (high - low)
        masked = images * torch.from_numpy(marked[:, None]).float()
        again = explain(masked).numpy()
        before, after = (
            logits(some).softmax(1).numpy()[np.arange(5), classes] for some in (images, masked)
        )
    for n in range(5):
        r = np.corrcoef(maps[n].ravel(), again[n].ravel())[0, 1]
        coherency, complexity = (1 + r) / 2, np.abs(marked[n]).sum() / marked[n].size
        drop = max(0, before[n] - after[n]) / before[n]
        assert ours["coherency"][n] == pytest.approx(coherency, abs=1e-5)
        assert ours["complexity"][n] == pytest.approx(complexity, abs=1e-6)
        assert ours["composite_drop"][n] == pytest.approx(drop, abs=1e-5)
        adcc = 3 / (1 / coherency + 1 / (1 - complexity) + 1 / (1 - drop))
        assert ours["adcc"][n] == pytest.approx(adcc, abs=1e-4)


def test_a_constant_map_has_neither_coherency_nor_a_mean() -> None:
    varied = torch.rand(3, 4, 5)
    constant = torch.full_like(varied, 0.3)
    assert compute_coherency(varied, constant).tolist() == [0, 0, 0]
    assert compute_coherency(constant, varied).tolist() == [0, 0, 0]
    assert compute_coherency(varied * torch.nan, varied).tolist() == [0, 0, 0]
    torch.testing.assert_close(compute_coherency(varied, 3 * varied - 1).float(), torch.ones(3))
    torch.testing.assert_close(compute_coherency(varied, -varied).float(), torch.zeros(3))
    assert compute_complexity(torch.ones(2, 3, 3)).tolist() == [1, 1]


def test_a_harmonic_mean_is_0_where_a_part_is() -> None:
    parts = [torch.tensor([0.5, 0.0, 1.0]), torch.tensor([1.0, 1.0, 1.0])]
    assert harmonic_mean(parts).tolist() == pytest.approx([2 / 3, 0, 1])
