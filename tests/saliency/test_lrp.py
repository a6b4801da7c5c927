"""LRP: captum's numbers, its rules written out on dense matrices, conservation."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from captum.attr import LRP as CaptumLRP  # noqa: N811
from captum.attr._utils.custom_modules import Addition_Module
from captum.attr._utils.lrp_rules import EpsilonRule, GammaRule
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pipeline.api.wrapping import as_network
from pipeline.errors import UserError
from pipeline.model.classifier import Classifier, MeanLinear
from pipeline.model.torchvision import Torchvision
from pipeline.saliency.integrated import GradientTimesInput
from pipeline.saliency.lrp import LRP
from tests.saliency.networks import KINDS, SIDE, build_network
from tests.saliency.test_deeplift import Applied
from tests.saliency.test_relu_rules import (
    RELU6,
    RELUS,
    classes,
    on_a_view,
    picture,
    same,
    written,
)

EXACT = 1e-12  # an epsilon that absorbs nothing
RULES = {
    "epsilon": LRP("epsilon", epsilon=0), "gamma": LRP("gamma"), "zb": LRP(epsilon=0),
    "flat": LRP(epsilon=0, first="flat"),
}  # fmt: skip


class Sequential(nn.Module):
    """A network whose modules are used once, for captum, with a residual connection or without."""

    def __init__(self, residual: bool = False, norm: bool = False, bias: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        kind = nn.BatchNorm2d if norm else nn.Identity
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3), *([kind(8)] if norm else []), nn.ReLU())
        self.pool, self.average = nn.MaxPool2d(2), nn.AvgPool2d(2)
        self.second = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), *([kind(8)] if norm else []))
        self.add, self.relu = Addition_Module(), nn.ReLU()
        self.residual = residual
        self.gap, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(8, 5)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                assert module.bias is not None
                nn.init.uniform_(module.bias, min(bias, 0), max(bias, 0))
        if norm:
            with torch.no_grad():
                for _ in range(30):
                    self.train()(torch.randn(8, 3, 24, 28))
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        x = self.average(self.pool(self.first(x)))
        y = self.second(x)
        x = self.relu(self.add(y, x) if self.residual else y)
        scores: Tensor = self.head(self.gap(x).flatten(1))
        return scores


def explain_by_captum(net: nn.Module, x: Tensor, label: int, conv: Any, linear: Any) -> Tensor:
    net = copy.deepcopy(net)
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.rule = conv() if isinstance(module, nn.Conv2d) else linear()
    wanted: Tensor = CaptumLRP(net).attribute(x.clone().requires_grad_(), target=label)
    return wanted.detach()


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("epsilon", [1e-9, 0.1])
def test_epsilon_is_captum_s(epsilon: float, norm: bool, residual: bool) -> None:
    net, x = Sequential(residual, norm, bias=0.3), picture(2, 3, 24, 28)
    explanation = LRP("epsilon", epsilon)(as_network(net), x, classes(3, 1))
    fused = copy.deepcopy(net)
    if norm:  # captum gives batch norm its own epsilon; ours is of both, which fusing makes one
        block: Any
        for block in (fused.first, fused.second):
            block[0] = fuse_conv_bn_eval(block[0], block[1])
            del block[1]
    for column, label in enumerate((3, 1)):
        rule = lambda: EpsilonRule(epsilon)  # noqa: E731
        wanted = explain_by_captum(fused, x, label, rule, rule)
        same(explanation.colour[:, column], wanted, 1e-4)
        same(explanation.maps[:, column], wanted.sum(1), 1e-4)


@pytest.mark.parametrize("first", ["rule", "zb"])
@pytest.mark.parametrize("gamma", [0.1, 2.0])
def test_gamma_is_captum_s_where_its_formula_holds(gamma: float, first: Any) -> None:
    """Hold it where x and z are not negative; captum enlarges no bias, so none is positive."""
    net, x = Sequential(bias=-0.05), picture(2, 3, 24, 28).abs()
    scores = net(x)
    label = int(scores.min(0).values.argmax())
    assert scores[:, label].min() > 0
    explanation = LRP("gamma", EXACT, gamma, "rule")(as_network(net), x, classes(label))
    wanted = explain_by_captum(net, x, label, lambda: GammaRule(gamma), lambda: GammaRule(gamma))
    same(explanation.colour[:, 0], wanted, 1e-4)
    mixed = LRP("composite", EXACT, gamma, "rule")(as_network(net), x, classes(label))
    wanted = explain_by_captum(net, x, label, lambda: GammaRule(gamma), lambda: EpsilonRule(EXACT))
    same(mixed.colour[:, 0], wanted, 1e-4)


# -- on dense matrices, by the formulas -----------------------------------------------------------


def matrix(layer: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Return W [inputs, outputs] of a layer without bias."""
    size = int(np.prod(shape))
    with torch.no_grad():
        columns = layer(torch.eye(size).view(size, *shape)) - layer(torch.zeros(1, *shape))
    return columns.flatten(1).double().numpy()


def gamma_by_hand(x: Any, weights: Any, bias: Any, relevance: Any, gamma: float) -> Any:
    products = x[:, None] * weights
    z = products.sum(0) + bias
    for sign in (1, -1):
        grown = np.sign(z) == sign
        products += gamma * np.where(grown & (products * sign > 0), x[:, None] * weights, 0)
        bias = bias + gamma * np.where(grown & (bias * sign > 0), bias, 0)
    total = products.sum(0) + bias
    assert (np.abs(total) >= np.abs(z) - 1e-9).all()
    return (products / total * relevance).sum(1)


def epsilon_by_hand(x: Any, weights: Any, bias: Any, relevance: Any, epsilon: float) -> Any:
    z = x @ weights + bias
    return (x[:, None] * weights / (z + epsilon * np.sign(z)) * relevance).sum(1)


def zb_by_hand(x: Any, weights: Any, low: Any, high: Any, relevance: Any) -> Any:
    products = (x[:, None] * weights - low[:, None] * weights.clip(0)
                - high[:, None] * weights.clip(max=0))  # fmt: skip
    return (products / products.sum(0) * relevance).sum(1)


def flat_by_hand(weights: Any, relevance: Any) -> Any:
    reads = (weights != 0).astype(float)
    return (reads / reads.sum(0) * relevance).sum(1)


@pytest.mark.parametrize("bounds", [None, ((-4.0, -5.0, -4.5), (5.0, 4.0, 6.0))])
@pytest.mark.parametrize("name", ["epsilon", "gamma", "zb", "flat"])
def test_the_rules_by_hand(name: str, bounds: Any) -> None:
    """Write the rules out on matrices: two convolutions, signed values, and a linear layer."""
    torch.manual_seed(2)
    one, two, head = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 5, 3, 2), nn.Linear(5 * 4, 3)
    # SELU is 0 at 0, and its values have both signs.
    body = nn.Sequential(one, nn.SELU(inplace=True), two, nn.ReLU(), nn.Flatten())
    net = Classifier(body, head, "abc").eval().requires_grad_(False)
    x = picture(1, 3, 6, 6)
    method = {
        "epsilon": LRP("epsilon", 0.05), "gamma": LRP("gamma", gamma=0.4),
        "zb": LRP("composite", 0.05, 0.4), "flat": LRP("composite", 0.05, 0.4, "flat"),
    }[name]  # fmt: skip
    if bounds is not None:
        method = LRP(method.rule, method.epsilon, method.gamma, method.first, *bounds)
    explanation = method(net, x, classes(1))
    a = x.flatten().double().numpy()
    b = F.selu(one(x)).flatten().double().numpy()
    c = F.relu(two(F.selu(one(x)))).flatten().double().numpy()
    layers = (matrix(one, (3, 6, 6)), matrix(two, (4, 6, 6)), matrix(head, (20,)))
    biases = [layer(torch.zeros(1, *shape)).flatten().double().numpy()
              for layer, shape in ((one, (3, 6, 6)), (two, (4, 6, 6)), (head, (20,)))]  # fmt: skip
    above = [0.0, float(explanation.logits[0, 1]), 0.0]
    if name == "epsilon":
        relevance = epsilon_by_hand(c, layers[2], biases[2], above, 0.05)
        relevance = epsilon_by_hand(b, layers[1], biases[1], relevance, 0.05)
        relevance = epsilon_by_hand(a, layers[0], biases[0], relevance, 0.05)
    elif name == "gamma":
        relevance = gamma_by_hand(c, layers[2], biases[2], above, 0.4)
        relevance = gamma_by_hand(b, layers[1], biases[1], relevance, 0.4)
        relevance = gamma_by_hand(a, layers[0], biases[0], relevance, 0.4)
    else:
        relevance = epsilon_by_hand(c, layers[2], biases[2], above, 0.05)
        relevance = gamma_by_hand(b, layers[1], biases[1], relevance, 0.4)
        if name == "flat":
            relevance = flat_by_hand(layers[0], relevance)
        else:
            low, high = bounds or (x.amin((2, 3))[0].tolist(), x.amax((2, 3))[0].tolist())
            relevance = zb_by_hand(a, layers[0], np.repeat(low, 36), np.repeat(high, 36), relevance)
    same(explanation.colour[0, 0], torch.tensor(relevance.reshape(3, 6, 6)).float(), 1e-4)


# -- how networks are written ----------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("form", [form for form in RELUS if form != "scripted"])
def test_relu_in_every_form(form: str, rule: str) -> None:
    x, choose = picture(2, 3, 12, 20), classes(3, 0)
    explanation = RULES[rule](written(RELUS[form]), x, choose)
    same(explanation.colour, RULES[rule](written(nn.ReLU()), x, choose).colour)


@pytest.mark.parametrize("form", RELU6)
def test_relu6_in_every_form(form: str) -> None:
    x, choose = picture(2, 3, 12, 20), classes(3, 0)
    explanation = LRP()(written(RELU6[form], scale=4.0), x, choose)
    same(explanation.colour, LRP()(written(nn.ReLU6(), scale=4.0), x, choose).colour)


@pytest.mark.parametrize("rule", RULES)
def test_activations_in_place_on_a_view(rule: str) -> None:
    x, choose = picture(2, 3, 12, 20), classes(3, 0)
    explanation = RULES[rule](written(on_a_view(nn.SiLU(inplace=True))), x, choose)
    same(explanation.colour, RULES[rule](written(nn.SiLU()), x, choose).colour)


def test_with_epsilon_0_a_relu_network_has_gradient_times_input() -> None:
    net, x = written(nn.ReLU()), picture(2, 3, 12, 20)
    wanted = GradientTimesInput()(net, x, classes(3, 0)).colour
    same(RULES["epsilon"](net, x, classes(3, 0)).colour, wanted, 1e-6)


@pytest.mark.parametrize("rule", RULES)
def test_batch_norm_is_folded(rule: str) -> None:
    net, x = Sequential(True, True, 0.3), picture(2, 3, 24, 28)
    fused = copy.deepcopy(net)
    block: Any
    for block in (fused.first, fused.second):
        block[0] = fuse_conv_bn_eval(block[0], block[1])
        block[1] = nn.Identity()
    method = LRP(RULES[rule].rule, 0.1, 0.25, RULES[rule].first)
    results = [method(as_network(n), x, classes(3)).colour for n in (net, fused)]
    same(results[0], results[1], 1e-4)


def test_a_convolution_whose_result_is_read_twice() -> None:
    """Batch norm reads it folded, and something else as it is."""
    torch.manual_seed(0)

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)
            self.norm.running_var.fill_(0.25)

        def forward(self, x: Tensor) -> Tensor:
            z = self.conv(x)
            assert z.size(1) == 6
            return torch.cat((self.norm(z).relu_(), F.relu(z)), 1)

    net = Classifier(Both(), MeanLinear(12, 3), "abc").eval()
    x = picture(2, 3, 10, 12)
    wanted = GradientTimesInput()(net, x, classes(1)).colour
    same(RULES["epsilon"](net, x, classes(1)).colour, wanted, 1e-5)
    twice = LRP("gamma")(net, x, classes(1)).colour
    assert not torch.allclose(twice, wanted)


# -- conservation ----------------------------------------------------------------------------------


def remove_biases(net: nn.Module) -> None:
    for module in net.modules():
        bias = getattr(module, "bias", None)
        if isinstance(bias, Tensor):
            nn.init.zeros_(bias)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.zeros_(module.running_mean)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "transformer"])
def test_without_biases_relevance_is_conserved(kind: str, rule: str) -> None:
    net, x = build_network(kind), picture(2, 3, SIDE, SIDE)
    remove_biases(net)
    explanation = RULES[rule](net, x, classes(2, 0))
    same(explanation.maps.sum((2, 3)), explanation.logits[:, [2, 0]], 2e-4)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "densenet121"])
def test_relevance_is_conserved_on_networks_of_torchvision(name: str) -> None:
    torch.manual_seed(0)
    # `imagenet` only spares their slow random initialisation: nothing is downloaded.
    body, head = Torchvision(name, "imagenet").own(4)
    net = Classifier(body, head, "abcd").requires_grad_(False)
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    net.train()(picture(4, 3, 64, 64))
    remove_biases(net.eval())
    x = picture(1, 3, 64, 64, seed=1)
    for method in (RULES["gamma"], RULES["zb"]):
        explanation = method(net, x, classes(1))
        same(explanation.maps.sum((2, 3)), explanation.logits[:, 1:2], 1e-3)


def test_relevance_is_conserved_on_vgg_with_batch_norm() -> None:
    torch.manual_seed(0)
    net = torchvision.models.vgg11_bn(weights=None, init_weights=False)
    net.classifier = nn.Sequential(nn.Linear(512 * 49, 16), nn.ReLU(True), nn.Linear(16, 3))
    net.train()(picture(2, 3, 64, 64))
    remove_biases(net.eval())
    for method in (RULES["gamma"], RULES["zb"]):
        explanation = method(as_network(net), picture(1, 3, 64, 64), classes(1))
        same(explanation.maps.sum((2, 3)), explanation.logits[:, 1:2], 1e-3)


@pytest.mark.parametrize("rule", RULES)
def test_the_light_networks_of_timm(rule: str) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    net = timm.create_model("tf_efficientnet_lite0", num_classes=3).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        net.train()(picture(4, 3, 64, 64))
    remove_biases(net.eval())
    explanation = RULES[rule](as_network(net), picture(1, 3, 64, 64), classes(1))
    same(explanation.maps.sum((2, 3)), explanation.logits[:, 1:2], 2e-2)


def test_gates_get_nothing_and_other_products_halve() -> None:
    x = torch.tensor([[[[3.0]], [[2.0]], [[0.5]]]])

    def score(pixels: Tensor) -> Tensor:
        u, v, w = pixels.flatten(1).T
        return torch.stack([u * w.sigmoid(), u * v, v * torch.sigmoid(u)[None][0]], 1)

    net = Classifier(Applied(score), nn.Identity(), "abc").eval()
    colour = LRP("epsilon", 0)(net, x, classes(0, 1, 2)).colour[0, :, :, 0, 0]
    gated = 3 * torch.tensor(0.5).sigmoid(), 2 * torch.tensor(3.0).sigmoid()
    wanted = torch.tensor([[gated[0], 0, 0], [3, 3, 0], [0, gated[1], 0]])
    torch.testing.assert_close(colour, wanted)


def test_attention_and_deviations_count_as_constants() -> None:
    """Hold a transformer's relevance against the gradient of the same with constants detached."""
    torch.manual_seed(0)
    query, key, value = (nn.Linear(8, 8, bias=False) for _ in range(3))

    def block(tokens: Tensor, detach: bool) -> Tensor:
        q, k, v = (part(tokens)[:, None] for part in (query, key, value))
        if not detach:
            tokens = tokens + F.scaled_dot_product_attention(q, k, v)[:, 0]
            return F.layer_norm(tokens, (8,))
        matrix = (q @ k.mT / 8**0.5).softmax(-1).detach()
        tokens = tokens + (matrix @ v)[:, 0]
        centred = tokens - tokens.mean(-1, keepdim=True)
        return centred / (centred.detach().square().mean(-1, keepdim=True) + 1e-5).sqrt()

    def body(detach: bool) -> Classifier:
        torch.manual_seed(1)
        patches = nn.Conv2d(3, 8, 4, 4, bias=False)
        tokens = Applied(lambda maps: block(maps.flatten(2).mT, detach).mean(1))
        net = Classifier(nn.Sequential(patches, tokens), nn.Linear(8, 3, bias=False), "abc")
        return net.eval().requires_grad_(False)

    x = picture(2, 3, 8, 12)
    wanted = GradientTimesInput()(body(True), x, classes(1)).colour
    explanation = LRP("epsilon", 0)(body(False), x, classes(1))
    same(explanation.colour, wanted, 1e-4)
    same(explanation.maps.sum((2, 3)), explanation.logits[:, 1:2], 1e-4)


# -- input -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LRP(epsilon=-1.0), "saliency.epsilon=-1.0: expected 0 or more"),
        (lambda: LRP(gamma=-1.0), "saliency.gamma=-1.0: expected 0 or more"),
        (lambda: LRP(low=(0.0, 0.0, 0.0)), "saliency.low and saliency.high: expected both"),
        (
            lambda: LRP(low=(0.0,) * 3, high=(1.0,) * 3)(
                build_network("plain"), picture(1, 3, SIDE, SIDE), classes(0)
            ),
            "saliency.low=.*an image has values from -.*expected bounds of all",
        ),
    ],
)
def test_wrong_arguments_are_refused(make: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (lambda x: x.cumsum(1), "no rule for, cumsum"),
        (lambda x: F.batch_norm(x, None, None, training=True), "normalizes by the batch itself"),
        (lambda x: F.conv2d(x, x[:1, :, :3, :3]), "weights of conv2d from the image"),
        (lambda x: x.clamp(min=x.mean(1, keepdim=True)), "clamp with a second operand"),
        (lambda x: x - x.mean(), "computes the mean over all images"),
        (torch.jit.script(nn.SiLU()), "hides work in compiled code"),
    ],
)
def test_what_has_no_rule_is_refused(layer: Any, message: str) -> None:
    body = nn.Sequential(nn.Conv2d(3, 6, 3), Applied(layer), nn.Conv2d(6, 6, 1))
    if "weights" in message:
        body[2] = nn.Conv2d(1, 6, 1)
    net = Classifier(body, MeanLinear(6, 2), "ab").eval()
    with pytest.raises(UserError, match=f"saliency=lrp.*{message}.*integrated_gradients"):
        LRP()(net, picture(1, 3, 12, 12), classes(0))
