"""RefineCAM: the product of the Grad-CAM++ maps of several layers.

    map = prod_l  (up(map_l) - min) / (max - min)

A coarse late map says where the class is, a fine early map where the details are; positions that
are high in all of them stay. "How to Evaluate and Refine your CAM", 2026 (arXiv 2605.14641). Each
map is upsampled bilinearly to the resolution of the finest layer, after relu, and scaled to [0, 1]
there; a constant map counts as 0. pytorch-grad-cam does so at the resolution of the image. Of a
single layer it is Grad-CAM++.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipeline.saliency.fused import LayerMethod, upsample_to_largest
from pipeline.saliency.gradcam_plus_plus import weight_by_position

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class RefineCAM(LayerMethod):
    """The product of the Grad-CAM++ maps of several layers."""

    layers: tuple[str, ...] = ("below", "last")  # whose maps are multiplied; below, or by name

    def compute_maps(
        self, features: Float[Tensor, "b K h w"], gradients: Float[Tensor, "b t K h w"]
    ) -> Float[Tensor, "b t h w"]:
        """Compute the Grad-CAM++ map of one layer."""
        return weight_by_position(features, gradients).relu()

    def fuse(self, maps: Sequence[Float[Tensor, "b t _ _"]]) -> Float[Tensor, "b t H W"]:
        """Multiply the maps of several layers, each scaled to [0, 1] at the largest resolution."""
        large = upsample_to_largest(maps)
        low, high = large.amin((3, 4), keepdim=True), large.amax((3, 4), keepdim=True)
        return ((large - low) / torch.where(high > low, high - low, 1)).prod(0)
