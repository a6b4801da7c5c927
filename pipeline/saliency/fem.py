"""FEM, feature explanation method: where features are rarely strong, whatever the class.

    B_k(i, j) = [A_k(i, j) > mean A_k + deviations std A_k]

    weights masks        map = sum_k mean(A_k) B_k
    weights features     map = sum_k mean(B_k) A_k

Fuad et al., "Features Understanding in 3D CNNs for Actions Recognition in Video", IPTA 2020: the
first, as Xplique has it; the second is what pytorch-grad-cam has by this name. Mean and standard
deviation (of all positions, not of a sample) are those of a channel over the image. It needs
neither class nor gradient: all classes of an image have the same map. Features that can be
negative, as a transformer's, give masks with negative weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from pipeline.errors import UserError
from pipeline.protocols import Network
from pipeline.saliency.fused import weight_features
from pipeline.types import ClassSelector, Explanation

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class FEM:
    """FEM of a layer, without classes and gradients."""

    layer: str = "last"  # whose feature maps are read; below, or by name
    weights: Literal["masks", "features"] = "masks"  # what is summed: the paper's masks, or A
    deviations: float = 2.0  # standard deviations above the mean that count as strong

    def __post_init__(self) -> None:
        if self.deviations < 0:
            raise UserError(f"saliency.deviations={self.deviations}: expected 0 or more")

    @torch.no_grad()
    def __call__(
        self, network: Network, images: Float[Tensor, "b 3 H W"], choose: ClassSelector
    ) -> Explanation:
        """Compute maps at the resolution of the layer, the same for all classes of an image.

        Raises:
            UserError: If the layer does not exist, or has so few positions that none can be strong.
        """
        answer = network(images, at=(self.layer,))
        classes = choose(answer.logits)
        features = answer.activations[self.layer].float()
        self._check_positions(features.shape[2] * features.shape[3])
        with torch.autocast(images.device.type, enabled=False):
            means = features.mean((2, 3), keepdim=True)
            spread = features.std((2, 3), correction=0, keepdim=True)
            strong = (features > means + self.deviations * spread).float()
            summed, weights = (
                (strong, means[..., 0, 0])
                if self.weights == "masks"
                else (features, strong.mean((2, 3)))
            )
            maps = weight_features(weights[:, None], summed)
        return Explanation(maps.expand(-1, classes.shape[1], -1, -1), classes, answer.logits)

    def _check_positions(self, count: int) -> None:
        # Of n values none is further than sqrt(n - 1) standard deviations above the mean.
        if count - 1 <= self.deviations**2:
            raise UserError(
                f"saliency.deviations={self.deviations}: of the {count} positions of layer "
                f"{self.layer} none can be so far above the mean; larger images, a finer layer "
                "(saliency.layer=below) or fewer deviations"
            )
