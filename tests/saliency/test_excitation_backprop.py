"""Excitation backprop: its definition on dense matrices, and probabilities that add up to 1."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from captum.attr._utils.lrp_rules import Alpha1_Beta0_Rule
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.api.wrapping import as_network
from pipeline.errors import UserError
from pipeline.model.classifier import Classifier, ConvMean, MeanLinear
from pipeline.model.torchvision import Torchvision
from pipeline.saliency.excitation_backprop import ExcitationBackprop
from tests.saliency.networks import KINDS, SIDE, build_network
from tests.saliency.test_deeplift import Applied
from tests.saliency.test_lrp import Sequential, explain_by_captum, matrix
from tests.saliency.test_relu_rules import RELU6, RELUS, classes, picture, same, written


def propagate(x: Any, weights: Any, winners: Any) -> Any:
    """Compute p_j = sum_k x_j w_jk+ / sum_i x_i w_ik+ p_k; weights are [inputs, outputs]."""
    products = x[:, None] * weights.clip(0)
    total = products.sum(0)
    return (products / np.where(total > 0, total, 1) * winners).sum(1)


def numbers(tensor: Tensor) -> np.ndarray:
    return tensor.detach().flatten().double().numpy()


@pytest.mark.parametrize("contrastive", [False, True])
@pytest.mark.parametrize("layer", ["input", "2", "5", "6"])
def test_the_definition_on_matrices(layer: str, contrastive: bool) -> None:
    """Write it out for two convolutions, one with batch norm, max pooling and a GAP head."""
    torch.manual_seed(3)
    one, norm, two = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 5, 3)
    nn.init.uniform_(norm.weight, -1, 1)
    nn.init.normal_(norm.bias)
    norm.running_var.uniform_(0.3, 2)
    body = nn.Sequential(one, norm, nn.ReLU(inplace=True), nn.MaxPool2d(2), two,
                         nn.ReLU(inplace=True), nn.Identity())  # fmt: skip
    net = Classifier(body, MeanLinear(5, 3), "abc").eval().requires_grad_(False)
    x = picture(1, 3, 8, 8)
    explanation = ExcitationBackprop(layer, contrastive)(net, x, classes(1))
    first = F.relu(norm(one(x)))
    pooled, at = F.max_pool2d(first, 2, return_indices=True)
    second = F.relu(two(pooled))
    weight = net.head.linear.weight[1].double().numpy()
    results = []
    for sign in (1, -1):
        head = np.repeat(sign * weight, 4)[:, None]  # of each value: the mean and the linear layer
        p = propagate(numbers(second.mean((2, 3))), sign * weight[:, None], np.ones(1))
        values = numbers(second).reshape(5, 4)
        total = values.sum(1, keepdims=True)
        p = (values / np.where(total > 0, total, 1) * p[:, None]).ravel()
        assert head.shape == (20, 1)
        shape: tuple[int, ...] = (5, 2, 2)
        if layer in ("input", "2"):
            p = propagate(numbers(pooled), matrix(two, (4, 4, 4)), p)
            places = at.flatten(2)[0] + 64 * torch.arange(4)[:, None]
            winners = np.zeros(4 * 64)
            np.add.at(winners, places.flatten().numpy(), p)
            p, shape = winners, (4, 8, 8)
        if layer == "input":
            shifted = x - x.amin((2, 3), keepdim=True)
            p = propagate(numbers(shifted), matrix(nn.Sequential(one, norm), (3, 8, 8)), p)
            shape = (3, 8, 8)
        results.append(p.reshape(shape).sum(0))
    wanted = (results[0] - results[1]).clip(0) if contrastive else results[0]
    same(explanation.maps[0, 0], torch.tensor(wanted).float(), 1e-5)


@pytest.mark.parametrize("layer", ["below", "last", "input"])
@pytest.mark.parametrize("kind", ["plain", "residual", "localizing"])
def test_probabilities_add_up_to_1(kind: str, layer: str) -> None:
    net, x = build_network(kind), picture(3, 3, SIDE, SIDE)
    explanation = ExcitationBackprop(layer)(net, x, classes(2, 0))
    torch.testing.assert_close(explanation.maps.sum((2, 3)), torch.ones(3, 2), rtol=0, atol=2e-5)
    assert explanation.maps.min() >= 0


@pytest.mark.parametrize("name", ["resnet18", "googlenet", "squeezenet1_1", "vgg16"])
def test_probabilities_add_up_to_1_on_networks_of_torchvision(name: str) -> None:
    torch.manual_seed(0)
    # `imagenet` only spares their slow random initialisation: nothing is downloaded.
    builder = Torchvision(name, "imagenet")
    body, head = builder.own(3) if name != "vgg16" else (builder.body()[0], MeanLinear(512, 3))
    net = Classifier(body, head, "abc", builder.last, builder.below).requires_grad_(False)
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
            nn.init.zeros_(module.bias) if module.bias is not None else None
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    net.train()(picture(4, 3, 64, 64))
    for layer in ("below", "input"):
        explanation = ExcitationBackprop(layer)(net.eval(), picture(1, 3, 64, 64), classes(1))
        torch.testing.assert_close(
            explanation.maps.sum((2, 3)), torch.ones(1, 1), atol=1e-3, rtol=0
        )


@pytest.mark.parametrize("kind", sorted({*KINDS} - {"squeeze_excitation", "transformer"}))
def test_probabilities_never_add_up_to_more(kind: str) -> None:
    """Check that some are lost at most: those of a winner without a positive input."""
    net, x = build_network(kind), picture(3, 3, SIDE, SIDE)
    for layer in ("below", "input"):
        sums = ExcitationBackprop(layer)(net, x, classes(2, 0)).maps.sum((2, 3))
        assert sums.max() < 1 + 1e-4
        assert sums.min() >= 0
        assert sums.max() > 0.5


def test_at_what_a_gap_head_reads_it_is_cam_with_positive_weights() -> None:
    net, x = build_network("plain"), picture(2, 3, SIDE, SIDE)
    explanation = ExcitationBackprop("last")(net, x, classes(1))
    features = net(x, at=("last",)).activations["last"]
    maps = (net.class_weights[1].clamp(min=0)[:, None, None] * features).sum(1)
    same(explanation.maps[:, 0], maps / maps.sum((1, 2), keepdim=True), 1e-5)


def test_it_is_captum_s_lrp_with_positive_weights_alone() -> None:
    """Hold it against alpha-1-beta-0, of an image whose least values are 0, up to the score."""
    net, x = Sequential(bias=0.3), picture(2, 3, 24, 28)
    x -= x.amin((2, 3), keepdim=True)

    def rule() -> Alpha1_Beta0_Rule:
        return Alpha1_Beta0_Rule(set_bias_to_zero=True)

    explanation = ExcitationBackprop("input")(as_network(net), x, classes(3, 1))
    for column, label in enumerate((3, 1)):
        wanted = explain_by_captum(net, x, label, rule, rule).sum(1)
        wanted = wanted / wanted.sum((1, 2), keepdim=True)
        same(explanation.maps[:, column], wanted, 1e-4)


def test_the_dual_class_is_subtracted() -> None:
    net, x = build_network("plain"), picture(2, 3, SIDE, SIDE)
    maps = ExcitationBackprop("below")(net, x, classes(1)).maps
    contrast = ExcitationBackprop("below", contrastive=True)(net, x, classes(1)).maps
    with torch.no_grad():
        net.head.linear.weight.neg_()
    dual = ExcitationBackprop("below")(net, x, classes(1)).maps
    same(contrast, (maps - dual).clamp(min=0), 1e-5)
    assert contrast.max() > 0


def test_negative_scores_and_scores_of_a_convolution() -> None:
    """Check that a winner is drawn though its logit is negative or is behind a ReLU."""
    net, x = build_network("plain"), picture(2, 3, SIDE, SIDE)
    with torch.no_grad():
        net.head.linear.bias.fill_(-100.0)
    sums = ExcitationBackprop("below")(net, x, classes(0, 1, 2)).maps.sum((2, 3))
    torch.testing.assert_close(sums, torch.ones(2, 3), rtol=0, atol=1e-5)
    body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU())
    head = ConvMean(6, 2)
    nn.init.constant_(head.conv.bias, 1.0)
    net = Classifier(body, head, "ab").eval().requires_grad_(False)
    x = picture(1, 3, 8, 8)
    explanation = ExcitationBackprop("last")(net, x, classes(1))
    features = net.body(x)
    positive = features * head.conv.weight[1].clamp(min=0)
    shares = positive.sum(1) / positive.sum(1).clamp(min=1e-9)
    winners = head.conv(features)[:, 1].relu()
    same(explanation.maps[:, 0], shares * winners / winners.sum(), 1e-5)


def test_a_sum_is_shared_by_what_is_positive() -> None:
    x = torch.tensor([[[[3.0, 1.0]], [[1.0, -2.0]], [[0.0, 0.0]]]])
    layers = nn.Sequential(
        nn.Identity(),
        Applied(lambda pixels: F.relu(pixels[:, 0, 0] + pixels[:, 1, 0])),
    )  # 3 + 1 = 4 at the first position, 1 - 2 at the second, which a ReLU closes
    net = Classifier(layers, nn.Linear(2, 2), "ab").eval().requires_grad_(False)
    net.head.weight.fill_(1.0)
    explanation = ExcitationBackprop("0")(net, x, classes(1))
    assert explanation.maps[0, 0, 0].tolist() == pytest.approx([1.0, 0.0])


@pytest.mark.parametrize("form", [form for form in RELUS if form != "scripted"])
def test_relu_in_every_form(form: str) -> None:
    x, method = picture(2, 3, 12, 20), ExcitationBackprop("input")
    wanted = method(written(nn.ReLU()), x, classes(3, 0)).maps
    same(method(written(RELUS[form]), x, classes(3, 0)).maps, wanted)


@pytest.mark.parametrize("form", RELU6)
def test_relu6_in_every_form(form: str) -> None:
    x, method = picture(2, 3, 12, 20), ExcitationBackprop("input")
    wanted = method(written(nn.ReLU6(), scale=4.0), x, classes(3, 0)).maps
    same(method(written(RELU6[form], scale=4.0), x, classes(3, 0)).maps, wanted)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.SiLU(), "another activation than ReLU, silu"),
        (nn.PReLU(), "another activation than ReLU, prelu"),
        (nn.Hardtanh(), "another activation than ReLU, hardtanh"),
        (nn.Threshold(1, 0), "another activation than ReLU, threshold"),
        (lambda x: x * x.tanh(), "another activation than ReLU, tanh"),
        (lambda x: x * x.relu(), "multiplies values of which none is a gate"),
        (lambda x: x.softmax(1), "no rule for, softmax"),
        (lambda x: x - x.relu(), "no rule for, sub"),
    ],
)
def test_what_has_no_rule_is_refused(layer: Any, message: str) -> None:
    body = nn.Sequential(nn.Conv2d(3, 6, 3), Applied(layer), nn.Conv2d(6, 6, 1))
    net = Classifier(body, MeanLinear(6, 2), "ab").eval()
    with pytest.raises(UserError, match=f"saliency=excitation_backprop.*{message}.*gradcam"):
        ExcitationBackprop("input")(net, picture(1, 3, 12, 12), classes(0))


def test_a_layer_behind_all_weights_is_refused() -> None:
    body, head = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU()), Applied(lambda x: x.mean((2, 3)))
    net = Classifier(body, head, "abcdef").eval()
    with pytest.raises(UserError, match=r"no convolution or linear layer between.*below"):
        ExcitationBackprop("last")(net, picture(1, 3, 12, 12), classes(0))
