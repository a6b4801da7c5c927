"""Cross-entropy, with label smoothing.

    loss = -sum_c q_c log softmax(s)_c        q = (1 - e) onehot(label) + e / C

Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", CVPR 2016, section 7.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn import functional

from pipeline.types import NetworkOutput

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@dataclass(frozen=True)
class CrossEntropy:
    """Cross-entropy with label smoothing.

    Args:
        label_smoothing: e, from 0 to below 1.
    """

    label_smoothing: float = 0.1

    needs_images = False

    def __post_init__(self) -> None:
        check_smoothing(self.label_smoothing)

    def __call__(
        self,
        network: Callable[[Float[Tensor, "b ..."]], NetworkOutput],
        inputs: Float[Tensor, "b ..."],
        labels: Int[Tensor, "b"],
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "b C"]]:
        """Compute the loss and the logits of a batch; see `pipeline.protocols.Objective`."""
        logits = network(inputs).logits.float()
        return cross_entropy(logits, labels, self.label_smoothing), logits


def cross_entropy(
    logits: Float[Tensor, "b C"], labels: Int[Tensor, "b"], smoothing: float
) -> Float[Tensor, ""]:
    """Compute the mean cross-entropy of a batch in float32.

    Args:
        logits: of each image.
        labels: the class of each image.
        smoothing: e, from 0 to below 1.
    """
    return functional.cross_entropy(logits.float(), labels, label_smoothing=smoothing)


def check_smoothing(label_smoothing: float) -> None:
    """Raise ValueError unless label smoothing is from 0 to below 1."""
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing={label_smoothing}: expected a share from 0 to below 1")


def check_share(name: str, value: float) -> None:
    """Raise ValueError, which names the argument, unless its value is from 0 to 1."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name}={value}: expected a share from 0 to 1")
