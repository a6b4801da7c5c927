"""XGrad-CAM: Grad-CAM whose gradients are averaged with the feature map as weights.

    w_k = sum_ij (A_k(i, j) / sum_ab A_k(a, b)) d s_c / d A_k(i, j)        map = relu(sum_k w_k A_k)

Fu et al., "Axiom-based Grad-CAM: Towards Accurate Visualization and Explanation of CNNs", BMVC
2020; relu as in the authors' code. Before relu the map sums up to
sum_k sum_ij A_k d s_c / d A_k, as HiResCAM's does: where what follows the layer is linear, that is
the logit without its bias (the axiom of conservation). A channel that sums up to 0 has weight 0.

Maps of several layers are each divided by their largest magnitude, upsampled to the largest
resolution, and averaged (`fused.average_scaled`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from pipeline.saliency.fused import RectifiedLayerMethod, weight_features

if TYPE_CHECKING:
    from jaxtyping import Float


class XGradCAM(RectifiedLayerMethod):
    """XGrad-CAM of one or several layers."""

    def compute_maps(
        self, features: Float[Tensor, "b K h w"], gradients: Float[Tensor, "b t K h w"]
    ) -> Float[Tensor, "b t h w"]:
        """Compute sum_k w_k A_k, w_k the mean gradient weighted by the feature map itself."""
        total = features.sum((2, 3))[:, None]
        weights = (gradients * features[:, None]).sum((3, 4)) / total
        return weight_features(weights.masked_fill(total == 0, 0), features)
