"""Ablation-CAM against its closed form, one channel after another, and pytorch-grad-cam."""

from typing import Any

import pytest
import pytorch_grad_cam
import torch
from pytorch_grad_cam.ablation_layer import AblationLayer

from pipeline.errors import UserError
from pipeline.saliency.ablationcam import AblationCAM
from tests.saliency.cam_peers import (
    NETWORKS,
    as_pytorch_grad_cam,
    by_pytorch_grad_cam,
    check_contract,
    find_layer,
    mean_linear,
    pictures,
)


def all_classes(logits):
    return torch.arange(7).expand(len(logits), -1)


def by_hand(net, image, layer, label):
    """Compute the map with a pass of the whole network for each channel, set to 0 by a hook."""
    features = net(image, at=(layer,)).activations[layer].detach()
    whole = net(image).logits[0, label]
    weights = []
    for channel in range(features.shape[1]):

        def ablate(module, inputs, output, channel=channel):
            output = output.clone()
            if output.ndim == 3:
                output[:, 1:, channel] = 0
            else:
                output[:, channel] = 0
            return output

        handle = find_layer(net, layer).register_forward_hook(ablate)
        weights.append((whole - net(image).logits[0, label]) / whole.abs())
        handle.remove()
    return (torch.stack(weights)[:, None, None] * features[0]).sum(0)


@pytest.mark.parametrize("layer", ["last", "below", "input"])
@pytest.mark.parametrize("kind", NETWORKS)
def test_is_what_is_lost_channel_by_channel(kind, layer):
    net = NETWORKS[kind]()
    images = pictures(net)
    explanation = AblationCAM(layer, relu=False, batch=5)(net, images, all_classes)
    if layer == "input":
        assert explanation.maps.shape[2:] == images.shape[2:]
        return
    with torch.no_grad():
        for n in range(2):
            for label in (0, 4):
                wanted = by_hand(net, images[n : n + 1], layer, label)
                close: dict[str, Any] = {"rtol": 0, "atol": 1e-5 * float(wanted.abs().max())}
                torch.testing.assert_close(explanation.maps[n, label], wanted, **close)


def test_closed_form_on_a_mean_then_linear_head():
    net = mean_linear()
    images = pictures(net)
    features = net.features(images).detach()
    explanation = AblationCAM(relu=False)(net, images, all_classes)
    parts = net.class_weights * features.mean((2, 3))[:, None]  # [b, C, K]
    maps = (
        torch.einsum("bck,bkhw->bchw", parts, features) / explanation.logits.abs()[:, :, None, None]
    )
    torch.testing.assert_close(explanation.maps, maps.detach(), rtol=1e-4, atol=1e-5)
    relu = AblationCAM()(net, images, all_classes).maps
    assert torch.equal(relu, explanation.maps.relu())


@pytest.mark.parametrize("layer", ["last", "below"])
@pytest.mark.parametrize("kind", ["mean_linear", "connected"])
def test_equals_pytorch_grad_cam(kind, layer):
    net = NETWORKS[kind]()
    images = pictures(net)
    explanation = AblationCAM(layer, relu=False)(net, images, all_classes)
    peer = pytorch_grad_cam.AblationCAM
    layers = {"ablation_layer": AblationLayer(), "batch_size": 3}
    theirs = by_pytorch_grad_cam(peer, net, images, explanation.classes, (layer,), **layers)
    # Where the logit is negative it turns the map round, ours does not.
    ours = as_pytorch_grad_cam(
        explanation.maps * explanation.logits.sign()[:, :, None, None], images
    )
    assert (explanation.logits > 0).any()
    assert (explanation.logits < 0).any()
    # Weights are small differences of logits in float32: the last digits are neither's.
    torch.testing.assert_close(ours, theirs, rtol=0, atol=5e-5)


@pytest.mark.parametrize("kind", NETWORKS)
def test_contract(kind):
    net = NETWORKS[kind]()
    check_contract(AblationCAM(relu=False, batch=7), net, pictures(net))


def test_float32_whatever_the_run_s_precision():
    net = mean_linear()
    images = pictures(net)
    with torch.autocast("cpu", torch.bfloat16):
        explanation = AblationCAM()(net, images, all_classes)
    assert torch.equal(explanation.maps, AblationCAM()(net, images, all_classes).maps)


def test_wrong_arguments_are_refused():
    with pytest.raises(UserError, match=r"saliency\.batch=0: expected at least 1"):
        AblationCAM(batch=0)
    net = mean_linear()
    with pytest.raises(UserError, match="layer '77': no such layer"):
        AblationCAM("77")(net, pictures(net), all_classes)
