"""Attention within shifted windows, as Swin has it: which tokens each window holds.

The grid of tokens is padded below and on the right to whole windows, rolled up and to the left by
the shift, and divided into square windows in raster order (Liu et al., "Swin Transformer", ICCV
2021). Swin of torchvision, timm and Hugging Face agree in this.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.errors import UserError
from pipeline.model.forms import infer_token_grid
from pipeline.types import AttentionWindows, Size

if TYPE_CHECKING:
    from jaxtyping import Int

KIND = "swin"  # in the names of classes of blocks whose windows lie as said above


def infer_windows(
    block: nn.Module,
    tokens: Tensor,
    matrices: tuple[int, ...],
    shift: Size,
    images: tuple[int, ...],
) -> AttentionWindows | None:
    """Return the windows of a block; None: it has none of this kind.

    Args:
        block: the module.
        tokens: what it gives, [b, h, w, K] or [b, n, K].
        matrices: the shape of its attention matrices, [b windows, heads, m, m].
        shift: by how much the grid was rolled up and to the left.
        images: the shape of the images, [b, 3, H, W].
    """
    if KIND not in type(block).__name__.lower() or tokens.shape[0] != images[0]:
        return None
    grid = _infer_grid(tokens, (images[2], images[3]))
    side = math.isqrt(matrices[-1])
    if grid is None or side * side != matrices[-1]:
        return None
    places = locate_windows(grid, side, shift)
    if len(places) * images[0] != matrices[0]:
        return None
    return AttentionWindows(grid, places.to(tokens.device))


def locate_windows(grid: Size, side: int, shift: Size) -> Int[Tensor, "w m"]:
    """Return the token of each place of each window, in raster order; -1: padding.

    Args:
        grid: height and width of the grid of tokens.
        side: of a window.
        shift: by how much the grid is rolled up and to the left.
    """
    height, width = grid
    numbers = torch.arange(height * width, device="cpu").view(grid)
    padded = F.pad(numbers, (0, -width % side, 0, -height % side), value=-1)
    rolled = padded.roll((-shift[0], -shift[1]), (0, 1))
    rows, columns = (count // side for count in rolled.shape)
    windows: Tensor = rolled.view(rows, side, columns, side).transpose(1, 2)
    return windows.reshape(-1, side * side)


def read_shift(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Size | None:
    """Return by how much a call of torch.roll rolls a grid [b, h, w, K] up and to the left.

    Args:
        args: of the call.
        kwargs: of the call.

    Returns:
        None: it does not roll a grid so.
    """
    tensor = args[0] if args else kwargs.get("input")
    shifts = args[1] if len(args) > 1 else kwargs.get("shifts")
    axes = args[2] if len(args) > 2 else kwargs.get("dims")
    if not isinstance(tensor, Tensor) or tensor.ndim != 4 or not isinstance(shifts, tuple | list):
        return None
    if axes is None or tuple(axes) != (1, 2) or len(shifts) != 2 or max(shifts) > 0:
        return None
    return -int(shifts[0]), -int(shifts[1])


def _infer_grid(tokens: Tensor, image: Size) -> Size | None:
    if tokens.ndim == 4:
        return tokens.shape[1], tokens.shape[2]
    try:
        others, grid = infer_token_grid("", tokens, image)
    except UserError:
        return None
    return grid if others == 0 else None
