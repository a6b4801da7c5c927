"""What the Grad-CAM family shares: features and gradients from one pass, maps of several layers.

    map(i, j) = rule(features A_k, gradients d s_c / d A_k)(i, j)        for each layer

One forward pass serves all classes and layers, one backward pass a class all layers; the graph
begins at the earliest layer. Maps are made in float32 whatever the precision of the run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.errors import UserError
from pipeline.protocols import Network
from pipeline.saliency.gradients import compute_gradients
from pipeline.types import ClassSelector, Explanation

if TYPE_CHECKING:
    from jaxtyping import Float

Rule = Callable[[Tensor, Tensor], Tensor]
"""From features [b, K, h, w] and gradients [b, t, K, h, w] to maps [b, t, h, w]."""

Fusion = Callable[[Sequence[Tensor]], Tensor]
"""From maps [b, t, h, w] of several layers, each at its own resolution, to maps [b, t, H, W]."""


def check_layers(layers: tuple[str, ...]) -> None:
    """Raise UserError where no layer is named, or what is given is no list of names."""
    if isinstance(layers, tuple | list):
        for layer in layers:
            check_layer(layer)
    elif not isinstance(layers, str):
        check_layer(layers)
    if isinstance(layers, str) or not layers:
        raise UserError(
            f"saliency.layers={layers}: expected one or more layers, [last] or [below,last]; last "
            "is what the head reads, below what the last block reads, others have their own names"
        )


def check_layer(layer: str) -> None:
    """Raise UserError where a network or a module stands in the place of a layer's name.

    The peers take a network first, then layers: GradCAM(model, [model.layer4]).
    """
    if not isinstance(layer, str):
        raise UserError(
            f"saliency.layers: expected names of layers, got {type(layer).__name__}; a method has "
            "options and no network: pipeline.explain(model, images, 'gradcam', layer='layer4')"
        )


def weight_features(
    weights: Float[Tensor, "b t K"], features: Float[Tensor, "b K h w"]
) -> Float[Tensor, "b t h w"]:
    """Compute sum_k w_k A_k, the sum of the feature maps with one weight a channel."""
    return torch.einsum("btk,bkhw->bthw", weights, features)


def scale_to_peak(maps: Float[Tensor, "b t h w"]) -> Float[Tensor, "b t h w"]:
    """Divide each map by its largest magnitude; a map of zeros stays a map of zeros."""
    peak = maps.abs().amax((2, 3), keepdim=True)
    return maps / peak.clamp(min=torch.finfo(maps.dtype).tiny)


def upsample_to_largest(maps: Sequence[Float[Tensor, "b t _ _"]]) -> Float[Tensor, "n b t H W"]:
    """Upsample all maps bilinearly to the largest height and the largest width among them."""
    size = [max(layer_maps.shape[axis] for layer_maps in maps) for axis in (2, 3)]
    return torch.stack(
        [
            F.interpolate(layer_maps, size, mode="bilinear", align_corners=False)
            for layer_maps in maps
        ]
    )


def average_scaled(maps: Sequence[Float[Tensor, "b t _ _"]]) -> Float[Tensor, "b t H W"]:
    """Average the maps of several layers, each scaled to its peak, at the largest resolution."""
    return upsample_to_largest([scale_to_peak(layer_maps) for layer_maps in maps]).mean(0)


@dataclass(frozen=True, kw_only=True)
class LayerMaps:
    """How maps are made from one or more layers.

    Args:
        layers: Names of the layers.
        rule: Makes the maps of a layer from its features and gradients, in float32.
        relu: Whether values below zero become zero, before any fusion.
        fusion: Combines the maps of several layers; not called for a single layer.
    """

    layers: Sequence[str]
    rule: Rule
    relu: bool
    fusion: Fusion = average_scaled


def explain_layers(
    network: Network, images: Float[Tensor, "b 3 H W"], choose: ClassSelector, wanted: LayerMaps
) -> Explanation:
    """Compute maps of the chosen classes from the features and gradients of one or more layers.

    Args:
        network: The classifier.
        images: Images as the network sees them.
        choose: Selects the classes from the logits.
        wanted: The layers, and how their maps are made.

    Returns:
        The raw maps of a single layer as the rule gives them, or those of several layers fused.

    Raises:
        UserError: If a layer does not exist or the score does not depend on it.
    """
    with torch.enable_grad():
        answer = network(images, at=wanted.layers)
        logits = answer.logits.detach()
        classes = choose(logits)
        features = [answer.activations[name] for name in wanted.layers]
        gradients = compute_gradients(answer.logits, classes, features)
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        maps = [wanted.rule(a.float(), g.float()) for a, g in zip(features, gradients, strict=True)]
        if wanted.relu:
            maps = [layer_maps.relu() for layer_maps in maps]
        fused = maps[0] if len(maps) == 1 else wanted.fusion(maps)
        return Explanation(fused, classes, logits)
