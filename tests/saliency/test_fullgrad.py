"""FullGrad's completeness: image and biases make the score, on any network; and the peer's maps."""

import threading
from typing import Any

import pytest
import torch
from pytorch_grad_cam import FullGrad as PeerFullGrad
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn
from torch.nn import functional as F

from pipeline.errors import UserError
from pipeline.model.classifier import Classifier, MeanLinear
from pipeline.model.torchvision import Torchvision
from pipeline.saliency.fullgrad import FullGrad


def top(count):
    return lambda logits: logits.topk(count, dim=1).indices


def randomize(net):
    """Set biases and statistics as training would, so that none is trivial."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.5)
        elif isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.normal_(module.bias, std=0.1)
    return net.eval().requires_grad_(False)


def small():
    torch.manual_seed(0)
    body = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True),
        nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(),
    )  # fmt: skip
    return randomize(Classifier(body, MeanLinear(8, 4), "abcd"))


def torchvision(name, classes=10):
    torch.manual_seed(0)
    builder = Torchvision(name, None)
    body, head = builder.own(classes)
    return randomize(
        Classifier(body, head, [str(n) for n in range(classes)], builder.last, builder.below)
    )  # fmt: skip


def sum_terms(net, x, choose, monkeypatch):
    """Return the sum [b, t] of the terms of image and biases, and the explanation."""
    totals = []
    inner = FullGrad._build_map

    def watched(self, scores, pairs):
        totals.append(sum((gradient * value).flatten(1).sum(1) for gradient, value in pairs))
        return inner(self, scores, pairs)

    monkeypatch.setattr(FullGrad, "_build_map", watched)
    explanation = FullGrad()(net, x, choose)
    return torch.stack(totals, 1), explanation


@pytest.mark.parametrize(
    "name",
    ["alexnet", "resnet18", "googlenet", "mobilenet_v2", "mobilenet_v3_small", "squeezenet1_1"],
)
def test_image_and_biases_make_the_score(name, monkeypatch):
    """Check ReLU, ReLU6, in place and functional, batch norm, shifts, hard swish and gates."""
    net, x = torchvision(name), 3 * torch.randn(2, 3, 96, 128)
    total, explanation = sum_terms(net, x, top(2), monkeypatch)
    scores = explanation.logits.gather(1, explanation.classes)
    torch.testing.assert_close(total, scores, rtol=1e-4, atol=1e-4)
    assert explanation.maps.shape == (2, 2, 96, 128)
    assert (explanation.maps >= 0).all()
    assert torch.equal(explanation.logits, net(x).logits)


@pytest.mark.parametrize(
    "activation",
    [nn.ReLU6(True), nn.SiLU(), nn.GELU(), nn.Hardswish(), nn.Sigmoid(), nn.Tanh(), nn.ELU(True),
     nn.LeakyReLU(), nn.Softplus(), nn.Mish()],
    ids=lambda activation: type(activation).__name__,
)  # fmt: skip
def test_every_activation_counts(activation, monkeypatch):
    net = small()
    net.body[2] = activation
    with torch.no_grad():
        net.body[1].weight.mul_(5)  # so that ReLU6 is saturated here and there
    x = torch.randn(2, 3, 24, 40)
    total, explanation = sum_terms(net, x, top(1), monkeypatch)
    torch.testing.assert_close(
        total, explanation.logits.gather(1, explanation.classes), rtol=1e-4, atol=1e-5
    )  # fmt: skip


def test_operations_without_modules(monkeypatch):
    """Check constants added and subtracted, products of activations, functional convolutions."""

    class Body(nn.Module):
        shift: torch.Tensor

        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 6, 3)
            self.register_buffer("shift", torch.randn(6, 1, 1))

        def forward(self, x):
            x = 1 - (x + 0.5) * 2
            x = F.relu(self.conv(x)) + self.shift
            gate = torch.sigmoid(F.conv2d(x, torch.ones(6, 6, 1, 1), torch.ones(6)))
            x = x * gate - 0.25
            x -= self.shift
            return torch.cat((x, x.clamp(-0.5, 0.5)), 1)

    torch.manual_seed(0)
    net = randomize(Classifier(Body(), MeanLinear(12, 4), "abcd"))
    total, explanation = sum_terms(net, torch.randn(2, 3, 12, 20), top(4), monkeypatch)
    torch.testing.assert_close(
        total, explanation.logits.gather(1, explanation.classes), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("rescale", ["layer", "channel"])
def test_equals_its_definition(rescale):
    net, x = small(), torch.randn(2, 3, 24, 40)
    explanation = FullGrad(rescale)(net, x, top(2))
    conv, norm, _, last, _ = net.body
    image = x.clone().requires_grad_()
    z1 = conv(image)
    z2 = norm(z1)
    z3 = last(F.relu(z2))
    logits = net.head(F.relu(z3))
    norm_bias = norm.bias - norm.weight * norm.running_mean / (norm.running_var + norm.eps).sqrt()
    for t in range(2):
        score = logits.gather(1, explanation.classes[:, t : t + 1]).sum()
        slopes = torch.autograd.grad(score, (image, z2, z3), retain_graph=True)
        for n in range(2):
            wanted: Any = 0
            for slope, value in zip(slopes, (x[n], norm_bias, last.bias), strict=True):
                value = value if value.ndim == 3 else value[:, None, None]
                share = (slope[n] * value).abs()
                if rescale == "layer":
                    share = (share - share.min()) / (share.max() - share.min())
                for channel in share:
                    if rescale == "channel":
                        channel = (channel - channel.min()) / (channel.max() - channel.min())
                    wanted = wanted + F.interpolate(channel[None, None], (24, 40), mode="bilinear")
            torch.testing.assert_close(explanation.maps[n, t], wanted[0, 0], rtol=1e-4, atol=1e-5)


class Logits(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x).logits


def peer(net, x, classes):
    targets = [ClassifierOutputTarget(int(label)) for label in classes]
    with PeerFullGrad(Logits(net), []) as method:
        return torch.from_numpy(method(x.clone(), targets))


def min_max(maps):
    maps = maps - maps.amin((-2, -1), keepdim=True)
    return maps / maps.amax((-2, -1), keepdim=True)


@pytest.mark.parametrize(
    "make", [small, lambda: torchvision("resnet18")], ids=["small", "resnet18"]
)
def test_channel_by_channel_equals_pytorch_grad_cam(make):
    """Compare networks whose biases are all of convolutions or batch norms: it sees no others."""
    net, x = make(), torch.randn(2, 3, 64, 96)
    net.head.linear.weight.mul_(1e5)  # it adds 1e-7 to what it divides by
    explanation = FullGrad("channel")(net, x, top(1))
    wanted = peer(net.requires_grad_(), x, explanation.classes[:, 0])
    torch.testing.assert_close(min_max(explanation.maps[:, 0]), wanted, rtol=1e-4, atol=1e-5)


def test_pytorch_grad_cam_misses_what_relu6_adds():
    net, x = small(), 3 * torch.randn(2, 3, 24, 40)
    net.body[2] = nn.ReLU6()
    net.body[1].weight.mul_(5)
    net.head.linear.weight.mul_(1e5)
    explanation = FullGrad("channel")(net, x, top(1))
    other = peer(net.requires_grad_(), x, explanation.classes[:, 0])
    assert (min_max(explanation.maps[:, 0]) - other).abs().max() > 0.02


def test_activations_in_place_or_not_give_the_same_map():
    class Functional(nn.Module):
        def __init__(self, layers):
            super().__init__()
            self.conv, self.norm, _, self.last, _ = layers

        def forward(self, x):
            x = self.norm(self.conv(x)).relu_()
            return torch.relu(self.last(x))

    net, x = small(), torch.randn(2, 3, 24, 40)
    wanted = FullGrad()(net, x, top(1)).maps
    net.body[2].inplace = False
    torch.testing.assert_close(FullGrad()(net, x, top(1)).maps, wanted)
    net.body = Functional(net.body)
    torch.testing.assert_close(FullGrad()(net, x, top(1)).maps, wanted)


def test_unknown_operations_are_refused():
    class Normed(nn.Module):
        def forward(self, x):
            return F.layer_norm(x, x.shape[1:])

    net = small()
    net.body.append(Normed())
    with pytest.raises(
        UserError, match=r"bias is not known here \(layer norm.*integrated_gradients"
    ):
        FullGrad()(net, torch.randn(1, 3, 24, 40), top(1))


def test_batch_of_one_gives_the_same_maps():
    net, x = small(), torch.randn(5, 3, 24, 40)
    together = FullGrad()(net, x, top(2))
    for n in range(5):
        alone = FullGrad()(net, x[n : n + 1], top(2))
        torch.testing.assert_close(alone.maps[0], together.maps[n], rtol=1e-5, atol=1e-5)


def test_two_threads_do_not_mix():
    net, x = small(), torch.randn(2, 3, 24, 40)
    wanted = [FullGrad()(net, image[None], top(2)).maps for image in x]
    results: list[list[torch.Tensor]] = [[], []]

    def work(n):
        for _ in range(20):
            results[n].append(FullGrad()(net, x[n : n + 1], top(2)).maps)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for n in range(2):
        assert len(results[n]) == 20
        assert all(torch.allclose(maps, wanted[n], rtol=1e-5, atol=1e-6) for maps in results[n])


def test_leaves_everything_as_it_was_also_after_an_exception():
    net, x = small().requires_grad_(), torch.randn(2, 3, 24, 40)
    before, state = x.clone(), {k: v.clone() for k, v in net.state_dict().items()}

    def fail(logits):
        raise RuntimeError("no class")

    for choose in (top(1), fail):
        with torch.no_grad():
            if choose is fail:
                with pytest.raises(RuntimeError, match="no class"):
                    FullGrad()(net, x, choose)
            else:
                assert not FullGrad()(net, x, choose).maps.requires_grad
            assert not torch.is_grad_enabled()
        assert torch.overrides._get_current_function_mode() is None
        assert torch.equal(x, before)
        assert not x.requires_grad
        assert all(torch.equal(state[key], value) for key, value in net.state_dict().items())
        assert all(p.grad is None and p.requires_grad for p in net.parameters())
        assert not any(m._forward_hooks or m._backward_hooks for m in net.modules())


def test_runs_in_float32_whatever_the_run_s_precision():
    net, x = small(), torch.randn(2, 3, 24, 40)
    wanted = FullGrad()(net, x, top(2)).maps
    with torch.autocast("cpu", torch.bfloat16):
        maps = FullGrad()(net, x, top(2)).maps
    assert torch.equal(maps, wanted)
