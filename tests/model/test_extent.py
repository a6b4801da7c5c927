"""The extent head: borders are distributions, and the map is the probability to be between them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.engine import checkpoint
from pipeline.model.extent import ExtentHead, _expect, _sum_inside
from pipeline.model.foreground import ForegroundHead, build_foreground_head
from tests.model.test_foreground import small_network


def test_a_sure_box_is_its_own_map() -> None:
    ends = torch.zeros(1, 2, 6)
    ends[0, 0, 1] = ends[0, 1, 4] = 1  # borders 1 and 4 of 5 cells
    assert _sum_inside(ends).tolist() == [[0, 1, 1, 1, 0]]
    assert _expect(ends)[0].tolist() == pytest.approx([0.2, 0.8])


def test_the_map_is_the_mean_with_the_box() -> None:
    torch.manual_seed(0)
    head = ForegroundHead(("last",), (5,), width=4, depth=1).eval()
    features = torch.randn(3, 5, 6, 9)
    before = head(features)
    extent = ExtentHead(4).eval()
    head.set_extent(extent)
    hidden = head.hidden(features)
    inside = extent(hidden, head.out(hidden))
    assert inside.shape == before.shape == (3, 1, 6, 9)
    assert (inside >= 0).all()
    assert torch.allclose(head(features), ((before + inside) / 2) ** 1.25)
    x, y = extent.borders(hidden, head.out(hidden))
    assert (x.shape, y.shape) == ((3, 2, 10), (3, 2, 7))
    assert torch.allclose(x.sum(2), torch.ones(3, 2))
    assert torch.allclose(head.logits(features).sigmoid(), before)


def test_a_checkpoint_keeps_it(tmp_path: Path) -> None:
    _, network = small_network()
    head = build_foreground_head(network, (64, 64), width=8)
    head.set_extent(ExtentHead(8))
    network.branches["foreground"] = head.eval()
    card = {"size": [64, 64], "mean": [0.5] * 3, "std": [0.2] * 3}
    checkpoint.save(tmp_path, network, {"_target_": "pipeline.model.small.Small"}, card)
    again = checkpoint.load(tmp_path, torch.device("cpu")).network
    images = torch.randn(2, 3, 64, 64)
    before, after = (
        net(images, at=("foreground",)).activations["foreground"] for net in (network, again)
    )
    assert torch.allclose(before, after, atol=1e-5)
