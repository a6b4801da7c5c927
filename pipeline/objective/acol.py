"""Adversarial complementary learning (ACoL): a second classifier on what the first did not look at.

    M_A = unit(sum_k w_k^y f_k)              f' = f where M_A < delta, else 0
    loss = CE(A(f), y) + CE(B(f'), y)        map_c = max(M_A^c, unit(M_B^c of f'))

`unit` is min-max from 0 to 1. No gradient goes through the erasing.

Zhang et al., "Adversarial Complementary Learning for Weakly Supervised Object Localization", CVPR
2018; delta = 0.6 is its best (wsolevaluation: 0.7).

What differs: A is the network's own GAP head and B another of its kind, a 1x1 convolution of the
same features and their mean. In the paper each has two 3x3 convolutions of 1024 channels before
that; so the head stays one that CAM reads, pretrained where it is, and the maps of all classes cost
no more than CAM. They are the branch `foreground`: `saliency=foreground` shows them, `saliency=cam`
those of A alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pipeline.objective.cross_entropy import check_share, check_smoothing, cross_entropy
from pipeline.objective.wrapped import FOREGROUND, add_branch, class_maps, unit, with_layers

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@dataclass(frozen=True)
class ACoL:
    delta: float = 0.6  # of the first classifier's map: from there on it is erased
    label_smoothing: float = 0.1  # 0 in the paper

    needs_images = True

    def __post_init__(self) -> None:
        check_share("delta", self.delta)
        check_smoothing(self.label_smoothing)

    def wrap(self, network: Any) -> Any:
        """The network with its second classifier. Raises UserError where it has no GAP head."""
        add_branch(network, FOREGROUND, Complementary(network.gap, self.delta), "acol")
        return network

    def __call__(
        self, network: Any, inputs: Float[Tensor, "b 3 H W"], labels: Int[Tensor, "b"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "b C"]]:
        answer = with_layers(network, inputs, ("last",))
        features, logits = answer.activations["last"], answer.logits.float()
        with torch.no_grad():
            first = unit(class_maps(network.class_weights, features, labels))
        erased = features * (first < self.delta)[:, None]
        second = network.branches[FOREGROUND].second(erased)
        loss = cross_entropy(logits, labels, self.label_smoothing)
        return loss + cross_entropy(second, labels, self.label_smoothing), logits


class Complementary(nn.Module):
    """The second classifier, and the maps of both together."""

    reads = ("last",)

    def __init__(self, first: Any, delta: float) -> None:
        super().__init__()
        classes, channels = first.class_weights.shape
        self.second: Any = type(first)(channels, classes).to(first.class_weights.device)
        self._first = (first,)  # in a tuple: its weights are the network's, not this module's
        self.delta = delta

    def forward(self, features: Float[Tensor, "b K h w"]) -> Float[Tensor, "b C h w"]:
        first, second = (
            torch.einsum("ck,bkhw->bchw", head.class_weights.float(), features.float())
            for head in (*self._first, self.second)
        )
        first = unit(first)
        return torch.maximum(first, unit(second * (first < self.delta)))
