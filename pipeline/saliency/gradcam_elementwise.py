"""GradCAMElementWise: the positive part of features times gradients, summed over channels.

    map = sum_k relu(A_k d s_c / d A_k)

pytorch-grad-cam's variant of HiResCAM, which takes the positive part after the sum; there is no
paper of its own. Evidence against the class in one channel cancels none of another, so that the map
is never below HiResCAM's. Where features are never negative it is LayerCAM.

Maps of several layers are each divided by their largest magnitude, upsampled to the largest
resolution, and averaged (`fused.average_scaled`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from pipeline.protocols import Network
from pipeline.saliency.fused import LayerMaps, check_layers, explain_layers
from pipeline.types import ClassSelector, Explanation

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class GradCAMElementWise:
    """GradCAMElementWise of one or several layers."""

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
        wanted = LayerMaps(layers=self.layers, rule=sum_positive_products, relu=False)
        return explain_layers(network, images, choose, wanted)


def sum_positive_products(
    features: Float[Tensor, "b K h w"], gradients: Float[Tensor, "b t K h w"]
) -> Float[Tensor, "b t h w"]:
    """Compute sum_k relu(A_k d s_c / d A_k) at each position."""
    return (gradients * features[:, None]).relu().sum(2)
