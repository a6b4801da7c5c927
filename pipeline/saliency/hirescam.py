"""HiResCAM: features times slopes, place by place, without Grad-CAM's average.

    map = relu(sum_k A_k d s_c / d A_k)

Draelos and Carin, "Use HiResCAM instead of Grad-CAM for faithful explanations of convolutional
neural networks", 2020. Where what follows the layer is linear (mean or flatten, then one linear
layer), the map before relu sums up to the logit without its bias; on a head that is mean then
linear it is Grad-CAM. `relu: false` is that sum itself, true what its kin show.

Maps of several layers are each divided by their largest magnitude, upsampled to the largest
resolution, and averaged (`fused.mean_of_scaled`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from pipeline.protocols import Network
from pipeline.saliency.fused import check_layers, explained
from pipeline.types import ClassSelector, Explanation

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class HiResCAM:
    layers: tuple[str, ...] = ("last",)  # one, or several whose maps are fused; by name, below
    relu: bool = True  # false: signed, with what speaks against the class

    def __post_init__(self) -> None:
        check_layers(self.layers)

    def __call__(
        self, network: Network, images: Float[Tensor, "b 3 H W"], choose: ClassSelector
    ) -> Explanation:
        return explained(network, images, choose, self.layers, product, relu=self.relu)


def product(
    features: Float[Tensor, "b K h w"], slopes: Float[Tensor, "b t K h w"]
) -> Float[Tensor, "b t h w"]:
    return (slopes * features[:, None]).sum(2)
