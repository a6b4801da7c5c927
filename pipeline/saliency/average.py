"""The average of several methods: what all of them see.

    map = mean_m  (up(map_m) - min) / (max - min)

Every map is upsampled to the finest one's resolution and scaled to [0, 1] there, each class of each
image by itself: methods measure in units of their own (a logit's share, a slope, a probability),
so only where each looked can be averaged, not how much. It is also what a segmenter does with one
map. The zero of a signed map is lost with it; a map that is constant says nothing and counts as 0.

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
from pipeline.saliency.fused import enlarged
from pipeline.types import ClassSelector, Explanation

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class Average:
    methods: tuple[SaliencyMethod, ...]  # names of choices, or nodes with a _target_

    def __post_init__(self) -> None:
        if not self.methods:
            raise UserError("saliency.methods=[]: name at least one, as in [gradcam,cam]")

    def __call__(
        self, network: Network, images: Float[Tensor, "b 3 H W"], choose: ClassSelector
    ) -> Explanation:
        """Maps of the chosen classes in [0, 1], at the resolution of the finest method."""
        first, *others = self.methods
        found = first(network, images, choose)
        maps = [found.maps, *(m(network, images, lambda _: found.classes).maps for m in others)]
        return Explanation(averaged(maps), found.classes, found.logits)


def averaged(maps: Sequence[Float[Tensor, "b t _ _"]]) -> Float[Tensor, "b t h w"]:
    """Their mean, each upsampled to the finest and scaled to [0, 1]; in float32."""
    large = enlarged([one.float() for one in maps])
    low, high = large.amin((3, 4), keepdim=True), large.amax((3, 4), keepdim=True)
    return ((large - low) / torch.where(high > low, high - low, 1)).mean(0)
