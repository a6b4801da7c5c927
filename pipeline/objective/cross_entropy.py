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

from pipeline.records import Answer

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@dataclass(frozen=True)
class CrossEntropy:
    label_smoothing: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(
                f"label_smoothing={self.label_smoothing}: expected a share from 0 to below 1"
            )

    def __call__(
        self,
        network: Callable[[Float[Tensor, "b ..."]], Answer],
        inputs: Float[Tensor, "b ..."],
        labels: Int[Tensor, "b"],
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "b C"]]:
        logits = network(inputs).logits.float()
        loss = functional.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        return loss, logits
