"""Grad-CAM: weight each feature map by the mean gradient of the class score.

    alpha_k = mean_ij  d s_c / d A_k(i, j)        map = relu(sum_k alpha_k A_k)

Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
Localization", ICCV 2017, equations 1 and 2. On a head that is mean then linear it is relu(CAM)
divided by h*w; it needs no such head.

Maps of several layers are each divided by their largest magnitude, upsampled to the largest
resolution, and averaged (`fused.average_scaled`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from pipeline.saliency.fused import RectifiedLayerMethod, weight_features

if TYPE_CHECKING:
    from jaxtyping import Float


class GradCAM(RectifiedLayerMethod):
    """Grad-CAM of one or several layers."""

    def compute_maps(
        self, features: Float[Tensor, "b K h w"], gradients: Float[Tensor, "b t K h w"]
    ) -> Float[Tensor, "b t h w"]:
        """Compute sum_k alpha_k A_k."""
        return weight_by_mean_gradient(features, gradients)


def weight_by_mean_gradient(
    features: Float[Tensor, "b K h w"], gradients: Float[Tensor, "b t K h w"]
) -> Float[Tensor, "b t h w"]:
    """Compute sum_k alpha_k A_k, where alpha_k is the mean of the gradients of channel k."""
    return weight_features(gradients.mean((3, 4)), features)
