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

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from pipeline.protocols import Network
from pipeline.saliency.fused import LayerMaps, check_layers, explain_layers
from pipeline.types import ClassSelector, Explanation

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class HiResCAM:
    """HiResCAM of one or several layers."""

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
        wanted = LayerMaps(layers=self.layers, rule=sum_products, relu=self.relu)
        return explain_layers(network, images, choose, wanted)


def sum_products(
    features: Float[Tensor, "b K h w"], gradients: Float[Tensor, "b t K h w"]
) -> Float[Tensor, "b t h w"]:
    """Compute sum_k A_k d s_c / d A_k at each position."""
    return (gradients * features[:, None]).sum(2)
