"""Small: a network for small images, trained from scratch in a minute on two cores.

    block1 - block3    down to a quarter of the side: edges and corners
    block4 - block7    the same resolution, one of them dilated (Yu and Koltun 2016): outlines

Each block is a 3x3 convolution, batch norm (Ioffe and Szegedy 2015) and ReLU. The receptive field
is 55 pixels of a 64 pixel image: a class that only the complete outline shows can be recognised at
each position of the object, so that CAM covers the object and not one corner of it. The map is
fine, 16x16, so that a box can be taken from it. `stride=8` is for larger images; `pooling=max`
downsamples by the maximum of 2x2, as the networks that DeconvNet was made for.
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
    """Builder of the small network.

    Args:
        width: channels of the first block, a quarter of those of the last.
        stride: of the feature maps: 4 or 8.
        pooling: how blocks downsample: by the stride of the convolution, or by maximum pooling.
    """

    width: int = 16
    stride: int = 4
    pooling: Literal["stride", "max"] = "stride"

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
        """Return the body, with random weights, and its number of channels.

        Its feature maps are never negative.
        """
        few, some, many = self.width, 2 * self.width, 4 * self.width
        down = _build_block if self.pooling == "stride" else _build_pooled_block
        blocks = (
            down(3, few, stride=2),
            down(few, some, stride=2),
            _build_block(some, some),
            down(some, many, stride=self.stride // 4),
            _build_block(many, many),
            _build_block(many, many, dilation=2),
            _build_block(many, many),
        )
        names = {f"block{n}": block for n, block in enumerate(blocks, 1)}
        return nn.Sequential(OrderedDict(names)), many


def _build_block(channels: int, out: int, *, stride: int = 1, dilation: int = 1) -> nn.Module:
    conv = nn.Conv2d(channels, out, 3, stride, dilation, dilation, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(OrderedDict(conv=conv, norm=nn.BatchNorm2d(out), relu=nn.ReLU()))


def _build_pooled_block(channels: int, out: int, *, stride: int) -> nn.Module:
    block = _build_block(channels, out)
    block.add_module("pool", nn.MaxPool2d(stride))
    return block
