"""Input shift: the copy answers alike, also along the border, where Quantus' does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from quantus.helpers.model.pytorch_model import PyTorchModel
from torch import Tensor, nn

from pipeline.audit.input_shift import build_shifted_network, measure_input_shift
from pipeline.errors import UserError
from pipeline.model.classifier import Classifier, MeanLinear
from pipeline.model.torchvision import TransformInput
from pipeline.protocols import SaliencyMethod
from pipeline.saliency.gradcam import GradCAM
from pipeline.saliency.gradient import Gradient
from pipeline.saliency.guided_backprop import GuidedBackprop
from pipeline.saliency.integrated import GradientTimesInput
from tests.audit.networks import small

SHIFT = torch.tensor([-1.0, 2.0, 0.5])


def logits(network: Callable[..., object], images: Tensor) -> Tensor:
    with torch.no_grad():
        return cast(Any, network(images)).logits


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("padding", [0, 1])
def test_the_copy_answers_alike(bias: bool, padding: int) -> None:
    network = small(bias=bias, padding=padding)
    before = {name: one.clone() for name, one in network.state_dict().items()}
    images = torch.randn(2, 3, 24, 32)
    other = build_shifted_network(network, images, SHIFT)
    moved = images + SHIFT[:, None, None]
    torch.testing.assert_close(logits(other, moved), logits(network, images), atol=1e-5, rtol=1e-5)
    assert (logits(network, moved) - logits(network, images)).abs().max() > 0.01
    assert all(torch.equal(one, before[name]) for name, one in network.state_dict().items())
    assert not any(module._forward_pre_hooks for module in network.modules())


@pytest.mark.parametrize(
    ("method", "stays"),
    [
        (Gradient(), True),
        (GuidedBackprop(), True),
        (GradCAM(), True),
        (GradientTimesInput(), False),
    ],
)
def test_known_results(method: SaliencyMethod, stays: bool) -> None:
    """Kindermans et al. 2017, section 3: the gradient stays, what multiplies by the input moves."""
    network, images = small(), torch.randn(3, 3, 24, 32)
    classes = torch.tensor([0, 1, 2])
    found = measure_input_shift(
        network,
        lambda net, some: method(cast(Any, net), some, lambda _: classes[:, None]).maps[:, 0],
        logits,
        images,
        SHIFT,
    )
    assert (found["answer"] < 1e-5).all()
    assert (found["moved"] < 1e-3).all() if stays else (found["moved"] > 0.1).all()
    if stays:
        assert (found["rank"] > 0.999).all()


def test_a_fixed_step_before_the_convolution_is_seen() -> None:
    bare = small()
    body = nn.Sequential(TransformInput(), bare.body)
    network = Classifier(body, bare.head, list("abcde")).eval().requires_grad_(False)
    images = torch.randn(2, 3, 24, 32)
    other = build_shifted_network(network, images, SHIFT)
    moved = images + SHIFT[:, None, None]
    torch.testing.assert_close(logits(other, moved), logits(network, images), atol=1e-5, rtol=1e-5)


def test_a_network_without_a_first_convolution_is_refused() -> None:
    body = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3))
    network = Classifier(body, MeanLinear(4, 2), "ab").eval()
    with pytest.raises(UserError, match=r"body\.0, is no convolution"):
        build_shifted_network(network, torch.randn(1, 3, 8, 8), SHIFT)


def test_quantus_is_the_same_without_padding_and_not_alike_with_it() -> None:
    """Quantus takes one value of the shifted first layer for all: where zeros pad, the smallest,
    which may be the border's. Its second network then is no longer the first."""
    shift = -1.0
    for padding, alike in ((0, True), (1, False)):
        plain = nn.Sequential(nn.Conv2d(3, 6, 3, 1, padding), nn.ReLU(), nn.Conv2d(6, 4, 3))
        plain = plain.eval().requires_grad_(False)
        images = torch.randn(2, 3, 12, 16)
        theirs = PyTorchModel(plain, channel_first=True).add_mean_shift_to_first_layer(
            shift, (1, 3, 12, 16)
        )
        ours = build_shifted_network(plain, images, torch.full((3,), shift))
        torch.testing.assert_close(ours(images + shift), plain(images), atol=1e-5, rtol=1e-4)
        assert torch.allclose(theirs(images + shift), plain(images), atol=1e-5) == alike
