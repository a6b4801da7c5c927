"""Does a shift of the input, which the network does not see, move the map? Input invariance.

    f_2(x + m) = f_1(x)        b_2 = b_1 - W m

Kindermans et al., "The (Un)reliability of Saliency Methods", 2017, section 2. A constant is added
to every pixel and taken away again in the bias of the first layer: both networks answer alike and
have the same gradients, so the maps must be the same. Those of the gradient and of the CAM family
are; what multiplies by the image, or replaces pixels by a fixed colour, is not.

The first layer is a convolution: in the copy it is given a bias where it has none, as those with
batch normalization behind do not. Its zero padding would break the identity along the border, for
zero is another colour after the shift: the copy's convolution pads with the shifted zero. A fixed
affine step before it (GoogLeNet's) is seen by what reaches the convolution. The answers are
compared too: `answer` is the largest difference of the logits over their largest magnitude.

    moved    sum |M' - M| / sum |M|: 0 where the map stayed, 1 and more where it is another
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.audit.likeness import enlarged, rank_correlation, ssim
from pipeline.errors import UserError

if TYPE_CHECKING:
    from jaxtyping import Float

Explain = Callable[[nn.Module, Tensor], Tensor]


class Shifted(nn.Module):
    """A convolution that takes away in its bias what was added to its input."""

    def __init__(self, conv: nn.Conv2d, shift: Float[Tensor, "3"]) -> None:
        super().__init__()
        if conv.padding_mode != "zeros" or conv.groups != 1:
            raise UserError(
                f"the first layer is {conv}: only a convolution of all channels, padded with "
                "zeros, can take a shift away"
            )
        self.conv = conv
        taken = (conv.weight * shift[:, None, None]).sum((1, 2, 3))
        self.bias = nn.Parameter(
            (torch.zeros_like(taken) if conv.bias is None else conv.bias) - taken, False
        )
        self.register_buffer("shift", shift[:, None, None])
        self.shift: Tensor

    def forward(self, images: Tensor) -> Tensor:
        conv = self.conv
        margins = _margins(conv)
        if any(margins):
            inside = F.pad(torch.ones_like(images[:1, :1]), margins)
            images = F.pad(images, margins) + (1 - inside) * self.shift
        return F.conv2d(images, conv.weight, self.bias, conv.stride, 0, conv.dilation)


def _margins(conv: nn.Conv2d) -> list[int]:
    """Left, right, above, below."""
    if conv.padding == "valid":
        return [0, 0, 0, 0]
    if conv.padding == "same":
        return [int(side) for side in conv._reversed_padding_repeated_twice]
    down, across = cast(tuple[int, int], conv.padding)
    return [across, across, down, down]


def shifted(
    network: nn.Module, images: Float[Tensor, "b 3 H W"], shift: Float[Tensor, "3"]
) -> nn.Module:
    """The copy f_2. Raises UserError where the first layer is not what can take a shift away."""
    changed = copy.deepcopy(network)
    one = images[:1]
    name, before = _first(changed, one)
    _, after = _first(changed, one + shift[:, None, None])
    added = after - before
    own = added.mean((0, 2, 3))
    if not torch.allclose(added, own[:, None, None].expand_as(added), atol=1e-4):
        raise UserError(f"what reaches the first convolution, {name}, is not the image or affine")
    parent, _, child = name.rpartition(".")
    conv = cast(nn.Conv2d, changed.get_submodule(name))
    setattr(changed.get_submodule(parent), child, Shifted(conv, own))
    return changed


def _first(network: nn.Module, images: Float[Tensor, "1 3 H W"]) -> tuple[str, Tensor]:
    """The layer that runs first of those that have parameters, and what it reads."""
    seen: list[tuple[str, Tensor]] = []

    def watch(name: str) -> Callable[[nn.Module, Any], None]:
        return lambda module, inputs: seen.append((name, inputs[0].detach()))

    handles = [
        module.register_forward_pre_hook(watch(name))
        for name, module in network.named_modules()
        if next(module.parameters(recurse=False), None) is not None
        and not next(iter(module.children()), None)
    ]
    try:
        with torch.no_grad():
            network(images)
    finally:
        for handle in handles:
            handle.remove()
    name, read = seen[0]
    if not isinstance(network.get_submodule(name), nn.Conv2d):
        raise UserError(f"the first layer, {name}, is no convolution: input shift needs one")
    return name, read


def input_shift(
    network: nn.Module,
    explain: Explain,
    logits: Callable[[nn.Module, Tensor], Tensor],
    images: Float[Tensor, "b 3 H W"],
    shift: Float[Tensor, "3"],
) -> dict[str, Tensor]:
    """`shift`: on the network's scale, a constant for each channel."""
    other = shifted(network, images, shift)
    added = images + shift[:, None, None]
    before, after = explain(network, images), explain(other, added)
    first, second = logits(network, images), logits(other, added)
    total = before.abs().sum((1, 2))
    tiny = torch.finfo(total.dtype).tiny
    return {
        "moved": (after - before).abs().sum((1, 2)) / total.clamp(min=tiny),
        "rank": rank_correlation(before, after),
        "ssim": ssim(*(enlarged(one, images.shape[2:]) for one in (before, after))),
        "answer": (second - first).abs().amax(1) / first.abs().amax(1).clamp(min=tiny),
        "before": before,
        "after": after,
    }
