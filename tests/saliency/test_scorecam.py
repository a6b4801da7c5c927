"""Score-CAM against the paper's algorithm channel by channel, pytorch-grad-cam and torchcam."""

import pytest
import pytorch_grad_cam
import torch
import torchcam.methods
from torch import nn

from pipeline.errors import UserError
from pipeline.saliency.channel_scores import build_masks
from pipeline.saliency.scorecam import ScoreCAM
from tests.saliency.cam_peers import (
    NETWORKS,
    as_pytorch_grad_cam,
    by_pytorch_grad_cam,
    by_torchcam,
    check_contract,
    mean_linear,
    pictures,
)


def all_classes(logits):
    return torch.arange(7).expand(len(logits), -1)


def by_hand(net, image, layer, label):
    """Run algorithm 1 of the paper, one channel after another, with its baseline."""
    features = net(image, at=(layer,)).activations[layer].detach()
    black = net(torch.zeros_like(image)).logits[0, label]
    gains = []
    for maps in features[0]:
        large = nn.functional.interpolate(maps[None, None], image.shape[2:], mode="bilinear")
        span = large.max() - large.min()
        mask = (large - large.min()) / span if span > 0 else torch.zeros_like(large)
        gains.append(net(image * mask).logits[0, label] - black)
    weights = torch.stack(gains).softmax(0)
    return (weights[:, None, None] * features[0]).sum(0).relu()


@pytest.mark.parametrize("layer", ["last", "below"])
@pytest.mark.parametrize("kind", NETWORKS)
def test_is_the_paper_s_algorithm(kind, layer):
    net = NETWORKS[kind]()
    images = pictures(net)
    explanation = ScoreCAM(layer, batch=5)(net, images, all_classes)
    with torch.no_grad():
        for n in range(2):
            for label in (0, 4):
                wanted = by_hand(net, images[n : n + 1], layer, label)
                torch.testing.assert_close(explanation.maps[n, label], wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", NETWORKS)
def test_equals_pytorch_grad_cam_but_for_where_it_puts_the_corners(kind, monkeypatch):
    """Compare with its corners aligned, which moves each mask by up to half a cell, and without."""
    net = NETWORKS[kind]()
    images = pictures(net)
    explanation = ScoreCAM()(net, images, all_classes)
    peer = pytorch_grad_cam.ScoreCAM
    ours = as_pytorch_grad_cam(explanation.maps, images)
    theirs = by_pytorch_grad_cam(peer, net, images, explanation.classes)
    assert (theirs - ours).abs().max() > 1e-4
    centres = nn.Upsample(size=images.shape[2:], mode="bilinear", align_corners=False)
    monkeypatch.setattr(nn, "UpsamplingBilinear2d", lambda size: centres)
    theirs = by_pytorch_grad_cam(peer, net, images, explanation.classes, batch_size=3)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_equals_both_peers_as_they_are_where_nothing_is_upsampled():
    net = mean_linear(strides=(1, 1, 1))
    images = pictures(net)
    explanation = ScoreCAM()(net, images, all_classes)
    theirs = by_pytorch_grad_cam(pytorch_grad_cam.ScoreCAM, net, images, explanation.classes)
    ours = as_pytorch_grad_cam(explanation.maps, images)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    (theirs,) = by_torchcam(torchcam.methods.ScoreCAM, net, images, explanation.classes)
    torch.testing.assert_close(explanation.maps, theirs, rtol=1e-5, atol=1e-6)


def test_equals_torchcam_where_the_order_of_scaling_makes_no_difference():
    """Use an odd stride: the centre of each cell is a pixel, so upsampling keeps the extremes."""
    net = mean_linear(strides=(3, 3, 1))
    images = pictures(net)[:, :, :45, :72]
    explanation = ScoreCAM()(net, images, all_classes)
    assert explanation.maps.shape[2:] == (5, 8)
    (theirs,) = by_torchcam(torchcam.methods.ScoreCAM, net, images, explanation.classes)
    torch.testing.assert_close(explanation.maps, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", NETWORKS)
def test_contract(kind):
    net = NETWORKS[kind]()
    check_contract(ScoreCAM(relu=False, batch=7), net, pictures(net))


class Sizes(nn.Module):
    """A body that records the number of images of each pass."""

    def __init__(self, body):
        super().__init__()
        self.body, self.seen = body, []

    def forward(self, x):
        self.seen.append(len(x))
        return self.body(x)


def test_passes_are_of_few_images_and_constant_channels_share_one():
    net = mean_linear()
    net.body = Sizes(net.body)
    images = pictures(net, 1)
    net.head.linear.weight.requires_grad_(False)[:, ::2] = 1
    explanation = ScoreCAM(batch=6)(net, images, all_classes)
    maps = net.body.body(images)[0].flatten(1)
    constant = int((maps.amin(1) == maps.amax(1)).sum())
    assert constant >= 1
    varied = 16 - constant
    assert net.body.seen == [1, *[6] * (varied // 6), *([varied % 6] if varied % 6 else []), 1]
    assert explanation.maps.shape[1] == 7  # for seven classes no pass more


def test_a_mask_goes_from_0_to_1_even_of_hardly_any_difference():
    features = torch.zeros(3, 2, 2)
    features[0, 0, 0], features[1, 0, 0], features[2] = 1e-42, 1e30, -5
    masks = build_masks(features, torch.Size((8, 8)))
    assert masks.isfinite().all()
    assert masks.amin() >= 0
    assert masks.amax() <= 1
    assert masks[1].amax() == 1
    assert (masks[2] == 0).all()


def test_bfloat16_changes_little():
    net = mean_linear()
    images = pictures(net)
    with torch.autocast("cpu", torch.bfloat16):
        explanation = ScoreCAM()(net, images, all_classes)
    assert explanation.maps.dtype == torch.float32
    exact = ScoreCAM()(net, images, all_classes)
    assert (explanation.maps - exact.maps).abs().max() < 0.1 * exact.maps.abs().max()


def test_wrong_batch_is_refused():
    with pytest.raises(UserError, match=r"saliency\.batch=0: expected at least 1"):
        ScoreCAM(batch=0)
