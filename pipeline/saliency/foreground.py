"""Foreground: the foreground map of a network that was trained to localize.

    map = answer of the network's branch `foreground`, from 0 to 1

Stage `refine` adds that branch to a classifier (pipeline/stages/refine/stage.py), and so do
objectives that train one (pipeline/objective/). One forward pass gives class and map. A branch
with a single map gives it for all classes; a branch with a map for each class gives that of the
class explained.

Where the network also learned to classify by the localized object (`object_class`), these are its
logits. Where they leave the class open, a second pass classifies the crop of the predicted box:

    s = log softmax(object_class(image))                 p = exp s, its two largest p_1 and p_2
    s + log softmax(object_class(crop))                  where p_1 - p_2 < second_pass_margin
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from pipeline.protocols import Network
from pipeline.saliency.zoom import crop_to_boxes, find_foreground_boxes, widen_boxes
from pipeline.types import ClassSelector, Explanation, NetworkOutput

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

BOTH = ("foreground", "object_class")


@dataclass(frozen=True)
class Foreground:
    """The foreground map of the network as a saliency method."""

    flips: bool = False  # average with the map of the mirrored image: a second forward pass
    second_pass_margin: float = 0.15  # of the two largest probabilities; 0: no second pass

    def __call__(
        self, network: Network, images: Float[Tensor, "b 3 H W"], choose: ClassSelector
    ) -> Explanation:
        """Compute maps of the chosen classes in [0, 1], at the resolution of the branch.

        Raises:
            UserError: If the network has no branch `foreground`.
        """
        with torch.no_grad():
            answer = network(images, at=BOTH if network.tells_objects else BOTH[:1])
            maps = answer.activations["foreground"]
            logits = answer.logits
            if network.tells_objects:
                logits = self._classify_objects(network, images, answer)
            if self.flips:
                mirrored = network(images.flip(3), at=("foreground",)).activations["foreground"]
                maps = (maps + mirrored.flip(3)) / 2
            classes = choose(logits)
            if maps.shape[1] == 1:
                selected = maps.expand(-1, classes.shape[1], -1, -1)
            else:
                index = classes[:, :, None, None].expand(-1, -1, *maps.shape[2:])
                selected = maps.gather(1, index)
        return Explanation(selected, classes, logits)

    def _classify_objects(
        self, network: Network, images: Float[Tensor, "b 3 H W"], answer: NetworkOutput
    ) -> Float[Tensor, "b C"]:
        """Score the classes by the localized object, and where two are near also by its crop."""
        scores = _log_probabilities(answer)
        likeliest = scores.exp().topk(min(2, scores.shape[1])).values
        near = likeliest[:, 0] - likeliest[:, -1] < self.second_pass_margin
        if not near.any() or scores.shape[1] < 2:
            return scores
        boxes = widen_boxes(find_foreground_boxes(answer.activations["foreground"][near]))
        scores[near] += _log_probabilities(network(crop_to_boxes(images[near], boxes), at=BOTH[1:]))
        return scores


def _log_probabilities(answer: NetworkOutput) -> Float[Tensor, "b C"]:
    return answer.activations["object_class"].float().log_softmax(1)
