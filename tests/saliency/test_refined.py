"""Refined: the student alone, or in the mean with its teacher, as the network says."""

from __future__ import annotations

from typing import Any

import torch

from pipeline.model.classifier import Classifier, MeanLinear
from pipeline.model.foreground import build_foreground_head
from pipeline.model.small import Small
from pipeline.protocols import Network
from pipeline.saliency.average import averaged
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
    one = Classifier(body, MeanLinear(channels, 3), "abc", model.last, model.below).eval()
    one.branches["foreground"] = build_foreground_head(one, (64, 96), width=8).eval()
    return one


def test_alone_it_is_the_foreground_and_the_teacher_is_not_asked() -> None:
    one, images = network(), torch.randn(2, 3, 64, 96)
    Counting.calls = 0
    found = Refined(Counting())(one, images, lambda logits: logits.topk(2).indices)
    plain = Foreground()(one, images, lambda logits: logits.topk(2).indices)
    assert torch.equal(found.maps, plain.maps)
    assert Counting.calls == 0


def test_else_it_is_the_mean_of_both_for_the_classes_that_were_chosen() -> None:
    one, images = network(), torch.randn(2, 3, 64, 96)
    foreground: Any = one.branches["foreground"]
    foreground.set_alone(False)
    assert not one.stands_alone
    found = Refined(CAM())(one, images, lambda logits: logits.topk(2).indices)
    student = Foreground()(one, images, lambda _: found.classes)
    teacher = CAM()(one, images, lambda _: found.classes)
    assert torch.allclose(found.maps, averaged([student.maps, teacher.maps]), atol=1e-6)
    assert isinstance(one(images), NetworkOutput)
    assert torch.allclose(found.logits, one(images).logits, atol=1e-5)
