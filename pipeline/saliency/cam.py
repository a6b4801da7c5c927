"""Class activation mapping (CAM): the weights of the head, applied before it averages.

    map_c(i, j) = sum_k w_k^c f_k(i, j)

Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016, equation 2.
On a head that is mean then linear, mean_ij map_c(i, j) + b_c is the logit of c; on SqueezeNet's
head (convolution, ReLU, mean) the mean of relu(map_c + b_c) is. All classes asked for come from
one forward pass.

`weights="positive"` leaves out what speaks against a class, sum_k max(w_k^c, 0) f_k: the map then
covers more of the object (Bae et al., "Rethinking Class Activation Mapping", ECCV 2020).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from pipeline.protocols import Network
from pipeline.types import ClassSelector, Explanation

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class CAM:
    """CAM, for networks with a GAP head."""

    weights: Literal["all", "positive"] = "all"

    def __call__(
        self, network: Network, images: Float[Tensor, "b 3 H W"], choose: ClassSelector
    ) -> Explanation:
        """Compute signed maps of the chosen classes at the resolution of the last feature maps.

        Raises:
            UserError: If the network has no GAP head.
        """
        with torch.no_grad():
            head = network.class_weights  # first: raises before the network runs
            answer = network(images, at=("last",))
            classes = choose(answer.logits)
            weights = head[classes].float()
            if self.weights == "positive":
                weights = weights.clamp(min=0)
            features = answer.activations["last"]
            with torch.autocast(features.device.type, enabled=False):
                maps = torch.einsum("btk,bkhw->bthw", weights, features.float())
        return Explanation(maps, classes, answer.logits)
