"""Attention rollout: how much of each patch reaches the token that the head reads.

    A^_l = normalize((fuse_heads(A_l) + I) / 2)        map = the head's row of A^_L ... A^_1

Abnar and Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020, section 4: I stands for
the residual connection, and the heads are averaged. Rows are normalized to sum to 1. The head's row
is the class token's; where the head reads several tokens, as the mean of all patches does, it is
the mean of their rows. It knows no class: all classes of an image have the same map.

`heads="max"` or `"min"` fuses them by the largest or least attention; `discard` sets this share of
each fused matrix, its least values, to 0. Both are in common use and not in the paper.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from pipeline.errors import UserError
from pipeline.ops.precision import disable_autocast
from pipeline.protocols import Network
from pipeline.saliency.tokens import multiply_rows, select_read_tokens
from pipeline.types import ClassSelector, Explanation

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class AttentionRollout:
    """Attention rollout, for vision transformers."""

    heads: Literal["mean", "max", "min"] = "mean"  # how the attention of the heads is fused
    discard: float = 0.0  # the share of the attention of a block, its least, that is set to 0

    def __post_init__(self) -> None:
        if not 0 <= self.discard < 1:
            raise UserError(f"saliency.discard={self.discard}: expected 0 or more, and below 1")

    def __call__(
        self, network: Network, images: Float[Tensor, "b 3 H W"], choose: ClassSelector
    ) -> Explanation:
        """Compute maps at the resolution of the patches, the same for all classes of an image.

        Raises:
            UserError: If the network has no self-attention between all tokens of an image, or
                within Swin's windows.
        """
        answer = network.attentions(images, self._fuse)
        logits = answer.logits.detach()
        classes = choose(logits)
        with disable_autocast(images):
            with torch.enable_grad():
                score = answer.logits.float().square().sum()
            (gradients,) = torch.autograd.grad(score, answer.tokens[-1])
            relevance = multiply_rows(answer, select_read_tokens(gradients), answer.matrices)
        maps = answer.to_maps(relevance[:, None]).expand(-1, classes.shape[1], -1, -1)
        return Explanation(maps, classes, logits)

    def _fuse(self, attention: Float[Tensor, "b heads n n"]) -> Float[Tensor, "b n n"]:
        """Return the matrix of a block with its residual connection, rows summing to 1."""
        attention = attention.float()
        if self.heads == "mean":
            fused = attention.mean(1)
        else:
            fused = attention.amax(1) if self.heads == "max" else attention.amin(1)
        flat = fused.flatten(1)
        if count := int(self.discard * flat.shape[1]):
            least = flat.topk(count, dim=1, largest=False).indices
            fused = flat.scatter(1, least, 0).view_as(fused)
        fused = fused + torch.eye(fused.shape[1], device=fused.device)
        return fused / fused.sum(2, keepdim=True)
