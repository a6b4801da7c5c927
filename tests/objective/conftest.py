"""A small network and a batch, new for each test."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.model.classifier import Classifier, MeanLinear
from pipeline.model.small import Small

CLASSES = 3


def classifier() -> Any:
    """Build a classifier, always with the same weights."""
    torch.manual_seed(0)
    body, channels = Small(width=2).body()
    head = MeanLinear(channels, CLASSES)
    with torch.no_grad():  # so that class maps have both signs, and no class is nearly empty
        head.class_weights.normal_()
    return Classifier(body, head, ("a", "b", "c"), Small.last, Small.below)


@pytest.fixture
def network() -> Any:
    return classifier()


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(4, 3, 32, 32, generator=generator), torch.tensor([0, 1, 2, 1])
