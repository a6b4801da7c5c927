"""What logits mean: classes that exclude each other, a single class, scores of the caller's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pipeline
from tests.api.test_explaining import PREPARED, Network

METHODS = {
    "lime": {"samples": 40, "segments": 6},
    "rise": {"masks": 40},
    "kernel_shap": {"samples": 40, "segments": 6, "score": "probability"},
    "occlusion": {"window": 16, "stride": 16, "score": "probability"},
}


class Single(nn.Module):
    """A binary classifier with a single logit."""

    def __init__(self) -> None:
        super().__init__()
        self.network, self.top = Network(), nn.Linear(4, 1)

    def forward(self, images: Tensor) -> Tensor:
        logit: Tensor = self.top(self.network(images))
        return logit


class Both(nn.Module):
    """The same as two exclusive classes."""

    def __init__(self, single: Single) -> None:
        super().__init__()
        self.single = single

    def forward(self, images: Tensor) -> Tensor:
        logit = self.single(images)
        return torch.cat((logit, torch.zeros_like(logit)), 1)


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def single() -> Single:
    torch.manual_seed(0)
    network = Single()
    network.top.weight.data.mul_(20)
    return network


@pytest.mark.parametrize("method", METHODS)
def test_scores_of_the_callers_own_are_no_logits(images: Tensor, method: str) -> None:
    torch.manual_seed(0)
    network: Network = Network()
    options: Any = METHODS[method]

    def explain(target: object) -> Tensor:
        return pipeline.explain(network, images, method, target=target, **options).maps

    first, second = (lambda o: 3 * o[:, 1] + 1), (lambda o: -o[:, 0])
    one, other = explain(first), explain(second)
    assert one.abs().max() > 0
    assert not torch.allclose(one, other)
    torch.testing.assert_close(explain([first, second]), torch.stack((one, other), 1))
    if method != "rise":  # whose maps add the score of what is hidden
        torch.testing.assert_close(one, 3 * explain(lambda o: o[:, 1]), atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_a_single_logit_is_explained_as_the_first_of_two_classes(
    single: Single, images: Tensor, method: str
) -> None:
    options: Any = METHODS[method]
    maps = pipeline.explain(single, images, method, **options).maps
    both = pipeline.explain(Both(single), images, method, target=0, **options).maps
    assert maps.std() > 0
    torch.testing.assert_close(maps, both)


def test_the_probability_of_a_single_logit_is_its_sigmoid(single: Single, images: Tensor) -> None:
    result = pipeline.explain(single, images, "gradcam", layer="network.top")
    found = pipeline.localize(result)
    expected = result.logits.sigmoid()[:, 0].tolist()
    assert [of_image[0].probability for of_image in found] == pytest.approx(expected)
    score = pipeline.explain(single, images, layer="network.top", target=lambda o: o[:, 0])
    assert pipeline.localize(score)[0][0].probability == 1


def test_a_single_logit_is_audited_as_the_first_of_two_classes(
    single: Single, images: Tensor
) -> None:
    options: dict[str, Any] = {"layer": "network.top", "preprocessing": PREPARED, "target": 0}
    both = Both(single)
    audited = pipeline.audit_maps(single, images, "gradcam", ["faithfulness"], **options)
    options["layer"] = "single.network.top"
    expected = pipeline.audit_maps(both, images, "gradcam", ["faithfulness"], **options)
    assert dict(audited) == pytest.approx(dict(expected))
    assert 0 < audited["deletion"] < 1


def test_the_classes_of_a_network_may_be_independent(images: Tensor) -> None:
    torch.manual_seed(0)
    network = Network()
    network.fc.weight.data.mul_(9)
    options: dict[str, Any] = {"target": "top4", "multi_label": True}
    result = pipeline.explain(network, images, "gradcam", **options)
    expected = result.logits.sigmoid().gather(1, result.classes)
    found = [[one.probability for one in image] for image in pipeline.localize(result)]
    torch.testing.assert_close(torch.tensor(found), expected)
    wrapped = pipeline.wrap(network, multi_label=True, preprocessing=PREPARED)
    maps = pipeline.explain(wrapped, images, "rise", target=2, masks=40).maps
    score = pipeline.explain(network, images, "rise", masks=40, target=lambda o: o[:, 2].sigmoid())
    torch.testing.assert_close(maps, score.maps)
    # A network that ends in a sigmoid: the logits are made of its probabilities.
    ends = nn.Sequential(network, nn.Sigmoid())
    options["output"] = lambda given: given.logit()
    same = pipeline.explain(ends, images, "gradcam", **options)
    torch.testing.assert_close(same.probabilities, result.probabilities, atol=1e-4, rtol=1e-4)
    # The class alone decides: the same numbers as those of a network with its logit alone.
    one = pipeline.wrap(network, output=lambda given: given[:, [2]], preprocessing=PREPARED)
    audited = pipeline.audit_maps(one, images, target=0)
    assert 0 < audited["deletion"] < 1
    of_class = pipeline.audit_maps(wrapped, images, target=2)
    assert dict(of_class) == pytest.approx(dict(audited), abs=1e-4)
