"""GradCAMElementWise: the positive part of features times gradients, summed over channels.

    map = sum_k relu(A_k d s_c / d A_k)

pytorch-grad-cam's variant of HiResCAM, which takes the positive part after the sum; there is no
paper of its own. Evidence against the class in one channel cancels none of another, so that the map
is never below HiResCAM's. Where features are never negative it is LayerCAM.

Maps of several layers are each divided by their largest magnitude, upsampled to the largest
resolution, and averaged (`fused.average_scaled`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from pipeline.saliency.fused import LayerMethod

if TYPE_CHECKING:
    from jaxtyping import Float


class GradCAMElementWise(LayerMethod):
    """GradCAMElementWise of one or several layers."""

    def compute_maps(
        self, features: Float[Tensor, "b K h w"], gradients: Float[Tensor, "b t K h w"]
    ) -> Float[Tensor, "b t h w"]:
        """Compute sum_k relu(A_k d s_c / d A_k) at each position."""
        return (gradients * features[:, None]).relu().sum(2)
