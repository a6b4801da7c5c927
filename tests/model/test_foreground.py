"""The foreground head: the layers it reads, its formula, and its storage in a checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from pipeline.engine import checkpoint
from pipeline.errors import UserError
from pipeline.model.classifier import Classifier, MeanLinear
from pipeline.model.foreground import ForegroundHead, build_foreground_head, list_pyramid_layers
from pipeline.model.small import Small
from pipeline.model.torchvision import Torchvision
from pipeline.saliency.foreground import Foreground

READS = {
    "mobilenet_v2": {"features.6": 32, "features.13": 96, "last": 1280},
    "resnet50": {"layer2": 512, "layer3": 1024, "last": 2048},
    "googlenet": {"inception3b": 480, "inception4e": 832, "last": 1024},
    "squeezenet1_0": {"features.10": 512, "last": 512},
}


@pytest.mark.parametrize("name", READS)
def test_the_last_layer_of_each_stride_is_read_finest_first(name: str) -> None:
    model = Torchvision(name)
    with torch.device("meta"):
        body, channels = model.body()
        network = Classifier(body, MeanLinear(channels, 5), "abcde", model.last, model.below)
    assert list_pyramid_layers(network, (224, 224)) == READS[name]
    wide = list_pyramid_layers(network, (224, 320))
    assert list(wide) == list(READS[name])  # the width does not matter


def test_a_transformer_has_one_stride() -> None:
    model = Torchvision("vit_b_16")
    with torch.device("meta"):
        body, head = model.own(5)
        network = Classifier(body, head, "abcde", model.last, model.below)
    assert list_pyramid_layers(network, (224, 224)) == {"last": 768}


def test_the_head_is_the_sum_of_standardized_layers() -> None:
    torch.manual_seed(0)
    head = ForegroundHead(("fine", "last"), (3, 5), width=4, depth=1)
    fine, last = torch.randn(6, 3, 8, 12) * 3 + 2, torch.randn(6, 5, 4, 6) * 7 - 1
    head.standardize([fine, last])

    def side(n: int, maps: torch.Tensor) -> torch.Tensor:
        mean = maps.mean((0, 2, 3), keepdim=True)
        return head.sides[n]((maps - mean) / (maps.std((0, 2, 3), keepdim=True) + 1e-3))

    x = (side(0, fine) + F.interpolate(side(1, last), (8, 12), mode="bilinear")).relu()
    expected = head.out(x + head.steps[0](x).relu()).sigmoid()
    assert torch.allclose(head(fine, last), expected, atol=1e-5)
    assert expected.shape == (6, 1, 8, 12)


def small_network() -> tuple[Small, Classifier]:
    model = Small()
    torch.manual_seed(0)
    body, channels = model.body()
    return model, Classifier(body, MeanLinear(channels, 3), "abc", model.last, model.below).eval()


def test_one_pass_answers_class_and_map_for_every_class() -> None:
    _, network = small_network()
    network.branches["foreground"] = build_foreground_head(network, (64, 96), width=8)
    images = torch.randn(2, 3, 64, 96)
    explanation = Foreground()(network, images, lambda logits: logits.topk(2).indices)
    assert explanation.maps.shape[:2] == (2, 2)
    assert torch.equal(
        explanation.maps[:, 0], explanation.maps[:, 1]
    )  # it knows objects, not classes
    assert ((explanation.maps >= 0) & (explanation.maps <= 1)).all()
    assert torch.allclose(explanation.logits, network(images).logits, atol=1e-5)
    alone = Foreground()(network, images[1:], lambda logits: logits.topk(2).indices)
    assert torch.allclose(alone.maps, explanation.maps[1:], atol=1e-5)
    both = Foreground(flips=True)(network, images, lambda logits: logits.topk(1).indices)
    turned = Foreground(flips=True)(network, images.flip(3), lambda logits: logits.topk(1).indices)
    assert torch.allclose(both.maps, turned.maps.flip(3), atol=1e-5)


def test_a_map_for_each_class_gives_that_of_the_class_explained() -> None:
    class PerClass(torch.nn.Module):
        reads = ("last",)

        def forward(self, last: torch.Tensor) -> torch.Tensor:
            return torch.stack([torch.full_like(last[:, 0], c / 10) for c in range(3)], 1)

    _, network = small_network()
    network.branches["foreground"] = PerClass()
    classes = torch.tensor([[2, 0], [1, 1]])
    explanation = Foreground()(network, torch.randn(2, 3, 64, 64), lambda _: classes)
    assert torch.allclose(explanation.maps.amax((2, 3)), classes / 10)


def test_a_network_without_the_branch_says_what_trains_one() -> None:
    _, network = small_network()
    with pytest.raises(UserError, match=r"experiment=best"):
        Foreground()(network, torch.randn(1, 3, 64, 64), lambda logits: logits.topk(1).indices)


def test_it_comes_back_from_a_checkpoint(tmp_path: Path) -> None:
    _, network = small_network()
    network.branches["foreground"] = build_foreground_head(network, (64, 64), width=8).eval()
    card = {"size": [64, 64], "mean": [0.5] * 3, "std": [0.2] * 3}
    checkpoint.save(tmp_path, network, {"_target_": "pipeline.model.small.Small"}, card)
    again = checkpoint.load(tmp_path, torch.device("cpu")).network
    images = torch.randn(2, 3, 64, 64)
    for name in ("foreground", "last"):
        before, after = (net(images, at=(name,)).activations[name] for net in (network, again))
        assert torch.allclose(before, after, atol=1e-5)


def test_a_card_may_name_no_foreign_branch(tmp_path: Path) -> None:
    _, network = small_network()
    branch = build_foreground_head(network, (64, 64), width=8)
    branch.node = {"_target_": "os.system", "command": "true"}
    network.branches["foreground"] = branch
    card = {"size": [64, 64], "mean": [0.5] * 3, "std": [0.2] * 3}
    checkpoint.save(tmp_path, network, {"_target_": "pipeline.model.small.Small"}, card)
    with pytest.raises(UserError, match="refused"):
        checkpoint.load(tmp_path, torch.device("cpu"))
