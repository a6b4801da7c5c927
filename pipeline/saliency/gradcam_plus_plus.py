"""Grad-CAM++: Grad-CAM whose weights count each position by itself, so that several objects show.

    w_k = sum_ij alpha_k(i, j) relu(d Y_c / d A_k(i, j))        map = relu(sum_k w_k A_k)

    alpha_k(i, j) = d2 / (2 d2 + sum_ab A_k(a, b) d3)    d2, d3: second and third derivative of Y_c

Chattopadhay et al., "Grad-CAM++: Improved Visual Explanations for Deep Convolutional Networks",
WACV 2018; alpha is equation 19. With Y_c = exp(s_c), as there, and ReLU in between, d2 and d3 are
exp(s_c) times the square and the cube of g = d s_c / d A_k(i, j), so that

    w_k = exp(s_c) sum_ij relu(g(i, j)) / (2 + g(i, j) sum_ab A_k(a, b))

exp(s_c) only scales the map, and is left out: it overflows. In this form no power of a small
gradient is lost, whereas pytorch-grad-cam adds 1e-6 to 2 g^2, which is often smaller, and torchcam
divides a copy, so that its alpha is g^2. The paper takes features that are never negative:
elsewhere the denominator can come near zero, and one channel then dominates the map.

Maps of several layers are each divided by their largest magnitude, upsampled to the largest
resolution, and averaged (`fused.average_scaled`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from pipeline.saliency.fused import RectifiedLayerMethod, weight_features

if TYPE_CHECKING:
    from jaxtyping import Float


class GradCAMPlusPlus(RectifiedLayerMethod):
    """Grad-CAM++ of one or several layers."""

    def compute_maps(
        self, features: Float[Tensor, "b K h w"], gradients: Float[Tensor, "b t K h w"]
    ) -> Float[Tensor, "b t h w"]:
        """Compute sum_k w_k A_k."""
        return weight_by_position(features, gradients)


def weight_by_position(
    features: Float[Tensor, "b K h w"], gradients: Float[Tensor, "b t K h w"]
) -> Float[Tensor, "b t h w"]:
    """Compute sum_k w_k A_k with the weights above, without their factor exp(s_c)."""
    denominator = 2 + gradients * features.sum((2, 3))[:, None, :, None, None]
    shares = (gradients.relu() / denominator).masked_fill(denominator == 0, 0)
    return weight_features(shares.sum((3, 4)), features)
