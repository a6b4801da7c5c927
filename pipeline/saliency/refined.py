"""Refined: the student's map where it stands alone, else its mean with the teacher's.

    map = foreground                                     the network says that it stands alone
    map = (minmax(foreground) + minmax(teacher)) / 2     it does not

Stage `refine` finds out which, without boxes (pipeline/stages/refine/localization_head.py), and
the network carries the answer. Alone, class and map come from one forward pass; with its teacher
it costs as much as the teacher, and is better than either where masks of the training images
cannot be foretold.
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
    teacher: SaliencyMethod  # as saliency@refine.teacher: the name of a choice, or a node
    flips: bool = False  # of the student: a second forward pass
    look_again: float = 0.15  # at images whose two likeliest classes are nearer than this; 0: never

    def __call__(
        self, network: Network, images: Float[Tensor, "b 3 H W"], choose: ClassSelector
    ) -> Explanation:
        student = Foreground(self.flips, self.look_again)
        method = student if network.stands_alone else Average((student, self.teacher))
        return method(network, images, choose)
