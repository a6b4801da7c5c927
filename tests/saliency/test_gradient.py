"""The gradient and what is made of it: captum's numbers, identities, the same in any batch."""

import numpy as np
import pytest
import torch
from captum.attr import InputXGradient, NoiseTunnel, Saliency
from captum.attr import IntegratedGradients as CaptumIntegrated
from torch import nn

from pipeline.errors import UserError
from pipeline.model.classifier import Classifier, MeanLinear
from pipeline.model.small import Small
from pipeline.protocols import SaliencyMethod
from pipeline.saliency.deconvnet import Deconvnet
from pipeline.saliency.gradient import Gradient
from pipeline.saliency.gradients import compute_gradients
from pipeline.saliency.guided_backprop import GuidedBackprop
from pipeline.saliency.guided_gradcam import GuidedGradCAM
from pipeline.saliency.integrated import GradientTimesInput, IntegratedGradients, build_baseline
from pipeline.saliency.smoothgrad import SmoothGrad

METHODS: dict[str, SaliencyMethod] = {
    "gradient": Gradient(),
    "signed": Gradient("sum"),
    "normalised": Gradient("abs_sum", normalize="sum"),
    "times input": GradientTimesInput(),
    "integrated": IntegratedGradients(steps=5),
    "integrated from the image's mean": IntegratedGradients(4, "right", "image_mean"),
    "smooth": SmoothGrad(samples=5),
    "smooth, squared": SmoothGrad(samples=5, squared=True),
    "deconvnet": Deconvnet(),
    "guided": GuidedBackprop(),
    "guided gradcam": GuidedGradCAM(),
    "guided gradcam, a layer below": GuidedGradCAM("block3"),
}


def network(seed=0):
    torch.manual_seed(seed)
    body, channels = Small(8).body()
    net = Classifier(body, MeanLinear(channels, 7), "abcdefg", below="block6").eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias)
    return net


def homogeneous():
    """Build a network without any bias: twice the image gives twice the score."""
    body = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 6, 3, bias=False)
    )
    head = MeanLinear(6, 4)
    nn.init.zeros_(head.linear.bias)
    return Classifier(body, head, "abcd").eval()


class Logits(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x).logits


def picture(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def classes(*columns):
    return lambda logits: torch.tensor([columns]).expand(len(logits), -1)


def same(values, wanted, tolerance=1e-6):
    size = wanted.abs().max()
    assert size > 0
    assert (values - wanted).abs().max() <= tolerance * size


# -- against captum -------------------------------------------------------------------------------


def test_gradient_is_captum_s_saliency():
    net, x = network(), picture(3, 3, 40, 56)
    results = {channels: Gradient(channels)(net, x, classes(5, 2)) for channels in
             ("abs_max", "abs_sum", "sum")}  # fmt: skip
    for column, label in enumerate((5, 2)):
        wanted = Saliency(Logits(net)).attribute(x.clone().requires_grad_(), label, abs=False)
        same(results["sum"].colour[:, column], wanted)
        same(results["sum"].maps[:, column], wanted.sum(1))
        same(results["abs_sum"].maps[:, column], wanted.abs().sum(1))
        same(results["abs_max"].maps[:, column], wanted.abs().amax(1))


def test_gradient_times_input_is_captum_s():
    net, x = network(), picture(2, 3, 40, 56)
    explanation = GradientTimesInput()(net, x, classes(5, 2))
    for column, label in enumerate((5, 2)):
        wanted = InputXGradient(Logits(net)).attribute(x.clone().requires_grad_(), label)
        same(explanation.colour[:, column], wanted)
        same(explanation.maps[:, column], wanted.sum(1))


@pytest.mark.parametrize(
    ("rule", "theirs"),
    [("gausslegendre", "gausslegendre"), ("middle", "riemann_middle"), ("right", "riemann_right")],
)
@pytest.mark.parametrize("baseline", ["mean", "image_mean", (-2.0, 0.5, 1.0)])
def test_integrated_gradients_are_captum_s(rule, theirs, baseline):
    net, x = network(), picture(2, 3, 32, 48)
    explanation = IntegratedGradients(7, rule, baseline)(net, x, classes(5, 2))
    start = {"mean": torch.zeros_like(x), "image_mean": x.mean((2, 3), keepdim=True).expand_as(x)}
    from_ = start.get(baseline, torch.tensor([-2.0, 0.5, 1.0])[:, None, None].expand_as(x))
    peer = CaptumIntegrated(Logits(net))
    for column, label in enumerate((5, 2)):
        wanted = peer.attribute(x, from_, label, n_steps=7, method=theirs).float()
        same(explanation.colour[:, column], wanted, 2e-5)
        same(explanation.maps[:, column], wanted.sum(1), 2e-5)


@pytest.mark.parametrize(("squared", "theirs"), [(False, "smoothgrad"), (True, "smoothgrad_sq")])
def test_smoothgrad_is_captum_s_noise_tunnel(squared, theirs, monkeypatch):
    net, x = network(), picture(2, 3, 32, 48)
    method = SmoothGrad(samples=6, squared=squared)
    copies = torch.stack([images for _, images in method.add_noise(x)], 1).flatten(0, 1)

    def noisy(x, stdev, samples):
        assert samples == 6
        return copies

    monkeypatch.setattr(NoiseTunnel, "_add_noise_to_input", staticmethod(noisy))
    explanation = method(net, x, classes(5, 2))
    tunnel = NoiseTunnel(Saliency(Logits(net)))
    for column, label in enumerate((5, 2)):
        wanted = tunnel.attribute(x, theirs, 6, target=label, abs=False)
        same(explanation.colour[:, column], wanted, 2e-6)
        same(explanation.maps[:, column], wanted.abs().amax(1), 2e-6)


# -- identities -----------------------------------------------------------------------------------


def test_without_biases_pixels_add_up_to_the_score():
    net, x = homogeneous(), picture(2, 3, 24, 32)
    explanation = GradientTimesInput()(net, x, classes(1, 3))
    same(
        explanation.maps.sum((2, 3)),
        explanation.logits.gather(1, explanation.classes).detach(),
        1e-5,
    )


@pytest.mark.parametrize("rule", ["gausslegendre", "middle", "right"])
@pytest.mark.parametrize("baseline", ["mean", "image_mean", (-1.0, 0.0, 1.0)])
def test_completeness(rule, baseline):
    """Check that maps add up to s_c(x) - s_c(x'), the closer the more steps."""
    net, x = network(), picture(2, 3, 32, 48)
    off = []
    for steps in (10, 100):
        method = IntegratedGradients(steps, rule, baseline)
        explanation = method(net, x, classes(1, 4))
        with torch.no_grad():
            start = net(build_baseline(x, baseline).expand_as(x)).logits
        wanted = (explanation.logits - start).gather(1, explanation.classes)
        off.append((explanation.maps.sum((2, 3)) - wanted).abs().max() / wanted.abs().max())
    assert off[1] < 0.01
    assert off[1] < off[0]


@pytest.mark.parametrize("rule", ["gausslegendre", "middle", "right"])
def test_one_step_is_exact_where_the_score_is_linear(rule):
    net, x = homogeneous(), picture(2, 3, 24, 32)
    net.body[1], net.body[2] = nn.Identity(), nn.AvgPool2d(2)
    explanation = IntegratedGradients(1, rule, (0.3, -0.2, 0.1))(net, x, classes(0))
    start = net(torch.tensor([0.3, -0.2, 0.1])[:, None, None].expand_as(x)).logits
    same(explanation.maps.sum((2, 3)), (explanation.logits - start)[:, :1].detach(), 1e-5)


@pytest.mark.parametrize("rule", ["gausslegendre", "middle", "right"])
@pytest.mark.parametrize("steps", [1, 2, 9])
def test_weights_of_the_steps_add_up_to_one(rule, steps):
    x = torch.ones(1, 3, 1, 1)
    points = list(IntegratedGradients(steps, rule).interpolate(x, x))
    assert sum(weight for weight, _ in points) == pytest.approx(1)
    positions = [float(images.mean()) for _, images in points]
    assert len(positions) == steps
    assert all(0 < position <= 1 for position in positions)
    middle = sum(weight * position for (weight, _), position in zip(points, positions, strict=True))
    assert middle == pytest.approx(0.5 + (0.5 / steps if rule == "right" else 0))


def test_one_step_from_black_at_the_right_is_gradient_times_input():
    net, x = network(), picture(2, 3, 32, 48)
    explanation = IntegratedGradients(1, "right")(net, x, classes(1))
    same(explanation.colour, GradientTimesInput()(net, x, classes(1)).colour)


def test_smoothgrad_without_noise_is_the_gradient():
    net, x = network(), picture(2, 3, 32, 48)
    wanted = Gradient()(net, x, classes(1, 0))
    same(SmoothGrad(3, noise=0.0)(net, x, classes(1, 0)).maps, wanted.maps)
    squares = SmoothGrad(3, noise=0.0, squared=True)(net, x, classes(1, 0))
    same(squares.colour, wanted.colour**2)


def test_noise_is_the_share_of_the_image_s_range_that_was_asked_for():
    x = torch.cat((picture(1, 3, 64, 64), 5 * picture(1, 3, 64, 64, seed=1)))
    for image, copies in zip(x, zip(*(c for _, c in SmoothGrad(8, 0.2).add_noise(x)), strict=True),
                             strict=True):  # fmt: skip
        noise = torch.stack(copies) - image
        assert float(noise.std() / (image.max() - image.min())) == pytest.approx(0.2, rel=0.02)
        assert float(noise.mean().abs()) < 0.01 * float(image.max() - image.min())
    other = next(iter(SmoothGrad(8, 0.2, seed=1).add_noise(x)))
    assert not torch.allclose(other[1], next(iter(SmoothGrad(8, 0.2).add_noise(x)))[1])


def test_normalised_maps_add_up_to_one():
    net, x = network(), picture(2, 3, 32, 48)
    plain = Gradient("sum")(net, x, classes(1, 4))
    explanation = Gradient("sum", normalize="sum")(net, x, classes(1, 4))
    torch.testing.assert_close(explanation.maps.abs().sum((2, 3)), torch.ones(2, 2))
    assert torch.equal(explanation.colour, plain.colour)
    nn.init.zeros_(net.head.linear.weight)
    assert torch.equal(
        Gradient(normalize="sum")(net, x, classes(1)).maps, torch.zeros(2, 1, 32, 48)
    )


def test_it_is_the_derivative_of_the_score():
    net, x = homogeneous(), picture(1, 3, 10, 14)
    net = net.double()
    x = x.double()
    colour = Gradient("sum")(net, x, classes(2)).colour[0, 0]
    rng = np.random.default_rng(0)
    for channel, row, column in zip(*(rng.integers(0, n, 5) for n in (3, 10, 14)), strict=True):
        step = torch.zeros_like(x)
        step[0, channel, row, column] = 1e-6
        with torch.no_grad():
            rise = (net(x + step).logits - net(x - step).logits)[0, 2] / 2e-6
        torch.testing.assert_close(colour[channel, row, column], rise, rtol=1e-5, atol=1e-9)


# -- what all methods have in common ---------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_shapes_and_logits(name):
    net, x = network(), picture(2, 3, 96, 128)
    explanation = METHODS[name](net, x, lambda logits: logits.topk(3).indices)
    assert explanation.maps.shape == (2, 3, 96, 128)
    assert explanation.colour.shape == (2, 3, 3, 96, 128)
    assert explanation.maps.dtype == explanation.colour.dtype == torch.float32
    with torch.no_grad():
        logits = net(x).logits
    torch.testing.assert_close(explanation.logits, logits)
    assert torch.equal(explanation.classes, logits.topk(3).indices)
    assert not any(
        t.requires_grad for t in (explanation.maps, explanation.colour, explanation.logits)
    )


@pytest.mark.parametrize("name", METHODS)
def test_a_batch_changes_no_map(name):
    net, x = network(), picture(19, 3, 24, 40)
    top = lambda logits: logits.topk(2).indices  # noqa: E731
    together = METHODS[name](net, x, top)
    for n in (0, 7, 18):
        alone = METHODS[name](net, x[n : n + 1], top)
        same(together.maps[n], alone.maps[0], 1e-5)
        same(together.colour[n], alone.colour[0], 1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_the_run_s_precision_layout_and_grad_mode_change_nothing(name):
    net, x = network().requires_grad_(False), picture(2, 3, 24, 40)
    wanted = METHODS[name](net, x, classes(1, 4))
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        explanation = METHODS[name](net, x, classes(1, 4))
    assert torch.equal(explanation.maps, wanted.maps)
    net.to(memory_format=torch.channels_last)
    last = METHODS[name](net, x.contiguous(memory_format=torch.channels_last), classes(1, 4))
    same(last.maps, wanted.maps, 1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_weights_get_no_gradient_and_images_stay(name):
    net, x = network(), picture(2, 3, 24, 40)
    assert all(weight.requires_grad for weight in net.parameters())
    before = x.clone()
    METHODS[name](net, x, classes(1))
    assert all(weight.grad is None for weight in net.parameters())
    assert torch.equal(x, before)
    assert not x.requires_grad


@pytest.mark.parametrize("method", [IntegratedGradients(20), SmoothGrad(20)])
@pytest.mark.parametrize(("batch", "most"), [(1, 16), (3, 15), (16, 16), (20, 20)])
def test_memory_does_not_grow_with_steps(method, batch, most):
    sizes = []

    class Spy(Classifier):
        def forward(self, images, at=()):
            sizes.append(len(images))
            return super().forward(images, at)

    net = network()
    spy = Spy(net.body, net.head, net.classes).eval()
    method(spy, picture(batch, 3, 16, 16), classes(0))
    assert sizes[0] == batch  # the logits
    assert max(sizes) == most
    assert sum(sizes[1:]) == 20 * batch


def test_what_does_not_depend_on_the_image_is_refused():
    x = picture(1, 3, 4, 4).requires_grad_()
    logits = torch.ones(1, 2, requires_grad=True) * 2
    with pytest.raises(UserError, match="does not depend on this layer"):
        compute_gradients(logits, torch.tensor([[0]]), [x])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: IntegratedGradients(steps=0), "saliency.steps=0: expected at least 1"),
        (lambda: SmoothGrad(samples=0), "saliency.samples=0: expected at least 1"),
        (lambda: SmoothGrad(noise=-0.1), "saliency.noise=-0.1: expected 0 or more"),
    ],
)
def test_wrong_arguments_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()
