"""HiResCAM: features times gradients, position by position, without Grad-CAM's average.

    map = relu(sum_k A_k d s_c / d A_k)

Draelos and Carin, "Use HiResCAM instead of Grad-CAM for faithful explanations of convolutional
neural networks", 2020. Where what follows the layer is linear (mean or flatten, then one linear
layer), the map before relu sums up to the logit without its bias; on a head that is mean then
linear it is Grad-CAM. `relu: false` gives that signed map; true its positive part, as the
rest of the family gives it.

Maps of several layers are each divided by their largest magnitude, upsampled to the largest
resolution, and averaged (`fused.average_scaled`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from pipeline.saliency.fused import RectifiedLayerMethod

if TYPE_CHECKING:
    from jaxtyping import Float


class HiResCAM(RectifiedLayerMethod):
    """HiResCAM of one or several layers."""

    def compute_maps(
        self, features: Float[Tensor, "b K h w"], gradients: Float[Tensor, "b t K h w"]
    ) -> Float[Tensor, "b t h w"]:
        """Compute sum_k A_k d s_c / d A_k at each position."""
        return (gradients * features[:, None]).sum(2)
