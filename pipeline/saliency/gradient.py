"""The gradient: how much the class score changes with each pixel.

    colour_c = d s_c / d image        map_c(i, j) = max_channel |colour_c(channel, i, j)|

Simonyan et al., "Deep Inside Convolutional Networks: Visualising Image Classification Models and
Saliency Maps", 2013, section 3; s_c is the logit. The image is as the network sees it,
scaled by mean and deviation. `channels="sum"` keeps the sign: red where more of every colour
speaks for the class, blue where it speaks against it.

Always in float32, whatever `runtime.precision` is: in bfloat16 it is mostly rounding. Where nothing
but ReLU, convolutions and pooling without biases lies between image and score, the score is
homogeneous in the image, so that sum(colour_c * image) = s_c.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from pipeline.protocols import Network
from pipeline.saliency.gradients import compute_image_gradients, reduce_channels
from pipeline.types import ClassSelector, Explanation

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class Gradient:
    """The gradient of the class score at each pixel."""

    channels: Literal["abs_max", "abs_sum", "sum"] = "abs_max"  # of R, G and B; sum is signed
    normalize: Literal["none", "sum"] = "none"  # sum: magnitudes of a map add up to 1

    def __call__(
        self, network: Network, images: Float[Tensor, "b 3 H W"], choose: ClassSelector
    ) -> Explanation:
        """Compute maps of the chosen classes at the resolution of the image."""
        colour, classes, logits = compute_image_gradients(network, images, choose)
        maps = reduce_channels(colour, self.channels)
        if self.normalize == "sum":
            total = maps.abs().sum((2, 3), keepdim=True)
            maps = maps / total.where(total > 0, 1)
        return Explanation(maps, classes, logits, colour)
