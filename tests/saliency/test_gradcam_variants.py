"""Variants of Grad-CAM against their definitions, pytorch-grad-cam and torchcam."""

from typing import Any

import numpy as np
import pytest
import pytorch_grad_cam
import torch
import torchcam.methods
from pytorch_grad_cam.utils.image import scale_cam_image
from pytorch_grad_cam.utils.model_targets import FinerWeightedTarget
from torch.nn import functional as F

from pipeline.errors import UserError
from pipeline.model.classifier import Classifier
from pipeline.saliency.eigen_gradcam import EigenGradCAM
from pipeline.saliency.finercam import FinerCAM
from pipeline.saliency.gradcam import GradCAM
from pipeline.saliency.gradcam_elementwise import GradCAMElementWise
from pipeline.saliency.gradcam_plus_plus import GradCAMPlusPlus
from pipeline.saliency.hirescam import HiResCAM
from pipeline.saliency.layercam import LayerCAM
from pipeline.saliency.refinecam import RefineCAM
from pipeline.saliency.seg_eigencam import SegEigenCAM
from pipeline.saliency.shapleycam import ShapleyCAM, compute_attention
from pipeline.saliency.smooth_gradcam_plus_plus import SmoothGradCAMPlusPlus
from tests.saliency.cam_peers import (
    NETWORKS,
    Logits,
    as_pytorch_grad_cam,
    by_pytorch_grad_cam,
    by_torchcam,
    check_contract,
    connected,
    find_layer,
    grid,
    mean_linear,
    pictures,
    transformer,
)

VARIANTS = [SmoothGradCAMPlusPlus, EigenGradCAM, GradCAMElementWise, FinerCAM, ShapleyCAM,
            SegEigenCAM, RefineCAM]  # fmt: skip


def some_classes(logits):
    return torch.tensor([0, 4, 6]).expand(len(logits), -1)


def differentiate(net, images, layer, label):
    answer = net(images, at=(layer,))
    features = answer.activations[layer]
    (gradient,) = torch.autograd.grad(answer.logits[:, label].sum(), features)
    return features.detach(), gradient


def assert_close(ours, wanted, tolerance=1e-5):
    assert wanted.abs().max() > 0
    close: dict[str, Any] = {"rtol": 0, "atol": tolerance * float(wanted.abs().max())}
    torch.testing.assert_close(ours, wanted, **close)


def project(products, sign):
    """Project centred rows of a product [b, K, h, w] by NumPy, signed by a function of the map."""
    maps = []
    for product in products.double().flatten(2).mT.numpy():
        centred = product - product.mean(0)
        projected = centred @ np.linalg.svd(centred, full_matrices=False)[2][0]
        maps.append(projected * (1 if sign(projected, product) else -1))
    return torch.from_numpy(np.stack(maps)).float().view(-1, *products.shape[2:])


# -- definitions and peers -------------------------------------------------------------------------


@pytest.mark.parametrize("layer", ["last", "below"])
@pytest.mark.parametrize("kind", NETWORKS)
def test_products_are_their_definitions(kind, layer):
    net = NETWORKS[kind]()
    images = pictures(net)
    methods = (EigenGradCAM, SegEigenCAM, GradCAMElementWise)
    eigen, segment, element = (m((layer,))(net, images, some_classes).maps for m in methods)
    for column, label in enumerate((0, 4, 6)):
        features, gradient = differentiate(net, images, layer, label)
        product = features * gradient
        wanted = project(product, lambda p, rows: (p * rows.sum(1)).sum() >= 0)
        assert_close(eigen[:, column], wanted.relu())
        wanted = project(features * gradient.abs(), lambda p, _: p.max() >= -p.min())
        assert_close(segment[:, column], wanted.relu())
        assert_close(element[:, column], product.relu().sum(1))


@pytest.mark.parametrize("kind", NETWORKS)
def test_products_equal_pytorch_grad_cam(kind):
    net = NETWORKS[kind]()
    images = pictures(net)
    explanation = GradCAMElementWise()(net, images, some_classes)
    peer = pytorch_grad_cam.GradCAMElementWise
    theirs = by_pytorch_grad_cam(peer, net, images, explanation.classes)
    assert_close(as_pytorch_grad_cam(explanation.maps, images), theirs)
    explanation = EigenGradCAM(relu=False)(net, images, some_classes)
    theirs = by_pytorch_grad_cam(
        pytorch_grad_cam.EigenGradCAM, net, images, explanation.classes
    ).flatten(0, 1)
    for n, ours in enumerate(explanation.maps.flatten(0, 1).numpy()):
        size = tuple(images.shape[:1:-1])
        both = [scale_cam_image(scale_cam_image(np.maximum(sign * ours[None], 0), size))[0]
                for sign in (1, -1)]  # fmt: skip
        assert min(np.abs(theirs[n].numpy() - scaled).max() for scaled in both) < 1e-5


def smooth_by_hand(method, net, images, layer, label):
    """Compute Smooth Grad-CAM++ from its formula in float64."""
    powers: list[Any] = [0, 0, 0]
    for weight, noisy in method._noise().add_noise(images):
        gradient = differentiate(net, noisy, layer, label)[1].double()
        powers = [total + weight * gradient ** (n + 1) for n, total in enumerate(powers)]
    features = differentiate(net, images, layer, label)[0].double()
    down = 2 * powers[1] + features.sum((2, 3), keepdim=True) * powers[2]
    alpha = torch.where(down == 0, 0, powers[1] / down)
    weights = (alpha * powers[0].relu()).sum((2, 3), keepdim=True)
    return (weights * features).sum(1).relu().float()


@pytest.mark.parametrize("kind", NETWORKS)
def test_smooth_gradcam_plus_plus_is_its_formula(kind):
    net = NETWORKS[kind]()
    images = pictures(net)
    for layer in ("last", "below"):
        method = SmoothGradCAMPlusPlus((layer,), samples=11, noise=0.1, seed=3)
        maps = method(net, images, some_classes).maps
        for column, label in enumerate((0, 4, 6)):
            assert_close(maps[:, column], smooth_by_hand(method, net, images, layer, label), 1e-4)
    plain = SmoothGradCAMPlusPlus(samples=2, noise=0)(net, images, some_classes).maps
    assert_close(plain, GradCAMPlusPlus()(net, images, some_classes).maps, 1e-4)


def test_smooth_gradcam_plus_plus_equals_torchcam_where_gradients_are_the_same_everywhere():
    """Compare with hardly any noise: it weights the features of the last noisy copy."""
    net = mean_linear()
    with torch.no_grad():
        net.head.linear.weight *= 1e4  # it adds 1e-8 to the squared gradients
    images = pictures(net)
    explanation = SmoothGradCAMPlusPlus()(net, images, some_classes)
    peer = torchcam.methods.SmoothGradCAMpp
    (theirs,) = by_torchcam(peer, net, images, explanation.classes, ("last",), 3, 1e-9)
    assert_close(explanation.maps, theirs, 1e-4)


class Weighted(torch.nn.Module):
    """The score of Finer-CAM's authors as the logits of a network."""

    def __init__(self, head, label, others, strength):
        super().__init__()
        self.head, self.target = head, FinerWeightedTarget(label, others, strength)

    def forward(self, features):
        return self.target(self.head(features))[:, None].expand(-1, 7)


@pytest.mark.parametrize("kind", NETWORKS)
def test_finercam_is_gradcam_of_its_authors_score(kind):
    net = NETWORKS[kind]()
    images = pictures(net, 1)
    explanation = FinerCAM(relu=False, strength=0.6)(net, images, some_classes)
    logits = explanation.logits[0].numpy()
    for column, label in enumerate((0, 4, 6)):
        order = np.argsort(np.abs(logits - logits[label]))
        assert order[0] == label
        head = Weighted(net.head, label, order[1:4].tolist(), 0.6)
        other = Classifier(net.body, head, net.classes, net.last, net.below).eval()
        wanted = GradCAM(relu=False)(other, images, lambda _: torch.tensor([[0]])).maps
        assert_close(explanation.maps[:, column], wanted[:, 0])
    alone = FinerCAM(relu=False, strength=0)(net, images, some_classes).maps
    assert_close(alone, GradCAM(relu=False)(net, images, some_classes).maps)


def test_finercam_equals_pytorch_grad_cam_for_the_predicted_class():
    net = connected()
    images = pictures(net)
    explanation = FinerCAM()(net, images, lambda logits: logits.argmax(1, keepdim=True))

    with pytorch_grad_cam.FinerCAM(Logits(net), [find_layer(net, "last")]) as peer:
        theirs = torch.from_numpy(peer(images))
    assert_close(as_pytorch_grad_cam(explanation.maps, images)[:, 0], theirs)


@pytest.mark.parametrize("kind", ["mean_linear", "smooth", "transformer"])
def test_shapleycam_is_half_the_hessian_off_gradcam(kind):
    """Take the Hessian times the features as a difference of gradients, in float64."""
    net = {"smooth": connected}.get(kind, NETWORKS.get(kind))()
    if kind == "smooth":
        net.head[3] = torch.nn.GELU()
    if kind == "transformer":  # the last block reads the features, too
        net.last, net.below = net.below, ""
    images = pictures(net)
    maps = ShapleyCAM(relu=False)(net, images, some_classes).maps
    plain = GradCAM(relu=False)(net, images, some_classes).maps
    net.double()
    images = images.double()
    features = net(images, at=("last",)).activations["last"].detach()

    def differentiate_at(factor, label):
        values = (features * factor).requires_grad_()
        score = net.behind("last", values.clone(), images)[:, label].sum()
        return torch.autograd.grad(score, values)[0]

    for column, label in enumerate((0, 4, 6)):
        product = (differentiate_at(1 + 1e-4, label) - differentiate_at(1 - 1e-4, label)) / 2e-4
        weights = (differentiate_at(1, label) - product / 2).mean((2, 3), keepdim=True)
        assert_close(maps[:, column], (weights * features).sum(1).float())
    if kind == "mean_linear":
        assert_close(maps, plain)
    else:
        assert (maps - plain).abs().max() > 1e-3 * plain.abs().max()


def test_shapleycam_equals_pytorch_grad_cam():
    net = connected()
    net.head[3] = torch.nn.GELU()
    images = pictures(net)
    explanation = ShapleyCAM()(net, images, some_classes)
    peer = pytorch_grad_cam.ShapleyCAM
    assert_close(
        as_pytorch_grad_cam(explanation.maps, images),
        by_pytorch_grad_cam(peer, net, images, explanation.classes),
    )


def test_attention_step_by_step_is_torch_s():
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, 4, 5, 8)
    mask = torch.randn(5, 5)
    for options in ({}, {"attn_mask": mask}, {"attn_mask": mask > -1}, {"scale": 0.3},
                    {"is_causal": True}):  # fmt: skip
        wanted = F.scaled_dot_product_attention(query, key, value, **options)
        torch.testing.assert_close(compute_attention(query, key, value, **options), wanted)
    wanted = F.scaled_dot_product_attention(query, key[:, :2], value[:, :2], enable_gqa=True)
    ours = compute_attention(query, key[:, :2], value[:, :2], enable_gqa=True)
    torch.testing.assert_close(ours, wanted)


@pytest.mark.parametrize("kind", ["mean_linear", "transformer"])
def test_refinecam_is_the_product_of_scaled_maps(kind):
    net = NETWORKS[kind]()
    images = pictures(net)
    maps = RefineCAM()(net, images, some_classes).maps
    wanted: Any = 1
    for layer in ("below", "last"):
        large = GradCAMPlusPlus((layer,))(net, images, some_classes).maps
        large = F.interpolate(large, maps.shape[2:], mode="bilinear")
        low, high = large.amin((2, 3), keepdim=True), large.amax((2, 3), keepdim=True)
        wanted = wanted * (large - low) / (high - low).clamp(min=1e-30)
    assert_close(maps, wanted)
    single = RefineCAM(("last",))(net, images, some_classes).maps
    assert torch.equal(single, GradCAMPlusPlus()(net, images, some_classes).maps)


# -- identities and the contract -------------------------------------------------------------------


def test_elementwise_is_layercam_on_features_that_are_never_negative():
    net = connected()
    images = pictures(net)
    maps = GradCAMElementWise()(net, images, some_classes).maps
    assert_close(maps, LayerCAM()(net, images, some_classes).maps)
    net = transformer()
    images = pictures(net)
    maps = GradCAMElementWise()(net, images, some_classes).maps
    assert (maps >= HiResCAM()(net, images, some_classes).maps).all()
    assert grid(torch.zeros(1, 17, 4)).shape[2:] == maps.shape[2:]


@pytest.mark.parametrize("method", VARIANTS)
def test_contract(method):
    net = transformer()
    check_contract(method(), net, pictures(net), 1e-4)
    net = connected()
    check_contract(method(("below", "last")), net, pictures(net), 1e-4)


@pytest.mark.parametrize("method", VARIANTS)
def test_bfloat16_changes_little_and_maps_stay_float32(method):
    net = connected()
    images = pictures(net)
    with torch.autocast("cpu", torch.bfloat16):
        explanation = method()(net, images, some_classes)
    assert explanation.maps.dtype == torch.float32
    exact = method()(net, images, some_classes)
    assert (explanation.maps - exact.maps).abs().max() < 0.1 * exact.maps.abs().max()


def test_wrong_arguments_are_refused():
    for method in VARIANTS:
        with pytest.raises(UserError, match=r"saliency\.layers=last: expected one or more"):
            method("last")
    wrong: list[tuple[Any, dict[str, Any]]] = [
        (SmoothGradCAMPlusPlus, {"samples": 0}), (SmoothGradCAMPlusPlus, {"noise": -1.0}),
        (FinerCAM, {"strength": -1.0}), (FinerCAM, {"compared": 0}),
    ]  # fmt: skip
    for method, options in wrong:
        (name,) = options
        with pytest.raises(UserError, match=rf"saliency\.{name}="):
            method(**options)
    net = mean_linear()
    net.head.linear = torch.nn.Linear(16, 1)
    with pytest.raises(UserError, match="the network has a single class; saliency=gradcam"):
        FinerCAM()(net, pictures(net), lambda logits: torch.zeros(len(logits), 1).long())
