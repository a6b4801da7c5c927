"""LeGrad: which attention of each block a score of that block's own tokens is sensitive to.

    s_l = head(Z_l)_c        E_l(j) = mean_h mean_i relu(d s_l / d A_l[h, i, j])
    map = mean_l E_l, at the patches

Bousselham et al., "LeGrad: An Explainability Method for Vision Transformers via Feature Formation
Sensitivity", 2024, section 3: Z_l are the tokens that block l gives, and the head is all that lies
behind the last block, applied to them: norm, pooling and classifier. The gradient of s_l goes
through block l alone.

In float32, whatever `runtime.precision` is. `blocks=2` uses the last two blocks alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipeline.errors import UserError
from pipeline.ops.precision import full_precision
from pipeline.protocols import Network
from pipeline.saliency.gradients import compute_gradients
from pipeline.types import Attentions, ClassSelector, Explanation

if TYPE_CHECKING:
    from jaxtyping import Float, Int

TOLERANCE = 0.01  # of the largest logit


@dataclass(frozen=True)
class LeGrad:
    """LeGrad, for vision transformers."""

    blocks: int | None = None  # so many of the last blocks; null: all

    def __post_init__(self) -> None:
        if self.blocks is not None and self.blocks < 1:
            raise UserError(f"saliency.blocks={self.blocks}: expected at least 1, or null for all")

    def __call__(
        self, network: Network, images: Float[Tensor, "b 3 H W"], choose: ClassSelector
    ) -> Explanation:
        """Compute maps of the chosen classes at the resolution of the patches.

        Raises:
            UserError: If the network has no self-attention between all tokens of an image, or what
                lies behind its last block reads more than the tokens that this gives.
        """
        with full_precision(images):
            answer = network.attentions(images)
            if answer.windows:
                raise UserError(
                    "the head cannot be applied to the tokens of all blocks, as LeGrad does: their "
                    "attention is within windows, and stages differ in width (Swin). "
                    "gradient_rollout and attention_rollout can explain it"
                )
            logits = answer.logits.detach()
            classes = choose(logits)
            first = max(0, len(answer.tokens) - (self.blocks or len(answer.tokens)))
            gradients = _differentiate_heads(answer, first, classes)
            relevance = _differentiate_blocks(answer, first, gradients)
        return Explanation(answer.to_maps(relevance), classes, logits)


def _differentiate_heads(
    answer: Attentions, first: int, classes: Int[Tensor, "b t"]
) -> Float[Tensor, "l b t n K"]:
    """Compute d s_l / d Z_l of the blocks from `first` on, the head applied to all at once."""
    tokens = torch.stack([part.detach() for part in answer.tokens[first:]])
    flat = tokens.flatten(0, 1).requires_grad_()
    scores = answer.read(flat)
    last, logits = scores[-len(classes) :].detach(), answer.logits.detach()
    if scores.shape[0] != len(flat) or (last - logits).abs().max() > TOLERANCE * logits.abs().max():
        raise UserError(
            "what lies behind the network's last block reads more than the tokens that this gives, "
            "so that it cannot be applied to those of other blocks, as LeGrad does. "
            "gradient_rollout needs no such head"
        )
    (gradients,) = compute_gradients(scores, classes.repeat(len(tokens), 1), [flat])
    return gradients.view(len(tokens), -1, *gradients.shape[1:])


def _differentiate_blocks(
    answer: Attentions, first: int, gradients: Float[Tensor, "l b t n K"]
) -> Float[Tensor, "b t n"]:
    """Compute mean_l E_l of each token from the gradients with respect to the blocks' tokens."""
    count = gradients.shape[2]
    parts = zip(answer.matrices[first:], answer.tokens[first:], gradients, strict=True)
    columns: list[list[Tensor]] = [[] for _ in range(count)]
    for matrix, tokens, ahead in parts:
        for column in range(count):
            (gradient,) = torch.autograd.grad(
                tokens, matrix, ahead[:, column], retain_graph=column < count - 1
            )
            columns[column].append(gradient.relu_().mean((1, 2)))
    return torch.stack([torch.stack(column).mean(0) for column in columns], 1)
