"""Guided Grad-CAM: guided backprop's fine outlines, where Grad-CAM says the class is.

    colour_c = guided_backprop_c * upsampled relu(sum_k alpha_k A_k)

Selvaraju et al. 2017, section 3.1. One forward pass serves both: Grad-CAM takes its slopes from the
plain graph, then the ReLU rule is hung on it. Float32 always, as the gradient. A network with
another activation than ReLU is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from torch import Tensor
from torch.nn import functional as F

from pipeline.ops.precision import full_precision
from pipeline.ops.relu_rules import InSight, bend, guided
from pipeline.protocols import Network
from pipeline.saliency.gradcam import averaged
from pipeline.saliency.gradients import gradients, one_channel
from pipeline.types import ClassSelector, Explanation

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class GuidedGradCAM:
    layer: str = "last"  # Grad-CAM's: last, below, or one by name
    channels: Literal["abs_max", "abs_sum", "sum"] = "abs_max"  # of R, G and B; sum is signed
    upsampling: Literal["bilinear", "nearest"] = "bilinear"  # of Grad-CAM's map, to the image

    def __call__(
        self, network: Network, images: Float[Tensor, "b 3 H W"], choose: ClassSelector
    ) -> Explanation:
        """Maps of the chosen classes at the resolution of the image."""
        with full_precision(images):
            with InSight():
                answer = network(images, at=("input", self.layer))
            image, features = (answer.activations[name] for name in ("input", self.layer))
            logits = answer.logits.detach()
            classes = choose(logits)
            (plain,) = gradients(answer.logits, classes, [features], keep=True)
            bend(answer.logits, guided)
            (colour,) = gradients(answer.logits, classes, [image])
            coarse = averaged(features.detach(), plain).relu()
            where = F.interpolate(coarse, images.shape[2:], mode=self.upsampling)
        colour = colour * where[:, :, None]
        return Explanation(one_channel(colour, self.channels), classes, logits, colour)
