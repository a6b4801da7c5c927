"""Occlusion equals captum's, whatever does not fit, for all classes from one set of passes."""

from typing import Any

import numpy as np
import pytest
import torch
from captum.attr import Occlusion as CaptumOcclusion
from torch import nn

from pipeline.errors import UserError
from pipeline.model.classifier import Classifier, MeanLinear
from pipeline.model.torchvision import Torchvision
from pipeline.saliency.occlusion import Occlusion


def top(count):
    return lambda logits: logits.topk(count, dim=1).indices


def network(seed=0):
    torch.manual_seed(seed)
    body = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU()
    )  # fmt: skip
    return Classifier(body, MeanLinear(8, 6), "abcdef").eval().requires_grad_(False)


def captum(net, x, classes, window, stride, value, score=lambda logits: logits):
    """Compute captum's occlusion [b, t, 3, H, W]."""
    occlusion = CaptumOcclusion(lambda images: score(net(images).logits))
    return torch.stack(
        [
            occlusion.attribute(
                x,
                sliding_window_shapes=(3, window, window),
                strides=(3, stride, stride),
                baselines=value,
                target=column,
                perturbations_per_eval=4,
            )
            for column in classes.T
        ],
        1,
    )


@pytest.mark.parametrize(
    ("window", "stride", "value"),
    [
        (8, 8, 0.0),
        (8, 4, 0.5),
        (9, 5, 0.0),  # neither divides a side: the last patches stand out of the image
        (7, 7, -1.25),
        (20, 13, 0.0),
        (24, 24, 0.0),  # as high as the image
        (5, 1, 0.0),
    ],
)
def test_equals_captum(window, stride, value):
    net, x = network(), torch.randn(2, 3, 24, 40)
    explanation = Occlusion(window, stride, value, batch=7)(net, x, top(3))
    assert explanation.maps.shape == (2, 3, 24, 40)
    wanted = captum(net, x, explanation.classes, window, stride, value)
    torch.testing.assert_close(
        explanation.maps[:, :, None].expand_as(wanted), wanted, rtol=1e-5, atol=1e-5
    )
    assert torch.equal(explanation.logits, net(x).logits)


def test_equals_captum_on_a_network_and_for_the_probability():
    torch.manual_seed(0)
    body, channels = Torchvision("resnet18", None).body()
    net = Classifier(body, MeanLinear(channels, 5), "abcde").eval()
    x = torch.randn(1, 3, 64, 96)
    explanation = Occlusion(32, 16, score="probability")(net, x, top(2))
    with torch.no_grad():
        wanted = captum(net, x, explanation.classes, 32, 16, 0.0, lambda logits: logits.softmax(1))
    torch.testing.assert_close(explanation.maps, wanted[:, :, 0], rtol=1e-5, atol=1e-6)


def test_the_cover_may_be_the_image_s_own_mean():
    net, x = network(), torch.randn(2, 3, 24, 40)
    explanation = Occlusion(8, 4, "mean")(net, x, top(2))
    for n in range(2):
        cover = x[n].mean((1, 2))[None, :, None, None].expand(1, 3, 24, 40)
        wanted = captum(net, x[n : n + 1], explanation.classes[n : n + 1], 8, 4, cover)
        torch.testing.assert_close(explanation.maps[n], wanted[0, :, 0], rtol=1e-5, atol=1e-5)


def test_a_patch_that_is_seen_by_nothing_else_gets_its_drop():
    """Check that without overlap the map is the drop itself, by definition, on a linear score."""

    class Weighing(nn.Module):
        classes = ("one",)

        def forward(self, images, at=()):
            from pipeline.types import NetworkOutput

            return NetworkOutput((images * weights).sum((1, 2, 3))[:, None])

    weights = torch.randn(3, 12, 20)
    x = torch.randn(1, 3, 12, 20)
    weighing: Any = Weighing()
    explanation = Occlusion(4, 4)(weighing, x, top(1))
    blocks = (x[0] * weights).sum(0).reshape(3, 4, 5, 4).sum((1, 3))
    wanted = np.kron(blocks.numpy(), np.ones((4, 4), np.float32))
    np.testing.assert_allclose(explanation.maps[0, 0].numpy(), wanted, rtol=1e-4, atol=1e-4)


def test_passes_are_few_and_serve_all_classes():
    net = network()
    sizes = []
    net.body.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    Occlusion(8, 8, batch=10)(net, torch.randn(3, 3, 24, 40), top(6))
    assert sizes == [3] + 3 * [10, 5]


def test_batch_of_one_gives_the_same_maps():
    net, x = network(), torch.randn(5, 3, 24, 40)
    together = Occlusion(8, 4, batch=32)(net, x, top(2))
    for n in range(5):
        alone = Occlusion(8, 4, batch=3)(net, x[n : n + 1], top(2))
        torch.testing.assert_close(alone.maps[0], together.maps[n], rtol=1e-5, atol=1e-6)


def test_leaves_images_and_network_alone():
    net, x = network(), torch.randn(2, 3, 24, 40)
    before, state = x.clone(), {k: v.clone() for k, v in net.state_dict().items()}
    explanation = Occlusion(8, 8)(net, x, top(2))
    assert torch.equal(x, before)
    assert all(torch.equal(state[key], value) for key, value in net.state_dict().items())
    assert not explanation.maps.requires_grad


def test_runs_in_the_run_s_precision_and_gives_float32():
    net, x = network(), torch.randn(1, 3, 24, 40)
    with torch.autocast("cpu", torch.bfloat16):
        explanation = Occlusion(8, 8)(net, x, top(2))
    assert explanation.maps.dtype == torch.float32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"window": 0}, "saliency.window=0"),
        ({"stride": 0}, "saliency.stride=0: expected 1 to 32"),
        ({"window": 8, "stride": 9}, "saliency.stride=9: expected 1 to 8"),
        ({"value": float("nan")}, "saliency.value=nan"),
        ({"batch": 0}, "saliency.batch=0"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(UserError, match=message):
        Occlusion(**arguments)


def test_a_window_larger_than_the_image():
    with pytest.raises(UserError, match=r"of 28 x 40 pixels; as in saliency.window=4"):
        Occlusion()(network(), torch.randn(1, 3, 28, 40), top(1))
