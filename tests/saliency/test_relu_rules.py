"""The rule holds for all ReLUs, however written; nothing is left behind; others are refused."""

import gc
from types import FunctionType
from typing import Any

import pytest
import torch
from captum.attr import Deconvolution
from captum.attr import GuidedBackprop as CaptumGuided
from torch import nn
from torch.nn import functional as F

from pipeline.errors import UserError
from pipeline.model.classifier import Classifier, MeanLinear
from pipeline.model.small import Small
from pipeline.model.torchvision import Torchvision
from pipeline.ops.relu_rules import OutOfPlaceActivations
from pipeline.protocols import SaliencyMethod
from pipeline.saliency.deconvnet import Deconvnet
from pipeline.saliency.gradient import Gradient
from pipeline.saliency.guided_backprop import GuidedBackprop
from pipeline.saliency.guided_gradcam import GuidedGradCAM
from tests.saliency.networks import check_threads

METHODS: dict[str, SaliencyMethod] = {"deconvnet": Deconvnet(), "guided": GuidedBackprop()}


class ByHand(torch.autograd.Function):
    """A ReLU, open between 0 and `top`, with an explicit backward rule: the reference."""

    @staticmethod
    def forward(ctx, x, top, rule):
        ctx.save_for_backward((x > 0) & (x < top))
        ctx.rule = rule
        return x.clamp(0, top)

    @staticmethod
    def backward(ctx, g):
        (open_,) = ctx.saved_tensors
        if ctx.rule == "gradient":
            return g * open_, None, None
        return (g.relu() if ctx.rule == "deconvnet" else g.relu() * open_), None, None


def by_hand(rule, top=float("inf")):
    return lambda x: ByHand.apply(x, top, rule)


class Written(nn.Module):
    """A body whose ReLUs are written as `relu`; it branches, pools and adds."""

    def __init__(self, relu, scale=1.0):
        super().__init__()
        torch.manual_seed(0)
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, 3, padding=1) for a, b in [(3, 8), (8, 8), (8, 8), (8, 6)]
        )
        conv: Any
        for conv in self.convs:
            conv.weight.data.mul_(scale)
        self.relu = relu  # shared, where it is a module

    def forward(self, x):
        first, two, three, four = self.convs
        x = F.max_pool2d(self.relu(first(x)), 2)
        side = self.relu(two(x))
        x = self.relu(three(side) + x)
        return self.relu(four(torch.cat((x[:, :4], side[:, 4:]), 1)))


def written(relu, scale=1.0):
    body = Written(relu, scale)
    head = MeanLinear(6, 5)
    torch.manual_seed(1)
    nn.init.normal_(head.linear.weight)
    return Classifier(body, head, "abcde").eval().requires_grad_(False)


def classes(*columns):
    return lambda logits: torch.tensor([columns]).expand(len(logits), -1)


def picture(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def ignoring(change):
    """Wrap an in-place function as code that ignores its result and uses its argument."""

    def relu(x):
        change(x)
        return x

    return relu


def on_a_view(change):
    def relu(x):
        change(x.flatten(1))
        return x

    return relu


RELUS = {
    "module": nn.ReLU(),
    "module in place": nn.ReLU(inplace=True),
    "functional": F.relu,
    "functional in place": lambda x: F.relu(x, inplace=True),
    "functional in place, by position": lambda x: F.relu(x, True),
    "F.relu_": F.relu_,
    "torch.relu": torch.relu,
    "torch.relu_, its answer ignored": ignoring(torch.relu_),
    "method": lambda x: x.relu(),
    "method in place": lambda x: x.relu_(),
    "module in place, its answer ignored": ignoring(nn.ReLU(inplace=True)),
    "method in place on a view": on_a_view(lambda x: x.relu_()),
    "module in place on a view": on_a_view(nn.ReLU(inplace=True)),
    "clamp_ on a view": on_a_view(lambda x: x.clamp_(min=0)),
    "clamp": lambda x: x.clamp(min=0),
    "clamp_": ignoring(lambda x: x.clamp_(min=0)),
    "torch.clamp_min": lambda x: torch.clamp_min(x, 0),
    "clamp_min_": lambda x: x.clamp_min_(0.0),
    "clip": lambda x: torch.clip(x, 0),
    "threshold": nn.Threshold(0, 0),
    "hardtanh": nn.Hardtanh(0.0, float("inf")),
    "aten": torch.ops.aten.relu,
    "scripted": torch.jit.script(nn.ReLU(inplace=True)),
}

RELU6 = {
    "module": nn.ReLU6(),
    "module in place": nn.ReLU6(inplace=True),
    "functional": F.relu6,
    "functional in place": ignoring(lambda x: F.relu6(x, inplace=True)),
    "hardtanh": lambda x: F.hardtanh(x, 0.0, 6.0),
    "hardtanh_": ignoring(lambda x: F.hardtanh_(x, 0.0, 6.0)),
    "module in place on a view": on_a_view(nn.ReLU6(inplace=True)),
    "Hardtanh": nn.Hardtanh(0, 6),
    "clamp": lambda x: x.clamp(0, 6),
    "clip_": ignoring(lambda x: x.clip_(0, 6)),
}


def same(values, wanted, tolerance=1e-6):
    size = wanted.abs().max()
    assert size > 0
    assert (values - wanted).abs().max() <= tolerance * size


@pytest.mark.parametrize("rule", METHODS)
@pytest.mark.parametrize("form", RELUS)
def test_relu_in_every_form(form, rule):
    x, choose = picture(2, 3, 12, 20), classes(3, 0)
    x[:, :, :, :9] = 0  # without biases zeros reach all ReLUs, which are shut at them
    nets = [written(relu) for relu in (RELUS[form], by_hand(rule), by_hand("gradient"))]
    for net in nets:
        for conv in net.body.convs:
            nn.init.zeros_(conv.bias)
    wanted, plain = (Gradient()(net, x, choose) for net in nets[1:])
    explanation = METHODS[rule](nets[0], x, choose)
    assert torch.equal(explanation.logits, wanted.logits)
    same(explanation.colour, wanted.colour)
    same(explanation.maps, wanted.maps)
    assert (explanation.colour - plain.colour).abs().max() > 0.1 * plain.colour.abs().max()


@pytest.mark.parametrize("rule", METHODS)
@pytest.mark.parametrize("form", RELU6)
def test_relu6_in_every_form(form, rule):
    x, choose = picture(2, 3, 12, 20), classes(3, 0)
    six = written(RELU6[form], scale=4.0)
    wanted = Gradient()(written(by_hand(rule, 6.0), scale=4.0), x, choose)
    unlimited = Gradient()(written(by_hand(rule), scale=4.0), x, choose)
    explanation = METHODS[rule](six, x, choose)
    same(explanation.colour, wanted.colour)
    assert not torch.allclose(explanation.logits, unlimited.logits)  # some are above 6


def test_masks_by_hand():
    """Write the rules out for two layers, as in the papers."""
    first, last = nn.Conv2d(3, 6, 1, bias=False), nn.Linear(6, 4)
    head = MeanLinear(6, 4)
    head.linear = last
    net = Classifier(nn.Sequential(first, nn.ReLU()), head, "abcd").eval()
    x = picture(1, 3, 4, 6)
    g = last.weight[2].detach()[:, None, None] / 24
    open_ = first(x)[0].detach() > 0
    weight = first.weight[:, :, 0, 0].detach()
    for method, signal in (
        (Gradient("sum"), g * open_),
        (Deconvnet("sum"), g.relu().expand(6, 4, 6)),
        (GuidedBackprop("sum"), g.relu() * open_),
    ):
        wanted = torch.einsum("kc,khw->chw", weight, signal)
        explanation = method(net, x, classes(2))
        same(explanation.colour[0, 0], wanted)
        same(explanation.maps[0, 0], wanted.sum(0))


def test_without_max_pooling_deconvnet_does_not_know_the_image():
    net = plain_modules()
    colour = Deconvnet()(net, picture(3, 3, 40, 56), classes(5)).colour
    same(colour[1:], colour[:1].expand(2, -1, -1, -1, -1))


class Logits(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x).logits


def plain_modules():
    """Build a network whose ReLUs are modules used once, out of place: captum sees each."""
    torch.manual_seed(0)
    body, channels = Small(8).body()
    return Classifier(body, MeanLinear(channels, 7), "abcdefg").eval()


@pytest.mark.parametrize(
    ("method", "peer"), [(Deconvnet(), Deconvolution), (GuidedBackprop(), CaptumGuided)]
)
@pytest.mark.filterwarnings("ignore:Setting backward hooks")
def test_captum_where_it_sees_every_relu(method, peer):
    net, x = plain_modules(), picture(3, 3, 40, 56)
    explanation = method(net, x, classes(5, 2))
    for column, label in enumerate((5, 2)):
        wanted = peer(Logits(net)).attribute(x.clone(), target=label)
        same(explanation.colour[:, column], wanted)
        same(explanation.maps[:, column], wanted.abs().amax(1))


@pytest.mark.parametrize("name", ["googlenet", "inception_v3", "mobilenet_v2", "densenet121"])
@pytest.mark.filterwarnings("ignore:Setting backward hooks")
def test_networks_whose_relus_captum_does_not_see(name, monkeypatch):
    torch.manual_seed(0)
    # `imagenet` only spares their slow random initialisation: nothing is downloaded.
    body, head = Torchvision(name, "imagenet").own(10)
    net = Classifier(body, head, "abcdefghij").eval().requires_grad_(False)
    x, choose = picture(1, 3, 80, 96), classes(4)
    plain = Gradient()(net, x, choose).colour
    colours = {rule: method(net, x, choose).colour for rule, method in METHODS.items()}
    if name != "densenet121":  # half of its ReLUs are modules
        captum = CaptumGuided(Logits(net)).attribute(x.clone(), target=4)
        assert torch.equal(captum, plain[:, 0])
    for rule in METHODS:
        with monkeypatch.context() as patch:
            patch.setattr(F, "relu", lambda x, inplace=False, rule=rule: by_hand(rule)(x))
            patch.setattr(F, "relu6", lambda x, inplace=False, rule=rule: by_hand(rule, 6)(x))
            patch.setattr(F, "hardtanh", lambda x, a, b, i, rule=rule: by_hand(rule, b)(x))
            wanted = Gradient()(net, x, choose).colour
        same(colours[rule], wanted, 1e-5)
        similarity = nn.functional.cosine_similarity(colours[rule].flatten(), plain.flatten(), 0)
        assert similarity < 0.9, similarity


@pytest.mark.parametrize(
    ("name", "size", "activation"),
    [
        ("convnext_tiny", 32, "GELU"),
        ("efficientnet_b0", 32, "SiLU"),
        ("mobilenet_v3_small", 32, "Hardswish"),
        ("vit_b_16", 224, "GELU"),
    ],
)
def test_other_networks_are_refused(name, size, activation):
    body, head = Torchvision(name, "imagenet").own(2)
    last = Torchvision(name, None).last
    net = Classifier(body, head, "ab", last=last).eval().requires_grad_(False)
    with pytest.raises(
        UserError, match=rf"activation, {activation}\. Methods for any network: grad"
    ):
        GuidedBackprop()(net, torch.zeros(1, 3, size, size), classes(0))


class Swish(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x.sigmoid()

    @staticmethod
    def backward(ctx, g):
        return g * ctx.saved_tensors[0].sigmoid()


@pytest.mark.parametrize(
    ("activation", "message"),
    [
        (nn.GELU(), "GELU"),
        (nn.GELU("tanh"), "GELU"),
        (nn.SiLU(inplace=True), "SiLU"),
        (on_a_view(nn.SiLU(inplace=True)), "SiLU"),
        (nn.Mish(), "Mish"),
        (nn.Hardswish(), "Hardswish"),
        (nn.ELU(), "ELU or SELU"),
        (nn.SELU(inplace=True), "ELU or SELU"),
        (nn.CELU(), "CELU"),
        (nn.LeakyReLU(inplace=True), "LeakyReLU"),
        (on_a_view(nn.LeakyReLU(inplace=True)), "LeakyReLU"),
        (nn.PReLU(), "PReLU"),
        (nn.RReLU(), "RReLU"),
        (nn.Softplus(), "Softplus"),
        (nn.Softsign(), "abs"),
        (nn.Tanh(), "tanh"),
        (nn.Tanhshrink(), "tanh"),
        (nn.LogSigmoid(), "LogSigmoid"),
        (nn.Hardshrink(), "Hardshrink"),
        (nn.Softshrink(), "Softshrink"),
        (nn.Hardtanh(), "clamp to -1.0 and 1.0"),
        (nn.Threshold(1, 0), "threshold at 1"),
        (lambda x: x.maximum(torch.zeros(())), "maximum with a constant"),
        (lambda x: torch.where(x > 0, x, 0.1 * x), "torch.where"),
        (lambda x: x.clamp(min=torch.zeros(())), "clamp to a tensor"),
        (lambda x: x * 0.5 * (1 + torch.erf(x / 2**0.5)), "erf"),
        (lambda x: x * x.sigmoid(), "swish written out"),
        (lambda x: F.relu6(x + 3) / 6 * x, "swish written out"),
        (Swish.apply, "hides work in a function, Swish"),
    ],
)
def test_other_activations_are_refused_beside_relus_too(activation, message):
    relu = nn.ReLU()
    net = written(lambda x: relu(activation(x)))
    for method in (*METHODS.values(), GuidedGradCAM()):
        with pytest.raises(UserError, match=message):
            method(net, picture(1, 3, 8, 8), classes(0))
    Gradient()(net, picture(1, 3, 8, 8), classes(0))


@pytest.mark.parametrize(
    "plain", [nn.Identity(), nn.Sigmoid(), nn.Softmax(1), nn.MaxPool2d(3, 1, 1), lambda x: x**2]
)
def test_a_network_without_relu_is_refused(plain):
    with pytest.raises(UserError, match="has no ReLU between the image and the score"):
        GuidedBackprop()(written(plain), picture(1, 3, 8, 8), classes(0))


def test_gates_and_guards_beside_relus_are_no_activations():
    def gated(relu):
        def block(x):
            x = relu(x)
            gate = x.mean((2, 3), keepdim=True).sigmoid() * F.hardsigmoid(x.mean(1, keepdim=True))
            return x * gate * x.softmax(1) + x.clamp(min=1e-6) ** 0.5

        return block

    x = picture(2, 3, 8, 12)
    for rule, method in METHODS.items():
        wanted = Gradient()(written(gated(by_hand(rule))), x, classes(1))
        same(method(written(gated(F.relu)), x, classes(1)).colour, wanted.colour)


def test_two_threads_on_one_network_do_not_mix():
    net, x = written(nn.ReLU(inplace=True)), picture(2, 3, 24, 32)
    check_threads(net, x, {"gradient": Gradient(), **METHODS}, classes(1), 20)


class Fails(nn.Module):
    def forward(self, x):
        raise RuntimeError("in the middle")


def state(net):
    hooks = [
        (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
        for m in net.modules()
    ]
    tensors = [
        (t.clone(), t.requires_grad, t.grad) for t in net.state_dict(keep_vars=True).values()
    ]
    return hooks, tensors, [m.training for m in net.modules()], torch.is_grad_enabled()


@pytest.mark.parametrize("method", [*METHODS.values(), GuidedGradCAM()])
@pytest.mark.parametrize("where", ["forward", "choose", "refusal", "nothing"])
def test_nothing_is_left_behind(method, where):
    body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True))
    if where == "forward":
        body.append(Fails())
    if where == "refusal":
        body.append(nn.GELU())
    net = Classifier(body, MeanLinear(4, 2), "ab").train()
    before = state(net)

    def choose(logits):
        if where == "choose":
            raise RuntimeError("in the middle")
        return logits.argmax(1, keepdim=True)

    x = picture(2, 3, 8, 8)
    if where == "nothing":
        method(net, x, choose)
    else:
        with pytest.raises((RuntimeError, UserError), match=r"in the middle|GELU"):
            method(net, x, choose)
    after = state(net)
    assert after[0] == before[0]
    assert after[2:] == before[2:]
    for (a, *flags), (b, *wanted) in zip(after[1], before[1], strict=True):
        assert torch.equal(a, b)
        assert flags == wanted
    assert not x.requires_grad
    assert body[1].inplace
    assert torch._C._len_torch_function_stack() == 0
    if where == "nothing":  # the rule has gone with the graph
        captum = torch.autograd.functional.jacobian(lambda x: net(x).logits.sum(), x)
        same(Gradient("sum")(net, x, classes(0, 1)).colour.sum(1), captum)


@pytest.mark.parametrize("form", ["module", "clamp", "clamp_ on a view"])
def test_the_graph_is_freed_at_once(form):
    """Check that no cycle of a node and its hook waits for the garbage collector."""

    def hooks():
        functions = [item for item in gc.get_objects() if type(item) is FunctionType]
        return {
            id(item) for item in functions if item.__qualname__.startswith("_make_hook.<locals>")
        }

    gc.collect()
    gc.disable()
    try:
        before = hooks()
        explanation = GuidedBackprop()(written(RELUS[form]), picture(1, 3, 8, 8), classes(0))
        assert hooks() <= before
    finally:
        gc.enable()
    assert not explanation.maps.requires_grad
    assert not explanation.logits.requires_grad


def test_what_is_no_activation_runs_in_place_as_ever():
    x = picture(2, 3, 4).clone()
    with OutOfPlaceActivations():
        view = x[:, 1]
        assert view.mul_(2) is view
        assert view.transpose_(0, 1) is view
        assert F.relu(view, inplace=True) is view
    assert view.shape == (4, 2)
    assert (x[:, 1] >= 0).all()
    assert (x[:, 0] < 0).any()
