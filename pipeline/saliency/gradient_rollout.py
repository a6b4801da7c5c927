"""Gradient-weighted attention rollout: relevance passed through the attention of each block.

    A-_l = mean_h relu(d s_c / d A_l * A_l)        R_0 = I,  R_l = R_{l-1} + A-_l R_{l-1}

Chefer et al., "Generic Attention-model Explainability for Interpreting Bi-Modal and Encoder-Decoder
Transformers", ICCV 2021, equations 5 and 6. The map is the class token's row of R_L; where the
score reads several tokens, as the mean of all patches does, the mean of their rows.

In float32, whatever `runtime.precision` is, as the backward pass reaches the first block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipeline.ops.precision import full_precision
from pipeline.protocols import Network
from pipeline.saliency.gradients import compute_gradients
from pipeline.saliency.tokens import multiply_rows, select_read_tokens
from pipeline.types import Attentions, ClassSelector, Explanation

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@dataclass(frozen=True)
class GradientRollout:
    """Gradient-weighted attention rollout, for vision transformers."""

    def __call__(
        self, network: Network, images: Float[Tensor, "b 3 H W"], choose: ClassSelector
    ) -> Explanation:
        """Compute maps of the chosen classes at the resolution of the patches.

        Raises:
            UserError: If the network has no self-attention between all tokens of an image, or
                within Swin's windows.
        """
        with full_precision(images):
            answer = network.attentions(images)
            logits = answer.logits.detach()
            classes = choose(logits)
            count = classes.shape[1]
            # A class after the other: the matrices of all blocks and their gradients are large.
            relevance = [
                _propagate(answer, classes[:, column : column + 1], keep_graph=column < count - 1)
                for column in range(count)
            ]
        return Explanation(answer.to_maps(torch.stack(relevance, 1)), classes, logits)


def _propagate(
    answer: Attentions, classes: Int[Tensor, "b 1"], keep_graph: bool
) -> Float[Tensor, "b n"]:
    """Compute the relevance of each token for a class of each image."""
    tensors = [*answer.matrices, answer.tokens[-1]]
    gradients = compute_gradients(answer.logits, classes, tensors, keep_graph)
    with torch.no_grad():
        rows = select_read_tokens(gradients.pop()[:, 0])
        matrices = [
            _add_identity((gradient[:, 0] * matrix).relu_().mean(1))
            for gradient, matrix in zip(gradients, answer.matrices, strict=True)
        ]
        return multiply_rows(answer, rows, matrices)


def _add_identity(matrix: Float[Tensor, "_ m m"]) -> Float[Tensor, "_ m m"]:
    return matrix + torch.eye(matrix.shape[1], device=matrix.device)
