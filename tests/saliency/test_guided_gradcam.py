"""Guided Grad-CAM is captum's, from one forward pass."""

import pytest
import torch
from captum.attr import GuidedGradCam
from torch import nn
from torch.nn import functional as F

from pipeline.errors import UserError
from pipeline.model.classifier import Classifier, MeanLinear
from pipeline.model.small import Small
from pipeline.saliency.gradcam import GradCAM
from pipeline.saliency.guided_backprop import GuidedBackprop
from pipeline.saliency.guided_gradcam import GuidedGradCAM


class Counting(nn.Module):
    """A body that counts its calls."""

    def __init__(self, body):
        super().__init__()
        self.body, self.calls = body, 0

    def forward(self, x):
        self.calls += 1
        return self.body(x)


class Logits(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x).logits


def network():
    torch.manual_seed(0)
    body, channels = Small(8).body()
    return Classifier(body, MeanLinear(channels, 7), "abcdefg", below="block6").eval()


def classes(*columns):
    return lambda logits: torch.tensor([columns]).expand(len(logits), -1)


def same(values, wanted, tolerance=1e-6):
    size = wanted.abs().max()
    assert size > 0
    assert (values - wanted).abs().max() <= tolerance * size


@pytest.mark.parametrize("upsampling", ["bilinear", "nearest"])
@pytest.mark.parametrize("layer", ["last", "block3", "block5.conv"])
@pytest.mark.filterwarnings("ignore:Setting backward hooks", "ignore:Input Tensor 0")
def test_captum_where_it_sees_every_relu(layer, upsampling):
    net, x = network(), torch.randn(2, 3, 40, 56)
    explanation = GuidedGradCAM(layer, upsampling=upsampling)(net, x, classes(5, 2))
    module = net.body if layer == "last" else net.body.get_submodule(layer)
    for column, label in enumerate((5, 2)):
        peer = GuidedGradCam(Logits(net), module)
        wanted = peer.attribute(x.clone(), label, interpolate_mode=upsampling)
        same(explanation.colour[:, column], wanted)
        same(explanation.maps[:, column], wanted.abs().amax(1))


@pytest.mark.parametrize("layer", ["last", "below", "block4.relu"])
def test_it_is_the_product_of_its_parts_in_one_forward_pass(layer):
    """Check it also with ReLUs behind the layer, as in VGG's head: Grad-CAM's gradient is plain."""
    torch.manual_seed(0)
    body, channels = Small(8).body()
    head = nn.Sequential(
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels, 32), nn.ReLU(True),
        nn.Linear(32, 6),
    )  # fmt: skip
    net = Classifier(Counting(body), head, "abcdef", "body", "body.block6").eval()
    layer = f"body.{layer}" if "." in layer else layer
    x, choose = torch.randn(2, 3, 64, 96), classes(4, 1)
    explanation = GuidedGradCAM(layer, "sum")(net, x, choose)
    assert net.body.calls == 1
    coarse, fine = GradCAM((layer,))(net, x, choose), GuidedBackprop()(net, x, choose)
    where = F.interpolate(coarse.maps, (64, 96), mode="bilinear")
    same(explanation.colour, fine.colour * where[:, :, None], 1e-5)
    same(explanation.maps, (fine.colour * where[:, :, None]).sum(2), 1e-5)


def test_a_wrong_layer_lists_the_near_ones():
    with pytest.raises(UserError, match=r"no such layer; near ones: .*block5"):
        GuidedGradCAM("blok5")(network(), torch.randn(1, 3, 32, 32), classes(0))
