"""CAM's identity: the mean of the map and the bias make the logit."""

import pytest
import torch
from torch import nn

from pipeline.errors import UserError
from pipeline.model.classifier import Classifier, ConvMean, MeanLinear
from pipeline.model.torchvision import Torchvision
from pipeline.saliency.cam import CAM


def top(count):
    return lambda logits: logits.topk(count, dim=1).indices


class Counting(nn.Module):
    """A body that counts its calls."""

    def __init__(self, body):
        super().__init__()
        self.body, self.calls = body, 0

    def forward(self, x):
        self.calls += 1
        return self.body(x)


def network(name, head):
    torch.manual_seed(0)
    body, channels = Torchvision(name, None).body()
    net = Classifier(Counting(body), head(channels, 12), [str(n) for n in range(12)]).eval()
    nn.init.normal_(net.head.bias)
    return net


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_mean_of_map_plus_bias_is_the_logit(name):
    net, x = network(name, MeanLinear), torch.randn(2, 3, 96, 128)
    explanation = CAM()(net, x, top(5))
    assert net.body.calls == 1
    assert explanation.maps.shape == (2, 5, 3, 4)
    assert not explanation.maps.requires_grad
    score = explanation.maps.mean((2, 3)) + net.head.bias[explanation.classes]
    torch.testing.assert_close(
        score, explanation.logits.gather(1, explanation.classes), rtol=1e-5, atol=1e-5
    )
    assert torch.equal(explanation.logits, net(x).logits)


def test_squeezenet_s_head_is_convolution_relu_mean():
    net, x = network("squeezenet1_1", ConvMean), torch.randn(2, 3, 96, 80)
    explanation = CAM()(net, x, top(12))
    score = (
        (explanation.maps + net.head.bias[explanation.classes][:, :, None, None])
        .relu()
        .mean((2, 3))
    )
    torch.testing.assert_close(
        score, explanation.logits.gather(1, explanation.classes), rtol=1e-5, atol=1e-5
    )


def test_positive_weights_leave_out_what_speaks_against():
    net, x = network("squeezenet1_1", MeanLinear), torch.randn(1, 3, 64, 64)
    features = net.features(x)
    explanation = CAM("positive")(net, x, lambda logits: torch.tensor([[4, 1]]))
    for n, label in enumerate((4, 1)):
        weights = net.class_weights[label].clamp(min=0)
        wanted = (weights[:, None, None] * features[0]).sum(0)
        torch.testing.assert_close(explanation.maps[0, n], wanted, rtol=1e-5, atol=1e-5)
    both = CAM()(net, x, lambda logits: torch.tensor([[4, 1]]))
    assert (explanation.maps >= both.maps - 1e-6).all()


def test_maps_stay_float32_under_autocast():
    net, x = network("squeezenet1_1", MeanLinear), torch.randn(1, 3, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        explanation = CAM()(net, x, top(2))
    assert explanation.maps.dtype == torch.float32
    exact = CAM()(net, x, lambda logits: explanation.classes)
    assert (explanation.maps - exact.maps).abs().max() < 0.05 * exact.maps.abs().max()


def test_other_heads_are_refused_before_anything_runs():
    body = Counting(nn.Conv2d(3, 4, 3))
    net = Classifier(body, nn.Sequential(nn.Flatten(), nn.Linear(4 * 36, 2)), "ab")
    with pytest.raises(UserError, match="no class weights, which CAM reads"):
        CAM()(net, torch.randn(1, 3, 8, 8), top(1))
    assert body.calls == 0
