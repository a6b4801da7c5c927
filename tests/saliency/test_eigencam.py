"""Eigen-CAM against a singular value decomposition in NumPy, and pytorch-grad-cam's centred one."""

import numpy as np
import pytest
import pytorch_grad_cam
import torch
from pytorch_grad_cam.utils.image import scale_cam_image

from pipeline.errors import UserError
from pipeline.saliency.eigencam import EigenCAM
from tests.saliency.cam_peers import (
    NETWORKS,
    by_pytorch_grad_cam,
    check_contract,
    mean_linear,
    pictures,
    unchanged,
)


def top(count):
    return lambda logits: logits.topk(count, dim=1).indices


def by_svd(features, centred):
    """Compute the map of the first singular vector, of either sign."""
    places = features.detach().double().flatten(1).T.numpy()
    if centred:
        places = places - places.mean(0)
    return (places @ np.linalg.svd(places)[2][0]).reshape(features.shape[1:])


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("layer", ["last", "below", "2"])  # fewer places than channels, and more
@pytest.mark.parametrize("kind", ["mean_linear", "connected"])
def test_is_the_first_singular_vector_that_goes_along_with_the_mean(kind, layer, centred):
    net = NETWORKS[kind]()
    images = pictures(net)[:, :, :24, :32]
    if kind == "connected" and layer == "2":
        images = images[:, :, :16, :16]
    features = net(images, at=(layer,)).activations[layer]
    maps = EigenCAM(layer, centred)(net, images, top(2)).maps
    assert torch.equal(maps[:, 0], maps[:, 1])  # whatever the class
    for n in range(2):
        wanted = by_svd(features[n], centred)
        mean = features[n].detach().double().mean(0).numpy()
        if (wanted * mean).sum() < 0:
            wanted = -wanted
        ours = maps[n, 0].numpy()
        np.testing.assert_allclose(ours, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
        if not centred:
            assert ours.min() >= -1e-6


@pytest.mark.parametrize("layer", ["last", "below"])
@pytest.mark.parametrize("kind", NETWORKS)
def test_centred_equals_pytorch_grad_cam_up_to_its_sign(kind, layer):
    net = NETWORKS[kind]()
    images = pictures(net, 4)
    explanation = EigenCAM(layer, centred=True)(net, images, top(1))
    peer = pytorch_grad_cam.EigenCAM
    theirs = by_pytorch_grad_cam(peer, net, images, explanation.classes, (layer,))[:, 0].numpy()
    size = tuple(images.shape[:1:-1])
    for n, ours in enumerate(explanation.maps[:, :1]):
        both = [
            scale_cam_image(scale_cam_image(np.maximum(sign * ours.numpy(), 0), size))[0]
            for sign in (1, -1)
        ]
        assert min(np.abs(theirs[n] - scaled).max() for scaled in both) < 1e-5


def test_contract():
    for kind, make in NETWORKS.items():
        net = make()
        with unchanged(net):
            check_contract(EigenCAM(centred=kind == "connected"), net, pictures(net, 3))


def test_behind_a_layer_norm_the_largest_magnitude_is_positive():
    """The mean over its channels is 0, so that its sign would be that of rounding."""
    net = NETWORKS["transformer"]()
    for centred in (False, True):
        maps = EigenCAM("below", centred)(net, pictures(net, 4), top(1)).maps
        assert (maps.amax((2, 3)) >= maps.abs().amax((2, 3))).all()


def test_features_of_zeros_give_a_map_of_zeros():
    net = mean_linear()
    with torch.no_grad():
        net.body[-2].weight.zero_()
        net.body[-2].bias.fill_(-1)
    for centred in (False, True):
        assert (EigenCAM(centred=centred)(net, pictures(net), top(1)).maps == 0).all()


def test_wrong_layer_is_refused():
    net = mean_linear()
    with pytest.raises(UserError, match="layer '77': no such layer"):
        EigenCAM("77")(net, pictures(net), top(1))
