"""LayerCAM: features times their slopes where these are positive; good at any layer.

    map = relu(sum_k relu(d s_c / d A_k) A_k)

Jiang et al., "LayerCAM: Exploring Hierarchical Class Activation Maps for Localization", IEEE TIP
2021. On a head that is mean then linear it is CAM with positive weights, divided
by h*w.

Maps of several layers are fused as in the paper's equation 9, which wakes up the weak maps of
shallow layers: each becomes tanh(2 map / max map), is upsampled to the largest resolution, and the
largest of them counts at each place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from pipeline.protocols import Network
from pipeline.saliency.fused import check_layers, enlarged, explained, scaled
from pipeline.types import ClassSelector, Explanation

if TYPE_CHECKING:
    from jaxtyping import Float

GAMMA = 2.0  # of the paper


@dataclass(frozen=True)
class LayerCAM:
    layers: tuple[str, ...] = ("last",)  # one, or several whose maps are fused; by name, below
    relu: bool = True  # false: with what is below zero where features are

    def __post_init__(self) -> None:
        check_layers(self.layers)

    def __call__(
        self, network: Network, images: Float[Tensor, "b 3 H W"], choose: ClassSelector
    ) -> Explanation:
        return explained(
            network, images, choose, self.layers, positive, relu=self.relu, fusion=largest
        )


def positive(
    features: Float[Tensor, "b K h w"], slopes: Float[Tensor, "b t K h w"]
) -> Float[Tensor, "b t h w"]:
    return (slopes.relu() * features[:, None]).sum(2)


def largest(maps: Sequence[Float[Tensor, "b t h w"]]) -> Float[Tensor, "b t H W"]:
    return enlarged([(GAMMA * scaled(one)).tanh() for one in maps]).amax(0)
