"""SS-CAM, IS-CAM, KPCA-CAM and FEM against their definitions, pytorch-grad-cam and torchcam."""

from typing import Any

import pytest
import pytorch_grad_cam
import torch
import torchcam.methods
from pytorch_grad_cam.utils.svd_on_activations import get_2d_projection_kernel
from torch.nn import functional as F

from pipeline.errors import UserError
from pipeline.saliency import kpcacam
from pipeline.saliency.eigencam import EigenCAM
from pipeline.saliency.fem import FEM
from pipeline.saliency.iscam import ISCAM
from pipeline.saliency.kpcacam import KPCACAM
from pipeline.saliency.scorecam import ScoreCAM
from pipeline.saliency.sscam import SSCAM
from tests.saliency.cam_peers import (
    NETWORKS,
    as_pytorch_grad_cam,
    by_pytorch_grad_cam,
    by_torchcam,
    check_contract,
    mean_linear,
    pictures,
)

KINDS = ["mean_linear", "transformer"]
QUICK: list[Any] = [SSCAM(samples=2, batch=7), ISCAM(steps=2), KPCACAM(), FEM()]


def some_classes(logits):
    return torch.tensor([0, 4, 6]).expand(len(logits), -1)


def assert_close(ours, wanted, tolerance=1e-5):
    assert wanted.abs().max() > 0
    close: dict[str, Any] = {"rtol": 0, "atol": tolerance * float(wanted.abs().max())}
    torch.testing.assert_close(ours, wanted, **close)


def weight_by_scores(net, image, layer, alter):
    """Average the logits over the images that `alter` makes of each mask; softmax, sum, relu."""
    features = net(image, at=(layer,)).activations[layer].detach()[0]
    large = F.interpolate(features[:, None], image.shape[2:], mode="bilinear")
    low, high = large.amin((2, 3), keepdim=True), large.amax((2, 3), keepdim=True)
    masks = (large - low) / (high - low).clamp(min=1e-30)
    scores = torch.stack([net(m * image).logits[0] for m in alter(masks)]).detach()
    weights = scores.view(-1, len(features), 7).mean(0).softmax(0)
    return torch.einsum("kc,khw->chw", weights, features)[[0, 4, 6]].relu()


@pytest.mark.parametrize("layer", ["last", "below"])
@pytest.mark.parametrize("kind", KINDS)
def test_sscam_and_iscam_are_their_formulas(kind, layer):
    net = NETWORKS[kind]()
    images = pictures(net)

    def add_noise(masks):
        generator = torch.Generator().manual_seed(5)
        return [m + 0.7 * torch.randn(m.shape, generator=generator)
                for _ in range(2) for m in masks]  # fmt: skip

    maps: dict[Any, Any] = {
        SSCAM(layer, samples=2, noise=0.7, seed=5, batch=5): add_noise,
        ISCAM(layer, steps=2): lambda masks: [*(masks * 0.5), *(masks * 1.5)],
        ISCAM(layer, steps=2, path="linear", batch=5): lambda masks: [*(masks / 2), *masks],
    }
    for method, alter in maps.items():
        ours = method(net, images, some_classes).maps
        for n in range(2):
            assert_close(ours[n], weight_by_scores(net, images[n : n + 1], layer, alter))


def test_without_noise_and_in_a_single_step_they_are_scorecam():
    net = mean_linear()
    images = pictures(net)
    wanted = ScoreCAM()(net, images, some_classes).maps
    for method in (SSCAM(samples=1, noise=0), ISCAM(steps=1), ISCAM(steps=1, path="linear")):
        assert_close(method(net, images, some_classes).maps, wanted)


def test_they_equal_torchcam_where_nothing_is_upsampled():
    net = mean_linear(strides=(1, 1, 1))
    images = pictures(net, 1)[:, :, :16, :24]
    explanation = ISCAM()(net, images, some_classes)
    (theirs,) = by_torchcam(torchcam.methods.ISCAM, net, images, explanation.classes)
    assert_close(explanation.maps, theirs)
    explanation = SSCAM(samples=3, noise=1e-4)(net, images, some_classes)
    peer = torchcam.methods.SSCAM
    (theirs,) = by_torchcam(peer, net, images, explanation.classes, ("last",), 32, 3, 1e-4)
    assert_close(explanation.maps, theirs, 1e-3)


@pytest.mark.parametrize("kernel", ["sigmoid", "rbf", "linear"])
@pytest.mark.parametrize("kind", NETWORKS)
def test_kpcacam_is_scikit_learn_s_component_of_centred_features(kind, kernel):
    """Compare with what pytorch-grad-cam computes by scikit-learn, with our sign."""
    net = NETWORKS[kind]()
    images = pictures(net)
    for layer, gamma in (("last", None), ("below", 0.02)):
        features = net(images, at=(layer,)).activations[layer].detach()
        maps = KPCACAM(layer, kernel, gamma)(net, images, some_classes).maps
        assert torch.equal(maps[:, 0], maps[:, 2])  # whatever the class
        theirs = torch.from_numpy(get_2d_projection_kernel(features.numpy(), kernel, gamma))
        # Behind a LayerNorm the mean is 0, and the largest magnitude is positive.
        peaks = torch.where(theirs.abs() == theirs.abs().amax((1, 2), keepdim=True), theirs, 0)
        along = peaks if kind == "transformer" else theirs * features.mean(1)
        along = along.sum((1, 2), keepdim=True)
        assert_close(maps[:, 0], torch.where(along < 0, -theirs, theirs), 3e-4)
    if kernel == "linear":
        maps = KPCACAM(kernel="linear")(net, images, some_classes).maps
        assert_close(maps, EigenCAM(centred=True)(net, images, some_classes).maps)


@pytest.mark.parametrize("layer", ["last", "below"])
@pytest.mark.parametrize("kind", NETWORKS)
def test_fem_is_its_formula_and_pytorch_grad_cam_s(kind, layer):
    net = NETWORKS[kind]()
    images = pictures(net)
    features = net(images, at=(layer,)).activations[layer].detach().numpy()
    means = features.mean((2, 3), keepdims=True)
    strong = features > means + 1.5 * features.std((2, 3), keepdims=True)
    ours = FEM(layer, deviations=1.5)(net, images, some_classes).maps
    assert torch.equal(ours[:, 0], ours[:, 2])
    assert_close(ours[:, 1], torch.from_numpy((means * strong).sum(1)))
    explanation = FEM(layer, weights="features")(net, images, some_classes)
    theirs = by_pytorch_grad_cam(pytorch_grad_cam.FEM, net, images, explanation.classes, (layer,))
    assert_close(as_pytorch_grad_cam(explanation.maps, images), theirs)


@pytest.mark.parametrize("method", QUICK, ids=lambda method: type(method).__name__)
def test_contract(method):
    for kind in KINDS:
        net = NETWORKS[kind]()
        check_contract(method, net, pictures(net))


def test_features_of_zeros_give_maps_of_zeros():
    net = mean_linear()
    with torch.no_grad():
        net.body[-2].weight.zero_()
        net.body[-2].bias.fill_(-1)
    for method in QUICK:
        assert (method(net, pictures(net), some_classes).maps == 0).all()


def test_wrong_arguments_are_refused(monkeypatch):
    wrong: list[tuple[Any, dict[str, Any]]] = [
        (SSCAM, {"samples": 0}), (SSCAM, {"batch": 0}), (SSCAM, {"noise": -1.0}),
        (ISCAM, {"steps": 0}), (ISCAM, {"batch": 0}), (KPCACAM, {"gamma": 0.0}),
        (FEM, {"deviations": -1.0}),
    ]  # fmt: skip
    for method, options in wrong:
        (name,) = options
        with pytest.raises(UserError, match=rf"saliency\.{name}="):
            method(**options)
    monkeypatch.setattr(kpcacam, "MAX_POSITIONS", 10)
    net = mean_linear()
    with pytest.raises(UserError, match=r"it has 54 positions.*saliency=eigencam has no such"):
        KPCACAM()(net, pictures(net), some_classes)
    with pytest.raises(UserError, match="of the 54 positions of layer last none can be so far"):
        FEM(deviations=53**0.5 + 1e-6)(net, pictures(net), some_classes)
