"""Adversarial complementary learning (ACoL): a second classifier on what the first does not use.

    M_A = unit(sum_k w_k^y f_k)              f' = f where M_A < delta, else 0
    loss = CE(A(f), y) + CE(B(f'), y)        map_c = max(M_A^c, unit(M_B^c of f'))

`unit` is min-max from 0 to 1. No gradient goes through the erasing.

Zhang et al., "Adversarial Complementary Learning for Weakly Supervised Object Localization", CVPR
2018; delta = 0.6 is its best (wsolevaluation: 0.7).

What differs: A is the network's GAP head and B another of its type, on the same features. In the
paper each has two 3x3 convolutions of 1024 channels before that. Without them the head remains a
GAP head, which CAM reads and which may be pretrained, and the maps of all classes take no more time
than CAM. They are the branch `foreground`: `saliency=foreground` shows them, `saliency=cam` those
of A alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pipeline.objective.cross_entropy import check_share, check_smoothing, cross_entropy
from pipeline.objective.wrapped import (
    FOREGROUND,
    add_branch,
    compute_class_maps,
    run_with_layers,
    scale_to_unit,
)

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@dataclass(frozen=True)
class ACoL:
    """Adversarial complementary learning.

    Args:
        delta: features are erased where the first classifier's map reaches this, from 0 to 1.
        label_smoothing: from 0 to below 1; 0 in the paper.
    """

    delta: float = 0.6
    label_smoothing: float = 0.1

    needs_images = True

    def __post_init__(self) -> None:
        check_share("delta", self.delta)
        check_smoothing(self.label_smoothing)

    def wrap(self, network: Any) -> Any:
        """Add the second classifier to a network, and return the network.

        Args:
            network: a `pipeline.model.classifier.Classifier`, which is changed.

        Raises:
            UserError: The network has no GAP head, or has a branch `foreground` already.
        """
        add_branch(network, FOREGROUND, Complementary(network.gap, self.delta), "acol")
        return network

    def __call__(
        self, network: Any, inputs: Float[Tensor, "b 3 H W"], labels: Int[Tensor, "b"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "b C"]]:
        """Compute the loss and the logits of a batch; see `pipeline.protocols.Objective`."""
        output = run_with_layers(network, inputs, ("last",))
        features, logits = output.activations["last"], output.logits.float()
        with torch.no_grad():
            first = scale_to_unit(compute_class_maps(network.class_weights, features, labels))
        erased = features * (first < self.delta)[:, None]
        second = network.branches[FOREGROUND].second(erased)
        loss = cross_entropy(logits, labels, self.label_smoothing)
        return loss + cross_entropy(second, labels, self.label_smoothing), logits


class Complementary(nn.Module):
    """A branch: the second classifier, and the maximum of the class maps of both.

    Args:
        first: the network's GAP head.
        delta: the second classifier reads features where the first one's map is below this.
    """

    reads = ("last",)

    def __init__(self, first: Any, delta: float) -> None:
        super().__init__()
        classes, channels = first.class_weights.shape
        self.second: Any = type(first)(channels, classes).to(first.class_weights.device)
        self._first = (first,)  # in a tuple: its weights are the network's, not this module's
        self.delta = delta

    def forward(self, features: Float[Tensor, "b K h w"]) -> Float[Tensor, "b C h w"]:
        """Compute the map of each class, from 0 to 1."""
        first, second = (
            torch.einsum("ck,bkhw->bchw", head.class_weights.float(), features.float())
            for head in (*self._first, self.second)
        )
        first = scale_to_unit(first)
        return torch.maximum(first, scale_to_unit(second * (first < self.delta)))
