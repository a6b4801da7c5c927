"""Grad-CAM: weight each feature map by the mean gradient of the class score.

    alpha_k = mean_ij  d s_c / d A_k(i, j)        map = relu(sum_k alpha_k A_k)

Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
Localization", ICCV 2017, equations 1 and 2. On a head that is mean then linear it is relu(CAM)
divided by h*w; it needs no such head.

Maps of several layers are each divided by their largest magnitude, upsampled to the largest
resolution, and averaged (`fused.average_scaled`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from pipeline.protocols import Network
from pipeline.saliency.fused import LayerMaps, check_layers, explain_layers, weight_features
from pipeline.types import ClassSelector, Explanation

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class GradCAM:
    """Grad-CAM of one or several layers."""

    layers: tuple[str, ...] = ("last",)  # one, or several whose maps are fused; by name, below
    relu: bool = True  # false: signed, negative where it speaks against the class

    def __post_init__(self) -> None:
        check_layers(self.layers)

    def __call__(
        self, network: Network, images: Float[Tensor, "b 3 H W"], choose: ClassSelector
    ) -> Explanation:
        """Compute maps of the chosen classes at the resolution of the finest layer.

        Raises:
            UserError: If a layer does not exist or the score does not depend on it.
        """
        wanted = LayerMaps(layers=self.layers, rule=weight_by_mean_gradient, relu=self.relu)
        return explain_layers(network, images, choose, wanted)


def weight_by_mean_gradient(
    features: Float[Tensor, "b K h w"], gradients: Float[Tensor, "b t K h w"]
) -> Float[Tensor, "b t h w"]:
    """Compute sum_k alpha_k A_k, where alpha_k is the mean of the gradients of channel k."""
    return weight_features(gradients.mean((3, 4)), features)
