"""CutMix: paste a box of one image into another, and mix their labels by area.

    x' = x_a outside a box, x_b inside         loss = l CE(s(x'), y_a) + (1 - l) CE(s(x'), y_b)
    l ~ Beta(beta, beta); the box has sides H sqrt(1 - l), W sqrt(1 - l), its centre uniform;
    where the image clips it, l becomes the share of x' that is still of x_a

Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features",
ICCV 2019. One box a batch, b a permutation of a, beta = 1 and all batches mixed: as in
wsolevaluation (Choe et al. 2020).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipeline.objective.cross_entropy import check_share, check_smoothing, cross_entropy
from pipeline.types import NetworkOutput

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@dataclass(frozen=True)
class CutMix:
    """CutMix.

    Args:
        beta: of Beta(beta, beta), which the share l is drawn from; above 0.
        mixed: the probability that a batch is mixed.
        label_smoothing: from 0 to below 1; 0 in the paper.
    """

    beta: float = 1.0
    mixed: float = 1.0
    label_smoothing: float = 0.1

    needs_images = True

    def __post_init__(self) -> None:
        if self.beta <= 0:
            raise ValueError(f"beta={self.beta}: expected a number above 0")
        check_share("mixed", self.mixed)
        check_smoothing(self.label_smoothing)

    def __call__(
        self,
        network: Callable[[Float[Tensor, "b 3 H W"]], NetworkOutput],
        inputs: Float[Tensor, "b 3 H W"],
        labels: Int[Tensor, "b"],
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "b C"]]:
        """Compute the loss and the logits of a batch; see `pipeline.protocols.Objective`."""
        if torch.rand(()) >= self.mixed:
            logits = network(inputs).logits.float()
            return cross_entropy(logits, labels, self.label_smoothing), logits
        height, width = inputs.shape[2:]
        share = float(torch.distributions.Beta(self.beta, self.beta).sample())
        centre = int(torch.randint(height, ())), int(torch.randint(width, ()))
        other = torch.randperm(len(inputs)).to(inputs.device)
        top, left, bottom, right = compute_box((height, width), centre, share)
        pasted = inputs.clone()
        pasted[:, :, top:bottom, left:right] = inputs[other, :, top:bottom, left:right]
        share = 1 - (bottom - top) * (right - left) / (height * width)
        logits = network(pasted).logits.float()
        loss = share * cross_entropy(logits, labels, self.label_smoothing)
        loss = loss + (1 - share) * cross_entropy(logits, labels[other], self.label_smoothing)
        return loss, logits


def compute_box(
    size: tuple[int, int], centre: tuple[int, int], share: float
) -> tuple[int, int, int, int]:
    """Compute the box that leaves a share of an image, clipped by the image.

    Args:
        size: height and width of the image in pixels.
        centre: of the box, row and column.
        share: the part of the area that an unclipped box leaves, from 0 to 1.

    Returns:
        Top, left, bottom and right in pixels, half-open.
    """
    edges = []
    for side, middle in zip(size, centre, strict=True):
        half = int(side * math.sqrt(1 - share)) // 2
        edges.append((max(0, middle - half), min(side, middle + half)))
    (top, bottom), (left, right) = edges
    return top, left, bottom, right
