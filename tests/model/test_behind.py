"""A replaced layer output gives the logits of the unchanged network, at any layer."""

import threading

import pytest
import torch
from torch import nn
from torchvision.models import VisionTransformer

from pipeline.errors import UserError
from pipeline.model.classifier import Classifier, MeanLinear
from pipeline.model.torchvision import Torchvision


class Counted(nn.Conv2d):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.seen = []

    def forward(self, x):
        self.seen.append(len(x))
        return super().forward(x)


class Block(nn.Module):
    """Not a chain, with one ReLU in two places."""

    def __init__(self):
        super().__init__()
        self.first, self.second = Counted(6, 6, 3, padding=1), Counted(6, 6, 1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.relu(self.second(self.relu(self.first(x))) + x)


def chain():
    torch.manual_seed(0)
    shared = nn.ReLU(inplace=True)
    body = nn.Sequential()
    body.add_module("stem", nn.Sequential(Counted(3, 6, 3, 2, 1), nn.BatchNorm2d(6), shared))
    body.add_module("block", Block())
    body.add_module("top", nn.Sequential(nn.ReLU(inplace=True), Counted(6, 5, 3), shared))
    return Classifier(body, MeanLinear(5, 3), "abc", below="block").eval()


def passes(net):
    return {name: m.seen for name, m in net.named_modules() if isinstance(m, Counted) and m.seen}


def reset(net):
    for module in net.modules():
        if isinstance(module, Counted):
            module.seen.clear()


EXPECTED_RUNS = {
    "last": {},
    "": {},
    "top.1": {},
    "top.0": {"body.top.1": [4]},
    "below": {"body.top.1": [4]},
    "stem": {"body.block.first": [4], "body.block.second": [4], "body.top.1": [4]},
    "block.second": {"body.stem.0": [1], "body.block.first": [4], "body.block.second": [4],
                  "body.top.1": [4]},
    "input": {"body.stem.0": [4], "body.block.first": [4], "body.block.second": [4],
              "body.top.1": [4]},
}  # fmt: skip


@pytest.mark.parametrize("layer", EXPECTED_RUNS)
@torch.no_grad()
def test_answers_as_the_whole_network_with_other_features_and_runs_what_follows(layer):
    net = chain()
    images = torch.randn(4, 3, 12, 16, generator=torch.Generator().manual_seed(1))
    answer = net(images, at=(layer,))
    reset(net)
    # The images differ only by the layer's output wherever nothing bypasses it.
    logits = net.behind(layer, answer.activations[layer].clone(), images[:1])
    assert passes(net) == EXPECTED_RUNS[layer]
    assert torch.allclose(logits[0], answer.logits[0], atol=1e-6)
    if layer != "block.second":
        assert torch.allclose(logits, answer.logits, atol=1e-6)


@torch.no_grad()
def test_what_bypasses_the_layer_is_of_the_image():
    net = chain()
    images = torch.randn(2, 3, 12, 16, generator=torch.Generator().manual_seed(1))
    new = torch.randn(2, 6, 6, 8, generator=torch.Generator().manual_seed(2))
    logits = net.behind("block.second", new.clone(), images[:1])
    stem = net.body.stem(images[:1])
    assert torch.allclose(logits, net.head(net.body.top((new + stem).relu())), atol=1e-6)


@pytest.mark.parametrize("layer", ["block.relu", "stem.2", "top.2"])
@torch.no_grad()
def test_a_layer_that_runs_several_times_is_refused(layer):
    net = chain()
    images = torch.randn(1, 3, 12, 16)
    features = net(images, at=(layer,)).activations[layer]
    with pytest.raises(UserError, match=f"layer '{layer}': it runs several times"):
        net.behind(layer, features, images)
    assert not any(module._forward_hooks for module in net.modules())


def test_a_layer_that_is_not_there_is_refused():
    with pytest.raises(UserError, match="layer 'blok': no such layer; near ones: block"):
        chain().behind("blok", torch.zeros(1, 6, 6, 8), torch.zeros(1, 3, 12, 16))


@torch.no_grad()
def test_threads_do_not_mix():
    net = chain()
    images = torch.randn(4, 3, 12, 16, generator=torch.Generator().manual_seed(1))
    features = torch.randn(4, 2, 6, 6, 8, generator=torch.Generator().manual_seed(2))
    wanted = [net.behind("block.second", features[n].clone(), images[n : n + 1]) for n in range(4)]
    plain = net(images).logits
    wrong = []

    @torch.no_grad()
    def work(n):
        for _ in range(50):
            logits = net.behind("block.second", features[n].clone(), images[n : n + 1])
            if not torch.equal(logits, wanted[n]):
                wrong.append(n)
            if not torch.allclose(net(images).logits, plain):
                wrong.append("plain")

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert not any(module._forward_hooks for module in net.modules())


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("alexnet", ("last", "below", "features.3")),
        ("resnet18", ("last", "below", "layer4.0.conv2", "layer3.1.bn2")),
        ("mobilenet_v2", ("last", "below", "features.16.conv.1")),
        ("googlenet", ("last", "below", "inception5b.branch2.1.conv")),
        ("densenet121", ("last", "below", "features.denseblock4.denselayer2.conv1")),
    ],
)
@torch.no_grad()
def test_real_networks(name, layers):
    torch.manual_seed(0)
    card = Torchvision(name, None)
    body, head = card.own(5)
    net = Classifier(body, head, "abcde", card.last, card.below).eval()
    image = torch.randn(1, 3, 64, 80)
    for layer in layers:
        answer = net(image, at=(layer,))
        features = answer.activations[layer]
        logits = net.behind(layer, torch.cat((features, features)), image)
        scale = float(answer.logits.abs().max())
        assert scale > 0
        torch.testing.assert_close(logits, answer.logits.expand(2, -1), rtol=0, atol=1e-5 * scale)
        changed = net.behind(layer, 2 * features + 1, image)
        assert (changed - answer.logits).abs().max() > 1e-4 * scale


@torch.no_grad()
def test_tokens_are_replaced_as_a_grid_and_the_class_token_stays():
    torch.manual_seed(0)
    body = VisionTransformer(image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=16,
                             mlp_dim=32)  # fmt: skip
    body.heads = nn.Identity()
    place = "encoder.layers.encoder_layer_{}.ln_1"
    net = Classifier(body, nn.Linear(16, 3), "abc", place.format(1), place.format(0)).eval()
    image = torch.randn(1, 3, 32, 32)
    for layer in ("last", "below"):
        answer = net(image, at=(layer,))
        features = answer.activations[layer]
        assert features.shape == (1, 16, 4, 4)
        logits = net.behind(layer, torch.cat((features, -features)), image)
        assert torch.allclose(logits[0], answer.logits[0], atol=1e-6)

        def negated(module, inputs, output):
            return torch.cat((output[:, :1], -output[:, 1:]), 1)

        handle = net.body.get_submodule(net.resolve_path(layer)).register_forward_hook(negated)
        wanted = net(image).logits
        handle.remove()
        assert torch.allclose(logits[1:], wanted, atol=1e-6)
        assert (logits[0] - wanted).abs().max() > 1e-3
