"""The second-order head: its formula against explicit sums, and what it learns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.engine import checkpoint
from pipeline.model.classifier import Classifier, MeanLinear
from pipeline.model.foreground import build_foreground_head
from pipeline.model.second_order import SecondOrderHead
from pipeline.model.small import Small

READS = ("last", "fine", "foreground")


def build_head(classes: int = 3) -> SecondOrderHead:
    torch.manual_seed(0)
    built = SecondOrderHead(READS, last=5, channels=4, classes=classes)
    built.fit_axes(torch.randn(20, 4, 6, 6) * torch.tensor([1.0, 5, 2, 3])[:, None, None])
    return built


def test_the_descriptor_is_the_weighted_mean_of_products() -> None:
    head = build_head()
    last, fine, foreground = (
        torch.randn(2, 5, 3, 3),
        torch.randn(2, 4, 6, 6),
        torch.rand(2, 1, 6, 6),
    )
    descriptors = head.describe(last, fine, foreground).numpy()
    assert isinstance(head.axes, torch.Tensor)
    axes = head.axes.numpy()
    for n in range(2):
        total, weight = np.zeros((4, 4)), 0.0
        for i in range(6):
            for j in range(6):
                y = axes.T @ fine[n, :, i, j].numpy()
                total += float(foreground[n, 0, i, j]) * np.outer(y, y)
                weight += float(foreground[n, 0, i, j])
        both = total / (weight + 1e-3)
        row, column = np.triu_indices(4)
        pairs = both[row, column]
        expected = np.concatenate([last[n].mean((1, 2)), np.sign(pairs) * np.sqrt(np.abs(pairs))])
        assert np.allclose(descriptors[n], expected, atol=1e-4)


@pytest.mark.parametrize("size", [(12, 18), (9, 14)], ids=["multiple", "none"])
def test_the_foreground_may_have_another_size(size: tuple[int, int]) -> None:
    head, foreground = build_head(), torch.rand(2, 1, *size)
    maps = torch.randn(2, 5, 3, 3), torch.randn(2, 4, 6, 6)
    means = torch.nn.functional.adaptive_avg_pool2d(foreground, (6, 6))
    torch.testing.assert_close(head.describe(*maps, foreground), head.describe(*maps, means))


def test_the_axes_whiten() -> None:
    features = torch.randn(40, 4, 6, 6) * torch.tensor([1.0, 5, 2, 3])[:, None, None] + 7
    head = build_head()
    head.fit_axes(features)
    rows = torch.einsum("nkhw,ka->nahw", features, head.axes).permute(0, 2, 3, 1).flatten(0, 2)
    assert torch.allclose(torch.cov(rows.T), torch.eye(4), atol=1e-3)


def test_the_background_does_not_change_the_second_order() -> None:
    head = build_head()
    last, fine = torch.randn(1, 5, 3, 3), torch.randn(1, 4, 6, 6)
    foreground = torch.zeros(1, 1, 6, 6)
    foreground[..., 1:4, 2:5] = 1
    other = torch.where(foreground > 0, fine, torch.randn(1, 4, 6, 6))
    assert torch.allclose(
        head.describe(last, fine, foreground), head.describe(last, other, foreground), atol=1e-6
    )


def test_it_learns_what_only_products_show() -> None:
    """Two classes with equal means: two features occur together in the one, apart in the other."""
    torch.manual_seed(1)
    sign = torch.randn(60, 1, 6, 6).sign()
    labels = torch.arange(60) % 2
    fine = torch.randn(60, 4, 6, 6) * 0.1
    fine[:, :1] += sign
    fine[:, 1:2] += torch.where(labels[:, None, None, None] == 1, sign, -sign)
    last, foreground = torch.zeros(60, 5, 3, 3), torch.ones(60, 1, 6, 6)
    head = build_head(classes=2)
    head.fit_axes(fine)
    descriptors = head.describe(last, fine, foreground)
    head.fit(descriptors[:40], labels[:40], decay=1e-4, steps=40)
    assert (head.classify(descriptors[40:]).argmax(1) == labels[40:]).all()


def test_a_checkpoint_stores_it(tmp_path: Path) -> None:
    model = Small()
    torch.manual_seed(0)
    body, channels = model.body()
    network = Classifier(body, MeanLinear(channels, 3), "abc", model.last, model.below).eval()
    foreground = build_foreground_head(network, (64, 64), width=8).eval()
    network.branches["foreground"] = foreground
    below = foreground.reads[0]
    wide = network(torch.zeros(1, 3, 64, 64), at=(below,)).activations[below].shape[1]
    network.branches["object_class"] = SecondOrderHead(
        ("last", below, "foreground"), channels, wide, 3
    ).eval()
    assert network.tells_objects
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        before = network(images, at=("object_class",)).activations
    assert list(before) == ["object_class"]  # not the branch that it reads
    node = {"_target_": "pipeline.model.small.Small"}
    card = {"size": [64, 64], "mean": [0, 0, 0], "std": [1, 1, 1]}
    checkpoint.save(tmp_path, network, node, card)
    loaded = checkpoint.load(tmp_path, torch.device("cpu")).network
    with torch.no_grad():
        after = loaded(images, at=("object_class",)).activations
    assert torch.allclose(before["object_class"], after["object_class"], atol=1e-5)
