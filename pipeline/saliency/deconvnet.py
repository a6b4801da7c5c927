"""Deconvnet: the score propagated back, where each ReLU lets only a positive signal pass.

    relu(g) in place of g * [x > 0]

Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014, section 2.1:
max pooling is undone at the switches of the forward pass, and convolutions are transposed: both
are the gradient. Only ReLU differs (Simonyan et al. 2013, section 4): the sign of its input is
ignored, so the map depends on the image through the switches alone. In a network without max
pooling (MobileNetV2) it is the same for every image. Float32 always, as the gradient. A network
with another activation than ReLU is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from pipeline.ops.relu_rules import deconvnet
from pipeline.protocols import Network
from pipeline.saliency.gradients import compute_modified_gradients, reduce_channels
from pipeline.types import ClassSelector, Explanation

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class Deconvnet:
    """Deconvnet maps, for networks whose activations are all ReLU."""

    channels: Literal["abs_max", "abs_sum", "sum"] = "abs_max"  # of R, G and B; sum is signed

    def __call__(
        self, network: Network, images: Float[Tensor, "b 3 H W"], choose: ClassSelector
    ) -> Explanation:
        """Compute maps of the chosen classes at the resolution of the image.

        Raises:
            UserError: If the network has no ReLU, or another activation than ReLU.
        """
        colour, classes, logits = compute_modified_gradients(network, images, choose, deconvnet)
        return Explanation(reduce_channels(colour, self.channels), classes, logits, colour)
