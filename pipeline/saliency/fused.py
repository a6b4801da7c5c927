"""What the Grad-CAM family shares: features and gradients from one pass, maps of several layers.

    map(i, j) = a function of features A_k and gradients d s_c / d A_k        for each layer

One forward pass serves all classes and layers, one backward pass a class all layers; the graph
begins at the earliest layer. Maps are made in float32 whatever the precision of the run.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
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
    from jaxtyping import Float, Int


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


@dataclass(frozen=True)
class LayerMethod(ABC):
    """A method whose maps follow from the features and the gradients of one or several layers.

    A subclass computes the maps of one layer, and says where gradients or fusion are others.
    """

    layers: tuple[str, ...] = ("last",)  # one, or several whose maps are fused; by name, below

    def __post_init__(self) -> None:
        check_layers(self.layers)

    def __call__(
        self, network: Network, images: Float[Tensor, "b 3 H W"], choose: ClassSelector
    ) -> Explanation:
        """Compute maps of the chosen classes at the resolution of the finest layer.

        Raises:
            UserError: If a layer does not exist or the score does not depend on it.
        """
        with torch.enable_grad():
            answer = network(images, at=self.layers)
            logits = answer.logits.detach()
            classes = choose(logits)
            features = [answer.activations[name] for name in self.layers]
            gradients = self.differentiate(answer.logits, classes, features)
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            maps = [
                self.rectify(self.compute_maps(layer_features.float(), layer_gradients.float()))
                for layer_features, layer_gradients in zip(features, gradients, strict=True)
            ]
            return Explanation(maps[0] if len(maps) == 1 else self.fuse(maps), classes, logits)

    @abstractmethod
    def compute_maps(
        self, features: Float[Tensor, "b K h w"], gradients: Float[Tensor, "b t K h w"]
    ) -> Float[Tensor, "b t h w"]:
        """Compute the maps of one layer from its features and gradients, in float32.

        Args:
            features: A_k, the layer's feature maps.
            gradients: d s_c / d A_k of each class asked for.
        """

    def rectify(self, maps: Float[Tensor, "b t h w"]) -> Float[Tensor, "b t h w"]:
        """Return the maps of one layer as they are.

        Args:
            maps: Raw maps of the layer.
        """
        return maps

    def differentiate(
        self,
        logits: Float[Tensor, "b C"],
        classes: Int[Tensor, "b t"],
        features: Sequence[Float[Tensor, "b K h w"]],
    ) -> list[Tensor]:
        """Compute the gradients [b, t, K, h, w] of each class's logit for each layer.

        Args:
            logits: Class scores, with the graph that leads to the features.
            classes: The classes to explain, for each image.
            features: Feature maps of each layer.

        Raises:
            UserError: If the score does not depend on one of the layers.
        """
        return compute_gradients(logits, classes, features)

    def fuse(self, maps: Sequence[Float[Tensor, "b t _ _"]]) -> Float[Tensor, "b t H W"]:
        """Combine the maps of several layers.

        Args:
            maps: The maps of each layer, at its own resolution.

        Returns:
            Maps at the largest resolution.
        """
        return average_scaled(maps)


@dataclass(frozen=True)
class RectifiedLayerMethod(LayerMethod):
    """A `LayerMethod` whose maps keep their positive part, unless asked otherwise."""

    relu: bool = True  # false: signed, negative where it speaks against the class

    def rectify(self, maps: Float[Tensor, "b t h w"]) -> Float[Tensor, "b t h w"]:
        """Return the positive part of the maps of one layer, or the maps as they are."""
        return maps.relu() if self.relu else maps
