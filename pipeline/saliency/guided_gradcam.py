"""Guided Grad-CAM: the fine outlines of guided backprop, where Grad-CAM locates the class.

    colour_c = guided_backprop_c * upsampled relu(sum_k alpha_k A_k)

Selvaraju et al. 2017, section 3.1. One forward pass serves both: Grad-CAM takes its gradients from
the plain graph, then the ReLU rule is attached to it. Float32 always, as the gradient. A network
with another activation than ReLU is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from torch import Tensor
from torch.nn import functional as F

from pipeline.ops.precision import full_precision
from pipeline.ops.relu_rules import OutOfPlaceActivations, apply_relu_rule, guided
from pipeline.protocols import Network
from pipeline.saliency.fused import check_layer
from pipeline.saliency.gradcam import weight_by_mean_gradient
from pipeline.saliency.gradients import compute_gradients, reduce_channels
from pipeline.types import ClassSelector, Explanation

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class GuidedGradCAM:
    """Guided backpropagation times the upsampled Grad-CAM of a layer."""

    layer: str = "last"  # Grad-CAM's: last, below, or one by name
    channels: Literal["abs_max", "abs_sum", "sum"] = "abs_max"  # of R, G and B; sum is signed
    upsampling: Literal["bilinear", "nearest"] = "bilinear"  # of Grad-CAM's map, to the image

    def __post_init__(self) -> None:
        check_layer(self.layer)

    def __call__(
        self, network: Network, images: Float[Tensor, "b 3 H W"], choose: ClassSelector
    ) -> Explanation:
        """Compute maps of the chosen classes at the resolution of the image.

        Raises:
            UserError: If the network has no ReLU, or another activation than ReLU, or no such
                layer.
        """
        with full_precision(images):
            with OutOfPlaceActivations():
                answer = network(images, at=("input", self.layer))
            image, features = (answer.activations[name] for name in ("input", self.layer))
            logits = answer.logits.detach()
            classes = choose(logits)
            (plain,) = compute_gradients(answer.logits, classes, [features], keep_graph=True)
            apply_relu_rule(answer.logits, guided)
            (colour,) = compute_gradients(answer.logits, classes, [image])
            coarse = weight_by_mean_gradient(features.detach(), plain).relu()
            upsampled = F.interpolate(coarse, images.shape[2:], mode=self.upsampling)
        colour = colour * upsampled[:, :, None]
        return Explanation(reduce_channels(colour, self.channels), classes, logits, colour)
