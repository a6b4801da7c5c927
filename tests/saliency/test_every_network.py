"""Every kind of method on every kind of network: it works, or says why not and what does."""

from typing import Any

import pytest
import torch
from torch import nn

from pipeline.engine.choices import instantiate, read_choice
from pipeline.errors import UserError
from pipeline.model.classifier import Classifier
from pipeline.model.torchvision import Torchvision

NETWORKS = ["alexnet", "vgg16", "resnet50", "googlenet", "inception_v3", "densenet121",
            "mobilenet_v2", "mobilenet_v3_large", "efficientnet_b0", "convnext_tiny", "vit_b_16",
            "squeezenet1_1"]  # fmt: skip
SIDES = {"vit_b_16": 224, "alexnet": 96, "inception_v3": 128}
# A method of each kind, at its cheapest.
METHODS: dict[str, dict[str, Any]] = {
    "cam": {}, "gradcam": {}, "layercam_below": {}, "layercam_multiscale": {"scales": [1.0]},
    "hirescam": {"layers": ["below", "last"]}, "eigencam": {}, "gradient": {}, "deconvnet": {},
    "guided_backprop": {}, "guided_gradcam": {}, "fullgrad": {},
    "deeplift": {}, "lrp": {}, "excitation_backprop": {},
    "occlusion": {"window": 48, "stride": 48}, "rise": {"masks": 2},
}  # fmt: skip
NOT_GAP = {"alexnet", "vgg16", "mobilenet_v3_large", "vit_b_16"}
NOT_RELU = {"mobilenet_v3_large", "efficientnet_b0", "convnext_tiny", "vit_b_16"}
REFUSED = {
    "cam": (NOT_GAP, "it has no class weights.*gradcam"),
    "deconvnet": (NOT_RELU, "another activation, (GELU|SiLU|Hardswish).*gradcam"),
    "guided_backprop": (NOT_RELU, "another activation, (GELU|SiLU|Hardswish).*gradcam"),
    "guided_gradcam": (NOT_RELU, "another activation, (GELU|SiLU|Hardswish).*gradcam"),
    "deeplift": ({"vit_b_16"}, "attention or another softmax.*gradcam"),
    "excitation_backprop": (NOT_RELU, "another activation than ReLU|no rule for.*gradcam"),
    "fullgrad": ({"convnext_tiny", "vit_b_16"}, "bias is not known.*gradcam"),
}  # fmt: skip


@pytest.fixture(scope="module", params=NETWORKS)
def network(request):
    torch.manual_seed(0)
    builder = Torchvision(request.param, None)
    body, head = builder.own(5)
    if request.param == "vit_b_16":
        for n in range(2, 10):  # blocks that are like the others
            delattr(body.get_submodule("encoder.layers"), f"encoder_layer_{n}")
    net = Classifier(body, head, "abcde", builder.last, builder.below)
    side = SIDES.get(request.param, 64)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, module.in_features**-0.5)
    with torch.no_grad():
        net.train()(torch.randn(4, 3, side, side))
    return request.param, net.eval().requires_grad_(False), torch.randn(2, 3, side, side)


def state(net):
    return [
        (m.training, len(m._forward_hooks), len(m._backward_hooks), getattr(m, "inplace", None))
        for m in net.modules()
    ] + [(p._version, p.requires_grad, p.grad) for p in net.parameters()]


@pytest.mark.parametrize("name", METHODS)
def test_it_works_or_says_why_not(network, name):
    kind, net, images = network
    if name == "layercam_multiscale" and kind == "vit_b_16":
        pytest.skip("flips alone are the same as for CNNs; the input's size is fixed")
    arguments = {**METHODS[name]}
    if name == "occlusion" and kind == "vit_b_16":  # its pictures are large, its passes slow
        arguments = {"window": 160, "stride": 112}
    method = instantiate("saliency", {**read_choice("saliency", name), **arguments})
    before = state(net)
    refused, message = REFUSED.get(name, (set(), ""))
    if kind in refused:
        with pytest.raises(UserError, match=message):
            method(net, images, lambda logits: logits.topk(2).indices)
    else:
        explanation = method(net, images, lambda logits: logits.topk(2).indices)
        assert explanation.maps.shape[:2] == (2, 2)
        assert explanation.logits.shape == (2, 5)
        assert torch.isfinite(explanation.maps).all()
        assert explanation.maps.flatten(2).std(2).max() > 0
        assert not explanation.maps.requires_grad
    assert state(net) == before
    assert torch.is_grad_enabled()
