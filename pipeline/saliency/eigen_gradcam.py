"""EigenGradCAM: features times gradients, projected on their first principal component.

    G_k = A_k d s_c / d A_k as rows of positions        map = relu(G' v_1),  G' = G - mean_ij G

It is pytorch-grad-cam's combination of Eigen-CAM (Muhammad and Yeasin, IJCNN 2020) with HiResCAM's
product, so that the map depends on the class; there is no paper of its own. `centred: false` leaves
the mean of each channel in, as Eigen-CAM's paper does.

The sign of a singular vector is arbitrary: here the inner product of the map with HiResCAM's signed
map, sum_k G_k, is not negative. Where pytorch-grad-cam's sign is the other, its map is the positive
part of the negative of ours.

Maps of several layers are each divided by their largest magnitude, upsampled to the largest
resolution, and averaged (`fused.average_scaled`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from pipeline.saliency.eigencam import project_on_first_vector
from pipeline.saliency.fused import RectifiedLayerMethod

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class EigenGradCAM(RectifiedLayerMethod):
    """EigenGradCAM of one or several layers."""

    centred: bool = True  # false: with each channel's mean (first singular vector)

    def compute_maps(
        self, features: Float[Tensor, "b K h w"], gradients: Float[Tensor, "b t K h w"]
    ) -> Float[Tensor, "b t h w"]:
        """Project A_k d s_c / d A_k of each image and class on its first right singular vector."""
        products = gradients * features[:, None]
        projected = project_on_first_vector(products.flatten(0, 1), self.centred)
        return projected.view_as(products[:, :, 0])
