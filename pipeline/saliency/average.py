"""Average: the mean of the maps of several methods.

    map = mean_m  (up(map_m) - min) / (max - min)

Each map is upsampled to the resolution of the finest and scaled to [0, 1] there, each class of each
image separately: methods have different units (a share of a logit, a gradient, a probability), so
only positions can be averaged, not magnitudes. A segmenter scales a single map the same way. The
zero of a signed map is lost; a constant map counts as 0.

The classes are chosen once, by the first method's logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipeline.errors import UserError
from pipeline.protocols import Network, SaliencyMethod
from pipeline.saliency.fused import upsample_to_largest
from pipeline.types import ClassSelector, Explanation

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class Average:
    """The average of the maps of several methods, each scaled to [0, 1]."""

    methods: tuple[SaliencyMethod, ...]  # names of choices, or nodes with a _target_

    def __post_init__(self) -> None:
        if not self.methods:
            raise UserError("saliency.methods=[]: name at least one, as in [gradcam,cam]")

    def __call__(
        self, network: Network, images: Float[Tensor, "b 3 H W"], choose: ClassSelector
    ) -> Explanation:
        """Compute maps of the chosen classes in [0, 1], at the resolution of the finest method."""
        first, *others = self.methods
        explanation = first(network, images, choose)
        classes = explanation.classes
        maps = [explanation.maps, *(m(network, images, lambda _: classes).maps for m in others)]
        return Explanation(average_maps(maps), classes, explanation.logits)


def average_maps(maps: Sequence[Float[Tensor, "b t _ _"]]) -> Float[Tensor, "b t h w"]:
    """Average maps after each is upsampled to the finest resolution and scaled to [0, 1].

    Args:
        maps: Maps of the same images and classes, each at its own resolution.

    Returns:
        The mean in [0, 1], in float32. A constant map counts as 0.
    """
    large = upsample_to_largest([method_maps.float() for method_maps in maps])
    low, high = large.amin((3, 4), keepdim=True), large.amax((3, 4), keepdim=True)
    return ((large - low) / torch.where(high > low, high - low, 1)).mean(0)
