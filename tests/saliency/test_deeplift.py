"""DeepLIFT: captum's numbers, completeness on every kind of network, its rules by hand."""

from typing import Any

import pytest
import torch
from captum.attr import DeepLift
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.errors import UserError
from pipeline.model.classifier import Classifier, MeanLinear
from pipeline.model.torchvision import Torchvision
from pipeline.saliency.deeplift import DeepLIFT
from pipeline.saliency.integrated import GradientTimesInput, IntegratedGradients, build_baseline
from tests.saliency.networks import KINDS, SIDE, build_network
from tests.saliency.test_relu_rules import (
    RELU6,
    RELUS,
    Logits,
    classes,
    on_a_view,
    picture,
    same,
    written,
)

BASELINES: list[Any] = ["mean", "image_mean", (-2.0, 0.5, 1.0)]
ACTIVATIONS: dict[str, Any] = {
    "relu": nn.ReLU, "elu": nn.ELU, "leaky_relu": nn.LeakyReLU, "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh, "softplus": nn.Softplus,
}  # fmt: skip


def weigh_channels(x: Tensor) -> Tensor:
    """Compute products of matrices that both depend on the image, as linear attention does."""
    maps = x.flatten(2)
    return (maps @ maps.mT) @ maps.mean(2, keepdim=True) * maps.mean(1, keepdim=True)


OTHER_ACTIVATIONS: dict[str, Any] = {
    "abs": torch.abs,
    "celu": nn.CELU(),
    "clamp": lambda x: x.clamp(-0.3, 0.4),
    "clamp_max": lambda x: x.clamp(max=0.2),
    "erf": torch.erf,
    "exp": torch.exp,
    "gelu": nn.GELU(),
    "gelu, tanh": nn.GELU("tanh"),
    "group norm": lambda x: F.group_norm(x, 2, torch.full((x.shape[1],), 2.0)),
    "hard swish written out": lambda x: x * F.relu6(x + 3) / 6,
    "hardshrink": nn.Hardshrink(0.1),
    "hardsigmoid": nn.Hardsigmoid(),
    "hardswish": nn.Hardswish(inplace=True),
    "hardtanh": nn.Hardtanh(),
    "inverse": lambda x: 2 / (1 + x.abs()),
    "layer norm": lambda x: F.layer_norm(x, x.shape[1:]),
    "log": lambda x: (x.abs() + 1).log(),
    "logsigmoid": nn.LogSigmoid(),
    "mish": nn.Mish(),
    "pow": lambda x: x**2,
    "prelu": nn.PReLU(8),
    "products of matrices": weigh_channels,
    "quotient": lambda x: x / (1 + x.abs()),
    "rsqrt": lambda x: (x**2 + 1).rsqrt(),
    "selu": nn.SELU(inplace=True),
    "silu": nn.SiLU(inplace=True),
    "silu in place on a view": on_a_view(nn.SiLU(inplace=True)),
    "softshrink": nn.Softshrink(),
    "softsign": F.softsign,
    "sqrt": lambda x: (x.relu() + 0.1).sqrt(),
    "swish written out": lambda x: x * x.sigmoid(),
    "tanhshrink": nn.Tanhshrink(),
}


def difference(net: Any, x: Tensor, chosen: Tensor, baseline: Any = "mean") -> Tensor:
    """Return s_c(x) - s_c(x')."""
    with torch.no_grad():
        start = build_baseline(x, baseline).expand_as(x).contiguous()
        return (net(x).logits - net(start).logits).gather(1, chosen)


def sequential(activation: Any) -> Classifier:
    """Build a network whose modules are used once: captum sees each."""
    torch.manual_seed(0)
    body = nn.Sequential(
        nn.Conv2d(3, 8, 3), activation(), nn.AvgPool2d(2), nn.Conv2d(8, 8, 3),
        nn.BatchNorm2d(8), activation(), nn.Conv2d(8, 6, 3, 2), activation(),
    )  # fmt: skip
    with torch.no_grad():
        body.train()(torch.randn(4, 3, 32, 32))
    return Classifier(body, MeanLinear(6, 4), "abcd").eval().requires_grad_(False)


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.filterwarnings("ignore:Setting forward, backward hooks")
def test_it_is_captum_s(activation: str, baseline: Any) -> None:
    # captum divides by small differences, which in float32 are rounding.
    net, x = sequential(ACTIVATIONS[activation]).double(), picture(2, 3, 32, 40).double()
    explanation = DeepLIFT(baseline)(net, x, classes(3, 1))
    start = build_baseline(x, baseline).expand_as(x).contiguous()
    for column, label in enumerate((3, 1)):
        wanted = DeepLift(Logits(net)).attribute(x.clone(), start, target=label)
        same(explanation.colour[:, column], wanted.detach(), 1e-6)
        same(explanation.maps[:, column], wanted.sum(1).detach(), 1e-6)


@pytest.mark.filterwarnings("ignore:Setting forward, backward hooks")
def test_max_pooling_is_captum_s() -> None:
    """Compare without biases: the baseline is then 0 in all layers, wherever its maximum is.

    A baseline of one colour has no single maximum, and captum takes what rounding makes of it.
    """
    torch.manual_seed(0)
    body = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, bias=False),
        nn.ReLU(), nn.MaxPool2d(3), nn.Conv2d(8, 6, 1, bias=False), nn.ReLU(),
    )  # fmt: skip
    net = Classifier(body, MeanLinear(6, 4), "abcd").eval().requires_grad_(False)
    x = picture(1, 3, 32, 40)
    wanted = DeepLift(Logits(net)).attribute(x.clone(), torch.zeros_like(x), target=2)
    same(DeepLIFT()(net, x, classes(2)).colour[:, 0], wanted, 1e-5)


class Applied(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Linearized(nn.Module):
    """The network with each ReLU replaced by its multiplier: the definition, by hand."""

    def __init__(self, net: Classifier, x: Tensor, start: Tensor) -> None:
        super().__init__()
        self.net = net
        values: list[list[Tensor]] = []
        for images in (x, start):
            values.append([])
            net.body.relu = Applied(self.record(values[-1]))
            net(images)
        self.multipliers = [
            ((a.relu() - b.relu()) / (a - b)).nan_to_num(0.5) for a, b in zip(*values, strict=True)
        ]

    @staticmethod
    def record(values: list[Tensor]) -> Any:
        def relu(z: Tensor) -> Tensor:
            values.append(z)
            return z.relu()

        return relu

    def forward(self, x: Tensor) -> Tensor:
        remaining = iter(self.multipliers)
        self.net.body.relu = Applied(lambda z: z * next(remaining))
        return self.net(x).logits


@pytest.mark.parametrize("form", [form for form in RELUS if form != "scripted"])
def test_relu_in_every_form(form: str) -> None:
    x, method = picture(2, 3, 12, 20), DeepLIFT((0.3, 0.3, 0.3))
    net = written(RELUS[form])
    explanation = method(net, x, classes(3, 0))
    wanted = difference(net, x, explanation.classes, (0.3, 0.3, 0.3))
    same(explanation.maps.sum((2, 3)), wanted, 1e-4)
    same(explanation.colour, method(written(F.relu), x, classes(3, 0)).colour)


@pytest.mark.parametrize("form", RELU6)
def test_relu6_in_every_form(form: str) -> None:
    x = picture(2, 3, 12, 20)
    net = written(RELU6[form], scale=4.0)
    explanation = DeepLIFT((0.3, 0.3, 0.3))(net, x, classes(3, 0))
    same(explanation.maps.sum((2, 3)),
         difference(net, x, explanation.classes, (0.3, 0.3, 0.3)), 1e-4)  # fmt: skip
    wanted = DeepLIFT((0.3, 0.3, 0.3))(written(F.relu6, scale=4.0), x, classes(3, 0))
    same(explanation.colour, wanted.colour)


def test_the_rescale_rule_by_hand() -> None:
    """Hold ReLUs, one of them used several times, against the linearized network."""
    net = written(nn.ReLU())
    pooled = F.max_pool2d
    x, start = picture(2, 3, 12, 20), torch.full((2, 3, 12, 20), 0.3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "max_pool2d", lambda maps, size: F.avg_pool2d(maps, size))
        assert F.max_pool2d is not pooled
        explanation = DeepLIFT((0.3, 0.3, 0.3))(net, x, classes(3, 0))
        linear = Linearized(written(nn.ReLU()), x, start)
        for column, label in enumerate((3, 0)):
            point = x.clone().requires_grad_()
            (slopes,) = torch.autograd.grad(linear(point)[:, label].sum(), point)
            same(explanation.colour[:, column], slopes * (x - start), 1e-5)


@pytest.mark.parametrize("name", OTHER_ACTIVATIONS)
def test_completeness_with_activations_that_captum_does_not_know(name: str) -> None:
    x = picture(2, 3, 12, 20)
    function = OTHER_ACTIVATIONS[name]
    body = nn.Sequential(nn.Conv2d(3, 8, 3), Applied(lambda z: function(z).flatten(2)[..., None]),
                         nn.Conv2d(8, 6, 1), nn.SiLU())  # fmt: skip
    net = Classifier(body, MeanLinear(6, 5), "abcde").eval().requires_grad_(False)
    explanation = DeepLIFT((-0.5, 0.2, 0.0))(net, x, classes(1, 4))
    wanted = difference(net, x, explanation.classes, (-0.5, 0.2, 0.0))
    same(explanation.maps.sum((2, 3)), wanted, 2e-5)
    assert explanation.maps.isfinite().all()


def by_hand(function: Any) -> Classifier:
    """Build a network whose scores are functions of the pixels of an image 1 pixel high."""
    return Classifier(Applied(function), nn.Identity(), "ab").eval()


def test_a_product_has_the_shapley_value_of_its_factors() -> None:
    net = by_hand(lambda x: torch.stack([x[:, 0, 0, 0] * x[:, 1, 0, 0], x[:, 0, 0, 1] ** 2], 1))
    x = torch.tensor([[[[2.0, 3.0]], [[5.0, 0.0]], [[0.0, 0.0]]]])
    colour = DeepLIFT((1.0, 7.0, 0.0))(net, x, classes(0, 1)).colour[0]
    # f(x0, x1) = x0 x1: the mean of what each adds alone, and after the other.
    assert colour[0, 0, 0, 0] == ((2 - 1) * 7 + (2 - 1) * 5) / 2
    assert colour[0, 1, 0, 0] == ((5 - 7) * 1 + (5 - 7) * 2) / 2
    assert colour[1, 0, 0, 1] == 3**2 - 1**2
    assert colour.abs().sum() == 6 + 3 + 8


@pytest.mark.parametrize(
    ("values", "start", "wanted"),
    [
        ([1.0, 5.0, 2.0], 3.0, [0, 2, 0]),  # the maximum of the image has risen
        ([1.0, 2.0, 0.0], 3.0, [0, -1, 0]),  # of equal maxima, that of the image fell
        ([3.0, 1.0, 2.0], 3.0, [0, 0, 0]),
    ],
)
def test_max_pooling_by_hand(values: list[float], start: float, wanted: list[float]) -> None:
    net = by_hand(lambda x: F.max_pool2d(x, (1, 3))[:, :2, 0, 0])
    x = torch.tensor(values).expand(1, 3, 1, 3).clone()
    colour = DeepLIFT((start, start, start))(net, x, classes(0)).colour[0, 0, 0, 0]
    assert colour.tolist() == wanted


@pytest.mark.parametrize("pool", [
    nn.MaxPool2d(3, 1, 1), nn.MaxPool2d(3, 2, ceil_mode=True), nn.MaxPool2d(2, 2, dilation=2),
    nn.AdaptiveMaxPool2d(3), lambda x: torch.max_pool2d(x, [2, 2]),
])  # fmt: skip
def test_windows_of_max_pooling_may_overlap(pool: Any) -> None:
    body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(inplace=True), Applied(pool))
    net, x = Classifier(body, MeanLinear(6, 4), "abcd").eval(), picture(3, 3, 12, 16)
    explanation = DeepLIFT("image_mean")(net, x, classes(2))
    wanted = difference(net, x, explanation.classes, "image_mean")
    same(explanation.maps.sum((2, 3)), wanted, 1e-5)


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "transformer"])
def test_completeness_on_every_kind_of_network(kind: str, baseline: Any) -> None:
    net, x = build_network(kind), picture(2, 3, SIDE, SIDE)
    explanation = DeepLIFT(baseline)(net, x, classes(2, 0))
    wanted = difference(net, x, explanation.classes, baseline)
    same(explanation.maps.sum((2, 3)), wanted, 1e-4)


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "mobilenet_v3_small", "convnext_tiny",
                                  "googlenet", "efficientnet_b0"])  # fmt: skip
def test_completeness_on_networks_of_torchvision(name: str) -> None:
    torch.manual_seed(0)
    # `imagenet` only spares their slow random initialisation: nothing is downloaded.
    body, head = Torchvision(name, "imagenet").own(4)
    net = Classifier(body, head, "abcd").eval().requires_grad_(False)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        net.train()(picture(4, 3, 64, 64))
    net.eval()
    x = picture(2, 3, 64, 64, seed=1)
    explanation = DeepLIFT((-1.0, 0.0, 0.5))(net, x, classes(1))
    wanted = difference(net, x, explanation.classes, (-1.0, 0.0, 0.5))
    same(explanation.maps.sum((2, 3)), wanted, 1e-3)


def test_where_the_score_is_linear_it_is_integrated_gradients() -> None:
    body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.AvgPool2d(2), nn.BatchNorm2d(6))
    net, x = Classifier(body, MeanLinear(6, 4), "abcd").eval(), picture(2, 3, 12, 16)
    wanted = IntegratedGradients(1, "right", (0.1, 0.2, 0.3))(net, x, classes(2)).colour
    same(DeepLIFT((0.1, 0.2, 0.3))(net, x, classes(2)).colour, wanted, 1e-5)


def test_without_biases_it_is_gradient_times_input_from_zero() -> None:
    body = nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), nn.ReLU(), nn.Conv2d(6, 6, 3, bias=False))
    net, x = Classifier(body, MeanLinear(6, 4), "abcd").eval(), picture(2, 3, 12, 16)
    same(DeepLIFT()(net, x, classes(2)).colour, GradientTimesInput()(net, x, classes(2)).colour,
         1e-5)  # fmt: skip


def test_an_image_that_is_its_baseline_has_a_map_of_zeros() -> None:
    net = build_network("squeeze_excitation")
    explanation = DeepLIFT((0.5, 0.5, 0.5))(net, torch.full((1, 3, SIDE, SIDE), 0.5), classes(1))
    assert torch.equal(explanation.maps, torch.zeros(1, 1, SIDE, SIDE))


def test_the_baseline_runs_once_for_all_images() -> None:
    sizes = []

    class Spy(Classifier):
        def forward(self, images: Tensor, at: Any = ()) -> Any:
            sizes.append(len(images))
            return super().forward(images, at)

    net = build_network("plain")
    spy = Spy(net.body, net.head, net.classes).eval()
    DeepLIFT()(spy, picture(5, 3, SIDE, SIDE), classes(1))
    DeepLIFT("image_mean")(spy, picture(5, 3, SIDE, SIDE), classes(1))
    assert sizes == [1, 5, 5, 5]


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (lambda x: x.softmax(1), "attention or another softmax, softmax"),
        (lambda x: F.scaled_dot_product_attention(x, x, x), "scaled_dot_product_attention"),
        (lambda x: x.cumsum(1), "no rule for, cumsum"),
        (
            lambda x: x.relu() if float(x.detach()[0, 0].std()) > 0.01 else x.sigmoid(),
            "other operations for the im",
        ),
        (lambda x: F.batch_norm(x, None, None, training=True), "normalizes by the batch itself"),
        (lambda x: F.conv2d(x, x[:1, :, :3, :3]), "weights of conv2d from the image"),
        (lambda x: x.clamp(min=x.mean(1, keepdim=True)), "clamp with a second operand"),
        (lambda x: F.max_pool2d(x, 2, return_indices=True)[0], "no rule for, max_pool2d_with_ind"),
        (torch.jit.script(nn.ReLU(inplace=True)), "hides work in compiled code"),
    ],
)
def test_what_has_no_rule_is_refused(layer: Any, message: str) -> None:
    body = nn.Sequential(nn.Conv2d(3, 6, 3), Applied(layer), nn.Conv2d(6, 6, 1))
    if "weights" in message:
        body[2] = nn.Conv2d(1, 6, 1)
    net = Classifier(body, MeanLinear(6, 2), "ab").eval()
    x = picture(1, 3, 12, 12) + 1
    with pytest.raises(UserError, match=f"saliency=deeplift.*{message}.*integrated_gradients"):
        DeepLIFT()(net, x, classes(0))
