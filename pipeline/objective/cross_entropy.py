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
        logits = network(inputs).logits.float()
        return cross_entropy(logits, labels, self.label_smoothing), logits


def cross_entropy(
    logits: Float[Tensor, "b C"], labels: Int[Tensor, "b"], smoothing: float
) -> Float[Tensor, ""]:
    return functional.cross_entropy(logits.float(), labels, label_smoothing=smoothing)


def check_smoothing(label_smoothing: float) -> None:
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing={label_smoothing}: expected a share from 0 to below 1")


def check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name}={value}: expected a share from 0 to 1")
