"""Foreground: what a network that was trained to localize takes for the object.

    map = answer of the network's branch `foreground`, from 0 to 1

Stage `refine` adds that branch to a classifier (pipeline/stages/refine/stage.py), and so do
objectives that train one (pipeline/objective/). One forward pass gives class and map. A branch
with one map has the same for every class; one with a map for each class gives that of the class
explained.

Where the network also learned to tell classes by the object that it found (`object_class`), these
are its logits, and what they leave open is looked at again, the found box magnified:

    s = log softmax(object_class(image))                 p = exp s, its two largest p_1 and p_2
    s + log softmax(object_class(found box))             where p_1 - p_2 < look_again
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from pipeline.protocols import Network
from pipeline.saliency.zoom import boxes_of, widened, zoomed
from pipeline.types import ClassSelector, Explanation, NetworkOutput

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

BOTH = ("foreground", "object_class")


@dataclass(frozen=True)
class Foreground:
    """The network raises UserError where it has no such branch."""

    flips: bool = False  # the mean with the map of the mirrored image, for a second forward pass
    look_again: float = 0.15  # at images whose two likeliest classes are nearer than this; 0: never

    def __call__(
        self, network: Network, images: Float[Tensor, "b 3 H W"], choose: ClassSelector
    ) -> Explanation:
        with torch.no_grad():
            answer = network(images, at=BOTH if network.tells_objects else BOTH[:1])
            maps = answer.activations["foreground"]
            logits = answer.logits
            if network.tells_objects:
                logits = self._told(network, images, answer)
            if self.flips:
                mirrored = network(images.flip(3), at=("foreground",)).activations["foreground"]
                maps = (maps + mirrored.flip(3)) / 2
            classes = choose(logits)
            if maps.shape[1] == 1:
                found = maps.expand(-1, classes.shape[1], -1, -1)
            else:
                found = maps.gather(1, classes[:, :, None, None].expand(-1, -1, *maps.shape[2:]))
        return Explanation(found, classes, logits)

    def _told(
        self, network: Network, images: Float[Tensor, "b 3 H W"], answer: NetworkOutput
    ) -> Float[Tensor, "b C"]:
        said = _logs(answer)
        likeliest = said.exp().topk(min(2, said.shape[1])).values
        near = likeliest[:, 0] - likeliest[:, -1] < self.look_again
        if not near.any() or said.shape[1] < 2:
            return said
        boxes = widened(boxes_of(answer.activations["foreground"][near]))
        said[near] += _logs(network(zoomed(images[near], boxes), at=BOTH[1:]))
        return said


def _logs(answer: NetworkOutput) -> Float[Tensor, "b C"]:
    return answer.activations["object_class"].float().log_softmax(1)
