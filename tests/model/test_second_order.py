"""The second-order head: its algebra against sums written out, and what it learns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from pipeline.engine import checkpoint
from pipeline.model.classifier import Classifier, MeanLinear
from pipeline.model.foreground import build_foreground_head
from pipeline.model.second_order import SecondOrderHead
from pipeline.model.small import Small

READS = ("last", "fine", "foreground")


def head(classes: int = 3) -> SecondOrderHead:
    torch.manual_seed(0)
    one = SecondOrderHead(READS, last=5, channels=4, classes=classes)
    one.fit_axes(torch.randn(20, 4, 6, 6) * torch.tensor([1.0, 5, 2, 3])[:, None, None])
    return one


def test_what_it_reads_is_the_weighted_mean_of_products() -> None:
    one = head()
    last, fine, foreground = (
        torch.randn(2, 5, 3, 3),
        torch.randn(2, 4, 6, 6),
        torch.rand(2, 1, 6, 6),
    )
    found = one.describe(last, fine, foreground).numpy()
    assert isinstance(one.axes, torch.Tensor)
    axes = one.axes.numpy()
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
        assert np.allclose(found[n], expected, atol=1e-4)


def test_the_axes_whiten() -> None:
    features = torch.randn(40, 4, 6, 6) * torch.tensor([1.0, 5, 2, 3])[:, None, None] + 7
    one = head()
    one.fit_axes(features)
    rows = torch.einsum("nkhw,ka->nahw", features, one.axes).permute(0, 2, 3, 1).flatten(0, 2)
    assert torch.allclose(torch.cov(rows.T), torch.eye(4), atol=1e-3)


def test_background_has_no_say_in_the_second_order() -> None:
    one = head()
    last, fine = torch.randn(1, 5, 3, 3), torch.randn(1, 4, 6, 6)
    foreground = torch.zeros(1, 1, 6, 6)
    foreground[..., 1:4, 2:5] = 1
    other = torch.where(foreground > 0, fine, torch.randn(1, 4, 6, 6))
    assert torch.allclose(
        one.describe(last, fine, foreground), one.describe(last, other, foreground), atol=1e-6
    )


def test_it_learns_what_only_products_tell() -> None:
    """Two kinds with equal means: in one two features meet, in the other they avoid one another."""
    torch.manual_seed(1)
    sign = torch.randn(60, 1, 6, 6).sign()
    labels = torch.arange(60) % 2
    fine = torch.randn(60, 4, 6, 6) * 0.1
    fine[:, :1] += sign
    fine[:, 1:2] += torch.where(labels[:, None, None, None] == 1, sign, -sign)
    last, foreground = torch.zeros(60, 5, 3, 3), torch.ones(60, 1, 6, 6)
    one = head(classes=2)
    one.fit_axes(fine)
    described = one.describe(last, fine, foreground)
    one.fit(described[:40], labels[:40], decay=1e-4, steps=40)
    assert (one.classify(described[40:]).argmax(1) == labels[40:]).all()


def test_the_checkpoint_carries_it(tmp_path: Path) -> None:
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
    assert list(before) == ["object_class"]  # what it reads of branches is not answered
    node = {"_target_": "pipeline.model.small.Small"}
    card = {"size": [64, 64], "mean": [0, 0, 0], "std": [1, 1, 1]}
    checkpoint.save(tmp_path, network, node, card)
    loaded = checkpoint.load(tmp_path, torch.device("cpu")).network
    with torch.no_grad():
        after = loaded(images, at=("object_class",)).activations
    assert torch.allclose(before["object_class"], after["object_class"], atol=1e-5)
