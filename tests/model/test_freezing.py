"""Stages of networks, by the sizes of their maps."""

from __future__ import annotations

import pytest
import torch

from pipeline.errors import UserError
from pipeline.model.freezing import list_stages
from pipeline.model.small import Small
from pipeline.model.torchvision import Torchvision


def stage_ends(name: str) -> list[list[str]]:
    """Return the first and the last part of each stage of a network."""
    with torch.device("meta"):
        body, _ = Torchvision(name, weights=None).own(2)
    return [[stage[0], stage[-1]] for stage in list_stages(body)]


def test_resnet() -> None:
    stages = stage_ends("resnet18")
    assert stages == [["conv1", "relu"], ["maxpool", "layer1.1"], ["layer2.0", "layer2.1"],
                     ["layer3.0", "layer3.1"], ["layer4.0", "layer4.1"]]  # fmt: skip


def test_mobilenet() -> None:
    stages = stage_ends("mobilenet_v2")
    assert [first for first, _ in stages] == [
        "features.0.0", "features.2", "features.4", "features.7", "features.14"]  # fmt: skip
    assert stages[-1][1].startswith("features.18")


def test_vgg_is_split_at_its_poolings() -> None:
    stages = stage_ends("vgg16")
    assert [first for first, _ in stages] == [
        "features.0", "features.4", "features.9", "features.16", "features.23"]  # fmt: skip
    assert stages[-1][1] == "features.30"


@pytest.mark.parametrize(
    ("name", "count"),
    [("googlenet", 5), ("densenet121", 5), ("efficientnet_b0", 5), ("convnext_tiny", 4)],
)
def test_other_networks(name: str, count: int) -> None:
    assert len(stage_ends(name)) == count


def test_small_and_each_part_is_in_one_stage() -> None:
    body, _ = Small().body()
    stages = list_stages(body)
    assert [stage[0] for stage in stages] == ["block1.conv", "block2.conv"]
    parts = [name for stage in stages for name in stage]
    assert len(parts) == len(set(parts))
    held = {id(p) for name in parts for p in body.get_submodule(name).parameters()}
    assert held == {id(p) for p in body.parameters()}


def test_a_transformer_has_none() -> None:
    with torch.device("meta"):
        body, _ = Torchvision("vit_b_16", weights=None).own(2)
    with pytest.raises(UserError, match=r"one stage.*possible: backbone, none"):
        list_stages(body)
