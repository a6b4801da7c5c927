"""What the Grad-CAM family shares: features and slopes from one pass, and maps of several layers.

    map(i, j) = rule(features A_k, slopes d s_c / d A_k)(i, j)        for each layer

One forward pass serves all classes and layers, one backward pass a class all layers; the graph
begins at the earliest layer. Maps are made in float32 whatever the precision of the run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.errors import UserError
from pipeline.protocols import Network
from pipeline.saliency.gradients import gradients
from pipeline.types import ClassSelector, Explanation

if TYPE_CHECKING:
    from jaxtyping import Float

Rule = Callable[[Tensor, Tensor], Tensor]
"""From features [b, K, h, w] and slopes [b, t, K, h, w] to maps [b, t, h, w]."""

Fusion = Callable[[Sequence[Tensor]], Tensor]
"""From maps [b, t, h, w] of several layers, each at its own resolution, to one."""


def check_layers(layers: tuple[str, ...]) -> None:
    """Raises UserError where no layer is named, or a bare name stands for a list of them."""
    if isinstance(layers, str) or not layers:
        raise UserError(
            f"saliency.layers={layers}: expected one or more layers, [last] or [below,last]; last "
            "is what the head reads, below what the last block reads, others have their own names"
        )


def weighted(
    weights: Float[Tensor, "b t K"], features: Float[Tensor, "b K h w"]
) -> Float[Tensor, "b t h w"]:
    """sum_k w_k A_k: one weight a channel, as most of the family have it."""
    return torch.einsum("btk,bkhw->bthw", weights, features)


def scaled(maps: Float[Tensor, "b t h w"]) -> Float[Tensor, "b t h w"]:
    """Each map divided by its largest magnitude; a map of zeros stays one."""
    peak = maps.abs().amax((2, 3), keepdim=True)
    return maps / peak.clamp(min=torch.finfo(maps.dtype).tiny)


def enlarged(maps: Sequence[Float[Tensor, "b t h w"]]) -> Float[Tensor, "n b t H W"]:
    """All at the largest height and width, bilinearly."""
    size = [max(one.shape[axis] for one in maps) for axis in (2, 3)]
    return torch.stack(
        [F.interpolate(one, size, mode="bilinear", align_corners=False) for one in maps]
    )


def mean_of_scaled(maps: Sequence[Float[Tensor, "b t h w"]]) -> Float[Tensor, "b t H W"]:
    """The plain rule of fusing: every layer has the same say."""
    return enlarged([scaled(one) for one in maps]).mean(0)


def explained(
    network: Network,
    images: Float[Tensor, "b 3 H W"],
    choose: ClassSelector,
    layers: Sequence[str],
    rule: Rule,
    *,
    relu: bool,
    fusion: Fusion = mean_of_scaled,
) -> Explanation:
    """Raw maps of one layer as the rule gives them, or those of several fused."""
    with torch.enable_grad():
        answer = network(images, at=layers)
        logits = answer.logits.detach()
        classes = choose(logits)
        features = [answer.activations[name] for name in layers]
        found = gradients(answer.logits, classes, features)
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        maps = [rule(a.float(), s.float()) for a, s in zip(features, found, strict=True)]
        if relu:
            maps = [one.relu() for one in maps]
        return Explanation(maps[0] if len(maps) == 1 else fusion(maps), classes, logits)
