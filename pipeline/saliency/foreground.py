"""Foreground: what a network that was trained to localize takes for the object.

    map = answer of the network's branch `foreground`, from 0 to 1

Stage `refine` adds that branch to a classifier (pipeline/stages/refine.py), and so do objectives
that train one (pipeline/objective/). One forward pass gives class and map. A branch with one map
has the same for every class; one with a map for each class gives that of the class explained.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from pipeline.records import Choose, Explanation, Network

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


@dataclass(frozen=True)
class Foreground:
    """The network raises Problem where it has no such branch."""

    flips: bool = False  # the mean with the map of the mirrored image, for a second forward pass

    def __call__(
        self, network: Network, images: Float[Tensor, "b 3 H W"], choose: Choose
    ) -> Explanation:
        with torch.no_grad():
            answer = network(images, at=("foreground",))
            maps = answer.activations["foreground"]
            if self.flips:
                mirrored = network(images.flip(3), at=("foreground",)).activations["foreground"]
                maps = (maps + mirrored.flip(3)) / 2
            classes = choose(answer.logits)
            if maps.shape[1] == 1:
                found = maps.expand(-1, classes.shape[1], -1, -1)
            else:
                found = maps.gather(1, classes[:, :, None, None].expand(-1, -1, *maps.shape[2:]))
        return Explanation(found, classes, answer.logits)
