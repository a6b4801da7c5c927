"""Guided backpropagation: a ReLU passes back a positive signal, and only where it was open.

    relu(g) * [x > 0] in place of g * [x > 0]

Springenberg et al., "Striving for Simplicity: The All Convolutional Net", ICLR 2015 workshop,
section 3.4. It applies the gradient's mask and deconvnet's; without any negative signal its map is
the gradient. The fine outlines look convincing and say little about the class: they hardly change
when the network's weights are replaced by random ones (Adebayo et al. 2018). Float32 always, as the
gradient. A network with another activation than ReLU is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from pipeline.ops.relu_rules import guided
from pipeline.protocols import Network
from pipeline.saliency.gradients import compute_modified_gradients, reduce_channels
from pipeline.types import ClassSelector, Explanation

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class GuidedBackprop:
    """Guided backpropagation, for networks whose activations are all ReLU."""

    channels: Literal["abs_max", "abs_sum", "sum"] = "abs_max"  # of R, G and B; sum is signed

    def __call__(
        self, network: Network, images: Float[Tensor, "b 3 H W"], choose: ClassSelector
    ) -> Explanation:
        """Compute maps of the chosen classes at the resolution of the image.

        Raises:
            UserError: If the network has no ReLU, or another activation than ReLU.
        """
        colour, classes, logits = compute_modified_gradients(network, images, choose, guided)
        return Explanation(reduce_channels(colour, self.channels), classes, logits, colour)
