"""The Grad-CAM family against its identities, pytorch-grad-cam and torchcam."""

import pytest
import pytorch_grad_cam
import torch
import torchcam.methods
from torch import nn

from pipeline.errors import UserError
from pipeline.model.classifier import Classifier
from pipeline.saliency.cam import CAM
from pipeline.saliency.gradcam import GradCAM
from pipeline.saliency.gradcam_plus_plus import GradCAMPlusPlus
from pipeline.saliency.hirescam import HiResCAM
from pipeline.saliency.layercam import LayerCAM
from pipeline.saliency.xgradcam import XGradCAM
from tests.saliency.cam_peers import (
    NETWORKS,
    as_pytorch_grad_cam,
    by_pytorch_grad_cam,
    by_torchcam,
    check_contract,
    connected,
    mean_linear,
    pictures,
    transformer,
)

FAMILY = [GradCAM, GradCAMPlusPlus, XGradCAM, HiResCAM, LayerCAM]


def all_classes(logits):
    return torch.arange(7).expand(len(logits), -1)


def only(label):
    return lambda logits: torch.tensor([[label]])


def differentiate(net, images, layer, label):
    answer = net(images, at=(layer,))
    features = answer.activations[layer]
    (gradient,) = torch.autograd.grad(answer.logits[:, label].sum(), features)
    return features.detach(), gradient


# -- identities ------------------------------------------------------------------------------------


def test_on_a_mean_then_linear_head_they_are_cam():
    net = mean_linear()
    images = pictures(net)
    cam = CAM()(net, images, all_classes).maps / (6 * 9)
    for method in (GradCAM, XGradCAM, HiResCAM):
        signed = method(relu=False)(net, images, all_classes).maps
        torch.testing.assert_close(signed, cam, rtol=1e-5, atol=1e-6)
        assert torch.equal(method()(net, images, all_classes).maps, signed.relu())
    positive = CAM("positive")(net, images, all_classes).maps / (6 * 9)
    layercam = LayerCAM()(net, images, all_classes).maps
    torch.testing.assert_close(layercam, positive, rtol=1e-5, atol=1e-6)


def test_where_the_rest_is_linear_the_map_sums_up_to_the_logit_without_its_bias():
    torch.manual_seed(0)
    linear = nn.Linear(16 * 6 * 9, 7)
    head = nn.Sequential(nn.Flatten(), linear)
    net = Classifier(mean_linear().body, head, [str(n) for n in range(7)]).eval()
    images = pictures(net)
    for method in (HiResCAM(relu=False), XGradCAM(relu=False)):
        explanation = method(net, images, all_classes)
        total = explanation.maps.sum((2, 3)) + linear.bias
        torch.testing.assert_close(total.detach(), explanation.logits, rtol=1e-5, atol=1e-5)
    gradcam = GradCAM(relu=False)(net, images, all_classes).maps.sum((2, 3)) + linear.bias
    assert (gradcam - explanation.logits).abs().max() > 0.02


def test_gradcam_plus_plus_is_the_paper_s_quotient_of_derivatives():
    """Compute the derivatives of exp(s) by autograd, where the rest is linear."""
    torch.manual_seed(0)
    linear = nn.Linear(16 * 6 * 9, 7)
    head = nn.Sequential(nn.Flatten(), linear)
    net = Classifier(mean_linear().body, head, [str(n) for n in range(7)]).eval().double()
    images = pictures(net, 1).double()
    features = net.features(images).detach()
    for label in range(3):
        places = features.clone().requires_grad_()
        score = head(places)[0, label].exp()
        (first,) = torch.autograd.grad(score, places, create_graph=True)
        # A linear score: the second derivative of a position is on the diagonal of the Hessian.
        second, third = torch.zeros_like(first), torch.zeros_like(first)
        for place in range(0, features.numel(), 37):
            (d2,) = torch.autograd.grad(first.flatten()[place], places, create_graph=True)
            (d3,) = torch.autograd.grad(d2.flatten()[place], places, retain_graph=True)
            second.view(-1)[place] = d2.flatten()[place].detach()
            third.view(-1)[place] = d3.flatten()[place]
        some = second != 0
        alpha = second / (2 * second + features.sum((2, 3), keepdim=True) * third)
        _, gradient = differentiate(net, images, "last", label)
        ours = 1 / (2 + gradient * features.sum((2, 3), keepdim=True))
        assert some.sum() > 20
        torch.testing.assert_close(ours[some], alpha[some].detach())
        weights = (ours * gradient.relu()).sum((2, 3))
        wanted = (weights[:, :, None, None] * features).sum(1).relu()
        explanation = GradCAMPlusPlus()(net, images, only(label))
        torch.testing.assert_close(explanation.maps[:, 0], wanted.float(), rtol=1e-5, atol=1e-7)


# -- peers -----------------------------------------------------------------------------------------


class Times(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, logits):
        return self.factor * logits


def scale_logits(net, factor):
    """Build the same network with all logits multiplied by a factor."""
    head = nn.Sequential(net.head, Times(factor))
    return Classifier(net.body, head, net.classes, net.last, net.below).eval()


@pytest.mark.parametrize("layer", ["last", "below"])
@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("method", FAMILY)
def test_equals_pytorch_grad_cam(method, kind, layer):
    net = NETWORKS[kind]()
    if method is GradCAMPlusPlus:  # it adds 1e-6 to the squared gradients: these are large
        net = scale_logits(net, 1e4)
    images = pictures(net)
    explanation = method((layer,))(net, images, all_classes)
    peer = getattr(pytorch_grad_cam, method.__name__)
    theirs = by_pytorch_grad_cam(peer, net, images, explanation.classes, (layer,))
    ours = as_pytorch_grad_cam(explanation.maps, images)
    assert (theirs.amax((2, 3)) > 0.9).sum() >= 7  # not one zero map against another
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("layer", ["last", "below"])
@pytest.mark.parametrize("kind", ["mean_linear", "connected"])
@pytest.mark.parametrize("method", [GradCAM, XGradCAM, LayerCAM])
def test_equals_torchcam(method, kind, layer):
    """Compare raw maps, including their scale."""
    net = NETWORKS[kind]()
    images = pictures(net)
    explanation = method((layer,))(net, images, all_classes)
    peer = getattr(torchcam.methods, method.__name__)
    (theirs,) = by_torchcam(peer, net, images, explanation.classes, (layer,))
    torch.testing.assert_close(explanation.maps, theirs, rtol=1e-5, atol=1e-5 * float(theirs.max()))


def test_torchcam_s_gradcam_plus_plus_does_not_divide():
    """Show that its alpha is the squared gradient, so it is no reference here."""
    net = connected()
    images = pictures(net, 1)
    label = torch.tensor([[2]])
    (theirs,) = by_torchcam(torchcam.methods.GradCAMpp, net, images, label)
    features, gradient = differentiate(net, images, "last", 2)
    cubes = (gradient**2 * gradient.relu()).sum((2, 3))
    torch.testing.assert_close(theirs[:, 0], (cubes[:, :, None, None] * features).sum(1).relu())


def test_pytorch_grad_cam_s_gradcam_plus_plus_leaves_the_paper_where_gradients_are_small():
    net = scale_logits(connected(), 1e-2)
    images = pictures(net)
    explanation = GradCAMPlusPlus()(net, images, all_classes)
    peer = pytorch_grad_cam.GradCAMPlusPlus
    theirs = by_pytorch_grad_cam(peer, net, images, explanation.classes)
    assert (as_pytorch_grad_cam(explanation.maps, images) - theirs).abs().max() > 0.05


# -- several layers --------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [GradCAM, XGradCAM, HiResCAM])
def test_several_layers_equal_pytorch_grad_cam_s_mean(method):
    """Compare at the resolution of the image, where its resizing changes nothing after ours."""
    net = scale_logits(mean_linear(strides=(1, 2, 2)), 1e4)  # it adds 1e-7 to each maximum
    images = pictures(net)
    layers = ("2", "last")
    explanation = method(layers)(net, images, all_classes)
    assert explanation.maps.shape[2:] == images.shape[2:]
    peer = getattr(pytorch_grad_cam, method.__name__)
    theirs = by_pytorch_grad_cam(peer, net, images, explanation.classes, layers)
    single = [method((layer,))(net, images, all_classes).maps for layer in layers]
    # It takes the minimum away too, which relu has already made 0 in most maps.
    same = torch.stack([maps.amin((2, 3)) == 0 for maps in single]).all(0)
    same &= torch.stack([maps.amax((2, 3)) > 0 for maps in single]).all(0)
    assert same.sum() >= 4
    ours = as_pytorch_grad_cam(explanation.maps, images)
    torch.testing.assert_close(ours[same], theirs[same], rtol=0, atol=1e-5)


def test_layercam_fuses_as_torchcam_does():
    net = mean_linear()
    images = pictures(net)
    layers = ("2", "below", "last")
    explanation = LayerCAM(layers)(net, images, all_classes)
    assert explanation.maps.shape[2:] == (24, 36)
    peer = torchcam.methods.LayerCAM
    raw = by_torchcam(peer, net, images, explanation.classes, layers)
    for label in range(7):
        scaled = [maps[:, label] / maps[:, label].amax((1, 2), keepdim=True) for maps in raw]
        theirs = peer.fuse_cams(scaled)
        torch.testing.assert_close(explanation.maps[:, label], theirs, rtol=1e-5, atol=1e-5)


def test_one_backward_pass_a_class_serves_all_layers():
    net = mean_linear()
    images = pictures(net, 1)
    alone = [
        GradCAM((layer,), relu=False)(net, images, all_classes).maps for layer in ("below", "last")
    ]
    scaled = [maps / maps.abs().amax((2, 3), keepdim=True) for maps in alone]
    large = nn.functional.interpolate(scaled[1], (12, 18), mode="bilinear", align_corners=False)
    fused = GradCAM(("below", "last"), relu=False)(net, images, all_classes).maps
    torch.testing.assert_close(fused, (scaled[0] + large) / 2, rtol=1e-5, atol=1e-6)


def test_a_map_of_zeros_stays_one_in_a_fusion():
    net = mean_linear()
    with torch.no_grad():
        net.head.linear.weight[2] = -1  # nothing speaks for this class
    images = pictures(net)
    for method in (GradCAM, LayerCAM):
        maps = method(("last", "last"))(net, images, all_classes).maps
        assert maps.isfinite().all()
        assert (maps[:, 2] == 0).all()
        assert (maps[:, 3] > 0).any()


# -- contract --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("method", FAMILY)
def test_contract(method, kind):
    net = NETWORKS[kind]()
    check_contract(method(relu=False), net, pictures(net, 3))
    if kind == "mean_linear":
        check_contract(method(("below", "last")), net, pictures(net, 3))


def test_tokens_come_as_a_grid_at_any_shape_of_image():
    net = transformer()
    assert GradCAM()(net, pictures(net), all_classes).maps.shape == (2, 7, 4, 4)


@pytest.mark.parametrize("method", FAMILY)
def test_bfloat16_changes_little_and_maps_stay_float32(method):
    net = connected()
    images = pictures(net)
    with torch.autocast("cpu", torch.bfloat16):
        explanation = method()(net, images, all_classes)
    assert explanation.maps.dtype == torch.float32
    exact = method()(net, images, all_classes)
    assert (explanation.maps - exact.maps).abs().max() < 0.1 * exact.maps.abs().max()


@pytest.mark.parametrize("method", FAMILY)
def test_wrong_layers_are_refused(method):
    with pytest.raises(UserError, match=r"saliency\.layers=\(\): expected one or more layers"):
        method(())
    with pytest.raises(UserError, match=r"saliency\.layers=last: expected one or more"):
        method("last")
    net = mean_linear()
    with pytest.raises(UserError, match="layer '77': no such layer"):
        method(("77",))(net, pictures(net), all_classes)
