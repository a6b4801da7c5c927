"""Small: a network for small pictures, trained from scratch in a minute on two cores.

    block1 - block3    down to a quarter of the side: edges and corners
    block4 - block7    the same resolution, one of them dilated (Yu and Koltun 2016): outlines

Each block is a 3x3 convolution, batch norm (Ioffe and Szegedy 2015) and ReLU. It sees 55 pixels
of a 64 pixel picture from every place of its map, so a class that only a whole outline tells is
evident all over the object, and CAM covers the object rather than one corner of it; and the map
is fine, 16x16, so that a box can be cut from it. `stride=8` is for larger pictures; `pooling=max`
goes down by the largest of 2x2, as the networks did that DeconvNet was made for.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal

from torch import nn

from pipeline.errors import UserError
from pipeline.model.builder import Builder


@dataclass(frozen=True)
class Small(Builder):
    """`width`: channels of the first block, a quarter of the last's; `stride`: 4 or 8."""

    width: int = 16
    stride: int = 4
    pooling: Literal["stride", "max"] = "stride"  # how it goes down: a stride of the convolution

    mean = (0.5, 0.5, 0.5)
    std = (0.25, 0.25, 0.25)
    last = ""
    below = "block6"

    def __post_init__(self) -> None:
        if self.width < 1:
            raise UserError(f"model.width={self.width}: expected at least 1 channel")
        if self.stride not in (4, 8):
            raise UserError(f"model.stride={self.stride}: this network makes maps at 4 or 8")

    def body(self) -> tuple[nn.Sequential, int]:
        """The feature maps' part [b, K, h, w], never negative, with random weights, and its K."""
        few, some, many = self.width, 2 * self.width, 4 * self.width
        down = _block if self.pooling == "stride" else _pooled
        blocks = (
            down(3, few, stride=2),
            down(few, some, stride=2),
            _block(some, some),
            down(some, many, stride=self.stride // 4),
            _block(many, many),
            _block(many, many, dilation=2),
            _block(many, many),
        )
        named = {f"block{n}": block for n, block in enumerate(blocks, 1)}
        return nn.Sequential(OrderedDict(named)), many


def _block(channels: int, out: int, *, stride: int = 1, dilation: int = 1) -> nn.Module:
    conv = nn.Conv2d(channels, out, 3, stride, dilation, dilation, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(OrderedDict(conv=conv, norm=nn.BatchNorm2d(out), relu=nn.ReLU()))


def _pooled(channels: int, out: int, *, stride: int) -> nn.Module:
    block = _block(channels, out)
    block.add_module("pool", nn.MaxPool2d(stride))
    return block
