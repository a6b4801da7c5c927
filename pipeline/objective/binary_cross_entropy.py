"""Balanced binary cross-entropy: each class for itself, as an image may have several.

    p_c  = share of the training images that have class c, from MIN_SHARE to 1 - MIN_SHARE
    z_c  = s_c + log((1 - p_c) / p_c)
    loss = -mean_i sum_c [ y_ic log sigmoid(z_ic) / (2 p_c)
                           + (1 - y_ic) log(1 - sigmoid(z_ic)) / (2 (1 - p_c)) ]

The images with a class and those without it have the same weight in total, so that a rare class is
learned. Weights alone would let the sigmoid tell how likely a class is where half of the images
have it. The shift z corrects that: the minimum is at s_c = log P(c | x) / (1 - P(c | x)), and
sigmoid(s_c) is the probability of the class (Menon et al., "Long-tail Learning via Logit
Adjustment", ICLR 2021, have it for exclusive classes). `balanced: false` is the plain sum over the
classes of the binary cross-entropy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.protocols import Objective
from pipeline.types import NetworkOutput

if TYPE_CHECKING:
    from jaxtyping import Float

MIN_SHARE = 0.01  # a class of fewer images has the weights of one of this share


@dataclass(frozen=True)
class BinaryCrossEntropy:
    """Binary cross-entropy of each class.

    Args:
        balanced: whether images with a class have the same weight in total as those without it;
            the shares of a data set are needed for it (`with_shares`).
    """

    balanced: bool = True

    needs_images = False

    def with_shares(self, shares: Sequence[float]) -> Objective:
        """Return the objective for a data set.

        Args:
            shares: the share of the training images that have each class.
        """
        bounded = tuple(min(max(float(p), MIN_SHARE), 1 - MIN_SHARE) for p in shares)
        return Balanced(bounded) if self.balanced else self

    def __call__(
        self,
        network: Callable[[Float[Tensor, "b ..."]], NetworkOutput],
        inputs: Float[Tensor, "b ..."],
        labels: Tensor,
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "b C"]]:
        """Compute the loss without weights, and the logits; see `pipeline.protocols.Objective`."""
        logits = network(inputs).logits.float()
        return binary_cross_entropy(logits, to_sets(labels, logits.shape[1])), logits


@dataclass(frozen=True)
class Balanced:
    """Binary cross-entropy of each class of a data set, balanced: what `with_shares` returns.

    Args:
        shares: p of each class.
    """

    shares: tuple[float, ...]

    needs_images = False

    def __call__(
        self,
        network: Callable[[Float[Tensor, "b ..."]], NetworkOutput],
        inputs: Float[Tensor, "b ..."],
        labels: Tensor,
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "b C"]]:
        """Compute the loss and the logits of a batch; see `pipeline.protocols.Objective`."""
        logits = network(inputs).logits.float()
        sets = to_sets(labels, logits.shape[1])
        return binary_cross_entropy(logits, sets, self.shares), logits


def to_sets(labels: Tensor, classes: int) -> Float[Tensor, "b C"]:
    """Return 1 where an image has a class, else 0.

    Args:
        labels: the same as any numbers [b, C], or the only class of each image [b].
        classes: C.
    """
    if labels.ndim == 1:
        return functional.one_hot(labels, classes).float()
    return labels.float()


def binary_cross_entropy(
    logits: Float[Tensor, "b C"], labels: Float[Tensor, "b C"], shares: Sequence[float] = ()
) -> Float[Tensor, ""]:
    """Compute the mean over images of the sum over classes, in float32.

    Args:
        logits: s of each image and class.
        labels: y, 1 where the image has the class, else 0.
        shares: p of each class; empty: no weights and no shift.
    """
    if not shares:
        summed = functional.binary_cross_entropy_with_logits(logits, labels, reduction="sum")
        return summed / len(logits)
    p = torch.tensor(shares, device=logits.device)
    shifted = logits + torch.log((1 - p) / p)
    positive = labels * functional.softplus(-shifted) / (2 * p)
    negative = (1 - labels) * functional.softplus(shifted) / (2 * (1 - p))
    return (positive + negative).sum(1).mean()
