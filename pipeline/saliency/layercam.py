"""LayerCAM: features times their gradients where these are positive; good at any layer.

    map = relu(sum_k relu(d s_c / d A_k) A_k)

Jiang et al., "LayerCAM: Exploring Hierarchical Class Activation Maps for Localization", IEEE TIP
2021. On a head that is mean then linear it is CAM with positive weights, divided by
h*w.

Maps of several layers are fused as in the paper's equation 9, which strengthens the weak maps of
shallow layers: each becomes tanh(2 map / max map) and is upsampled to the largest resolution; the
largest value at each position is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from pipeline.protocols import Network
from pipeline.saliency.fused import (
    LayerMaps,
    check_layers,
    explain_layers,
    scale_to_peak,
    upsample_to_largest,
)
from pipeline.types import ClassSelector, Explanation

if TYPE_CHECKING:
    from jaxtyping import Float

GAMMA = 2.0  # of the paper


@dataclass(frozen=True)
class LayerCAM:
    """LayerCAM of one or several layers."""

    layers: tuple[str, ...] = ("last",)  # one, or several whose maps are fused; by name, below
    relu: bool = True  # false: keep values below zero

    def __post_init__(self) -> None:
        check_layers(self.layers)

    def __call__(
        self, network: Network, images: Float[Tensor, "b 3 H W"], choose: ClassSelector
    ) -> Explanation:
        """Compute maps of the chosen classes at the resolution of the finest layer.

        Raises:
            UserError: If a layer does not exist or the score does not depend on it.
        """
        wanted = LayerMaps(
            layers=self.layers,
            rule=weight_by_positive_gradient,
            relu=self.relu,
            fusion=take_largest,
        )
        return explain_layers(network, images, choose, wanted)


def weight_by_positive_gradient(
    features: Float[Tensor, "b K h w"], gradients: Float[Tensor, "b t K h w"]
) -> Float[Tensor, "b t h w"]:
    """Compute sum_k relu(d s_c / d A_k) A_k at each position."""
    return (gradients.relu() * features[:, None]).sum(2)


def take_largest(maps: Sequence[Float[Tensor, "b t _ _"]]) -> Float[Tensor, "b t H W"]:
    """Take the largest of the layers' maps at each position, each scaled by equation 9."""
    scaled = [(GAMMA * scale_to_peak(layer_maps)).tanh() for layer_maps in maps]
    return upsample_to_largest(scaled).amax(0)
