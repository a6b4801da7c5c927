"""Guided backpropagation: back through a ReLU only where it was open, and only what is positive.

    relu(g) * [x > 0] in place of g * [x > 0]

Springenberg et al., "Striving for Simplicity: The All Convolutional Net", ICLR 2015 workshop,
section 3.4. The gradient's mask and deconvnet's at once; without any negative signal its map is
the gradient. Fine outlines that look convincing and say little about the class: they hardly change
when the network's weights are replaced by random ones (Adebayo et al. 2018). Float32 always, as the
gradient. A network with another activation than ReLU is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from pipeline.ops.relu_rules import guided
from pipeline.protocols import Network
from pipeline.saliency.gradients import modified_gradients, one_channel
from pipeline.types import ClassSelector, Explanation

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class GuidedBackprop:
    channels: Literal["abs_max", "abs_sum", "sum"] = "abs_max"  # of R, G and B; sum is signed

    def __call__(
        self, network: Network, images: Float[Tensor, "b 3 H W"], choose: ClassSelector
    ) -> Explanation:
        """Maps of the chosen classes at the resolution of the image."""
        colour, classes, logits = modified_gradients(network, images, choose, guided)
        return Explanation(one_channel(colour, self.channels), classes, logits, colour)
