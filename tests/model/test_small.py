"""small: the sizes of its maps however it downsamples, and refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from pipeline.errors import UserError
from pipeline.model.small import Small


@pytest.mark.parametrize("pooling", ["stride", "max"])
@pytest.mark.parametrize(("stride", "side"), [(4, 16), (8, 8)])
def test_maps(pooling: Any, stride: int, side: int) -> None:
    body, channels = Small(width=2, stride=stride, pooling=pooling).body()
    maps = body(torch.rand(1, 3, 64, 64))
    assert maps.shape == (1, channels, side, side)
    assert maps.min() >= 0
    pools = [module for module in body.modules() if isinstance(module, nn.MaxPool2d)]
    assert len(pools) == (0 if pooling == "stride" else 3)


def test_both_have_the_same_weights() -> None:
    def names(pooling: Any) -> list[str]:
        return list(Small(width=2, pooling=pooling).body()[0].state_dict())

    assert names("stride") == names("max")


def test_refusals() -> None:
    with pytest.raises(UserError, match=r"model\.stride=16"):
        Small(stride=16)
    with pytest.raises(UserError, match=r"model\.width=0"):
        Small(width=0)
