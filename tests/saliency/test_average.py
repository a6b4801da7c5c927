"""The average of methods: each from 0 to 1, at the finest resolution, for classes chosen once."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pipeline.errors import UserError
from pipeline.model.classifier import Classifier, MeanLinear
from pipeline.saliency.average import Average
from pipeline.saliency.cam import CAM
from pipeline.saliency.layercam import LayerCAM
from pipeline.types import Explanation


def network():
    torch.manual_seed(0)
    body = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU()
    )  # fmt: skip
    return Classifier(body, MeanLinear(8, 6), "abcdef").eval().requires_grad_(False)


def min_max(maps):
    low, high = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
    return (maps - low) / (high - low)


def test_is_the_mean_of_the_maps_each_from_0_to_1():
    net, x = network(), torch.randn(2, 3, 24, 40)
    asked = []

    def choose(logits):
        asked.append(logits)
        return logits.topk(2, dim=1).indices

    fine = LayerCAM(layers=("1",))
    explanation = Average((CAM(), fine))(net, x, choose)
    assert len(asked) == 1
    assert torch.equal(explanation.logits, net(x).logits)
    first = CAM()(net, x, lambda logits: explanation.classes).maps
    second = fine(net, x, lambda logits: explanation.classes).maps
    first = F.interpolate(first, (12, 20), mode="bilinear")
    torch.testing.assert_close(explanation.maps, (min_max(first) + min_max(second)) / 2)


def test_one_method_is_scaled_alone():
    net, x = network(), torch.randn(2, 3, 24, 40)
    choose = lambda logits: logits.argmax(1, keepdim=True)  # noqa: E731
    explanation = Average((CAM(),))(net, x, choose)
    torch.testing.assert_close(explanation.maps, min_max(CAM()(net, x, choose).maps))


def test_the_finest_is_the_finest_in_each_direction():
    def fixed(*size):
        def method(network, images, choose):
            logits = network(images).logits
            return Explanation(torch.rand(len(images), 1, *size), choose(logits), logits)

        return method

    explanation = Average((fixed(4, 9), fixed(6, 3)))(
        network(), torch.randn(2, 3, 24, 40), lambda logits: logits.argmax(1, keepdim=True)
    )
    assert explanation.maps.shape == (2, 1, 6, 9)


def test_a_constant_map_says_nothing():
    def constant(network, images, choose):
        logits = network(images).logits
        return Explanation(torch.full((len(images), 1, 6, 10), 3.0), choose(logits), logits)

    net, x = network(), torch.randn(2, 3, 24, 40)
    choose = lambda logits: logits.argmax(1, keepdim=True)  # noqa: E731
    explanation = Average((CAM(), constant))(net, x, choose)
    torch.testing.assert_close(explanation.maps, min_max(CAM()(net, x, choose).maps) / 2)


def test_no_method_is_refused():
    with pytest.raises(UserError, match=r"saliency\.methods=\[\]"):
        Average(())
