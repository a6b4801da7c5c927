"""Refined: the localization head alone, or averaged with its teacher, as the network says."""

from __future__ import annotations

from typing import Any

import torch

from pipeline.model.classifier import Classifier, MeanLinear
from pipeline.model.foreground import build_foreground_head
from pipeline.model.small import Small
from pipeline.protocols import Network
from pipeline.saliency.average import average_maps
from pipeline.saliency.cam import CAM
from pipeline.saliency.foreground import Foreground
from pipeline.saliency.refined import Refined
from pipeline.types import ClassSelector, Explanation, NetworkOutput


class Counting(CAM):
    calls = 0

    def __call__(
        self, network: Network, images: torch.Tensor, choose: ClassSelector
    ) -> Explanation:
        type(self).calls += 1
        return super().__call__(network, images, choose)


def network() -> Classifier:
    model = Small()
    torch.manual_seed(0)
    body, channels = model.body()
    net = Classifier(body, MeanLinear(channels, 3), "abc", model.last, model.below).eval()
    net.branches["foreground"] = build_foreground_head(net, (64, 96), width=8).eval()
    return net


def test_alone_it_is_the_foreground_and_the_teacher_is_not_asked() -> None:
    net, images = network(), torch.randn(2, 3, 64, 96)
    Counting.calls = 0
    explanation = Refined(Counting())(net, images, lambda logits: logits.topk(2).indices)
    plain = Foreground()(net, images, lambda logits: logits.topk(2).indices)
    assert torch.equal(explanation.maps, plain.maps)
    assert Counting.calls == 0


def test_else_it_is_the_mean_of_both_for_the_classes_that_were_chosen() -> None:
    net, images = network(), torch.randn(2, 3, 64, 96)
    foreground: Any = net.branches["foreground"]
    foreground.set_alone(False)
    assert not net.stands_alone
    explanation = Refined(CAM())(net, images, lambda logits: logits.topk(2).indices)
    student = Foreground()(net, images, lambda _: explanation.classes)
    teacher = CAM()(net, images, lambda _: explanation.classes)
    assert torch.allclose(explanation.maps, average_maps([student.maps, teacher.maps]), atol=1e-6)
    assert isinstance(net(images), NetworkOutput)
    assert torch.allclose(explanation.logits, net(images).logits, atol=1e-5)
