"""Refined: the map of the localization head, alone or averaged with its teacher's.

    map = foreground                                     where `network.stands_alone`
    map = (minmax(foreground) + minmax(teacher)) / 2     elsewhere

Stage `refine` decides which, without boxes (pipeline/stages/refine/localization_head.py), and
stores the decision in the network. Alone, class and map come from one forward pass. With the
teacher it costs as much as the teacher, and is better than either where predictions agree little
with the pseudo-masks of held-out training images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.protocols import Network, SaliencyMethod
from pipeline.saliency.average import Average
from pipeline.saliency.foreground import Foreground
from pipeline.types import ClassSelector, Explanation

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


@dataclass(frozen=True)
class Refined:
    """The map of the localization head, alone or averaged with its teacher's."""

    teacher: SaliencyMethod  # as saliency@refine.teacher: the name of a choice, or a node
    flips: bool = False  # of the localization head: a second forward pass
    second_pass_margin: float = 0.15  # of the two largest probabilities; 0: no second pass

    def __call__(
        self, network: Network, images: Float[Tensor, "b 3 H W"], choose: ClassSelector
    ) -> Explanation:
        """Compute maps of the chosen classes in [0, 1].

        Raises:
            UserError: If the network has no branch `foreground`.
        """
        foreground = Foreground(self.flips, self.second_pass_margin)
        method = foreground if network.stands_alone else Average((foreground, self.teacher))
        return method(network, images, choose)
