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
from typing import TYPE_CHECKING

from torch import Tensor

from pipeline.saliency.fused import RectifiedLayerMethod, scale_to_peak, upsample_to_largest

if TYPE_CHECKING:
    from jaxtyping import Float

GAMMA = 2.0  # of the paper


class LayerCAM(RectifiedLayerMethod):
    """LayerCAM of one or several layers."""

    def compute_maps(
        self, features: Float[Tensor, "b K h w"], gradients: Float[Tensor, "b t K h w"]
    ) -> Float[Tensor, "b t h w"]:
        """Compute sum_k relu(d s_c / d A_k) A_k at each position."""
        return (gradients.relu() * features[:, None]).sum(2)

    def fuse(self, maps: Sequence[Float[Tensor, "b t _ _"]]) -> Float[Tensor, "b t H W"]:
        """Take the largest of the layers' maps at each position, each scaled by equation 9."""
        scaled = [(GAMMA * scale_to_peak(layer_maps)).tanh() for layer_maps in maps]
        return upsample_to_largest(scaled).amax(0)
