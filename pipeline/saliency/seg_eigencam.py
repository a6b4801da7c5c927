"""Seg-Eigen-CAM: features times gradient magnitudes, projected on their first component.

    G_k = A_k |d s_c / d A_k| as rows of positions        map = relu(G' v_1),  G' = G - mean_ij G

Chung and Ying, "Seg-Eigen-CAM: Eigen-Value-Based Visual Explanations for Semantic Segmentation
Models", Applied Sciences 15(13), 2025, equations 10 to 13. The score here is the logit of a class;
the paper sums those of a segmenter's pixels. The sign of a singular vector is arbitrary: as in
equation 13 the value of the largest magnitude is positive.

Maps of several layers are each divided by their largest magnitude, upsampled to the largest
resolution, and averaged (`fused.average_scaled`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipeline.saliency.eigencam import project_on_first_vector
from pipeline.saliency.fused import RectifiedLayerMethod

if TYPE_CHECKING:
    from jaxtyping import Float


class SegEigenCAM(RectifiedLayerMethod):
    """Seg-Eigen-CAM of one or several layers."""

    def compute_maps(
        self, features: Float[Tensor, "b K h w"], gradients: Float[Tensor, "b t K h w"]
    ) -> Float[Tensor, "b t h w"]:
        """Project A_k |d s_c / d A_k| on its first component, the largest magnitude positive."""
        products = gradients.abs() * features[:, None]
        maps = project_on_first_vector(products.flatten(0, 1), centred=True)
        turned = maps.amin((1, 2), keepdim=True).abs() > maps.amax((1, 2), keepdim=True).abs()
        return torch.where(turned, -maps, maps).view_as(products[:, :, 0])
