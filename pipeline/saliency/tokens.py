"""What methods of vision transformers share: tokens that the head reads, chains of matrices.

Attention within windows (Swin) is a matrix between all tokens that is 0 between those of different
windows. Where four tokens are merged to one, its row is the mean of theirs; what goes to padding is
left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.errors import UserError
from pipeline.types import Attentions, AttentionWindows, Size

if TYPE_CHECKING:
    from jaxtyping import Float


def select_read_tokens(gradients: Float[Tensor, "b ... K"]) -> Float[Tensor, "b n"]:
    """Return equal weights, which sum to 1, for the tokens that a score reads.

    Of a head that reads the class token it is 1 at this token; of one that averages the patches
    1 / n at each.

    Args:
        gradients: of the score with respect to the tokens that the last block gives.

    Raises:
        UserError: there is no gradient at any token of an image.
    """
    reads = gradients.flatten(1, -2).abs().amax(2) > 0
    if not gradients.is_meta and not bool(reads.any(1).all()):
        raise UserError(
            "the score depends on no token that the last block gives; a head of zeros, for "
            "example, depends on none: load its weights"
        )
    return reads / reads.sum(1, keepdim=True)


def multiply_rows(
    answer: Attentions,
    rows: Float[Tensor, "b n"],
    matrices: Sequence[Float[Tensor, "_ m m"]],
) -> Float[Tensor, "b n"]:
    """Compute r M_L ... M_1, which are rows of the product of all matrices, averaged by r.

    Args:
        answer: whose blocks the matrices belong to.
        rows: r, of the tokens that the last block gives.
        matrices: a matrix for each block; within windows, for each window of each image.

    Returns:
        The rows, of the tokens that the first block reads.
    """
    if not answer.windows:
        product = rows[:, None]
        for matrix in reversed(matrices):
            product = product @ matrix
        return product[:, 0]
    grid = answer.windows[-1].grid
    for windows, matrix in zip(reversed(answer.windows), reversed(matrices), strict=True):
        if windows.grid != grid:
            rows, grid = _divide_merged(rows, grid, windows.grid), windows.grid
        rows = _multiply_windows(rows, windows, matrix)
    return rows


def _multiply_windows(
    rows: Float[Tensor, "b n"], windows: AttentionWindows, matrix: Float[Tensor, "_ m m"]
) -> Float[Tensor, "b n"]:
    """Compute r M of a block, M being 0 between tokens of different windows."""
    padded = F.pad(rows, (0, 1))  # padding has the place -1
    parts = padded[:, windows.places][:, :, None]
    products = parts @ matrix.view(len(rows), -1, *matrix.shape[1:])
    result = torch.zeros_like(padded)
    result[:, windows.places] = products[:, :, 0]
    return result[:, :-1]


def _divide_merged(rows: Float[Tensor, "b n"], grid: Size, finer: Size) -> Float[Tensor, "b n"]:
    """Divide the value of each token equally among those that were merged to it."""
    merged = torch.ones(1, 1, *finer, device=rows.device)
    sides = (0, finer[1] % 2, 0, finer[0] % 2)
    counts = 4 * F.avg_pool2d(F.pad(merged, sides), 2)
    shares = rows.view(-1, 1, *grid) / counts
    large = shares.repeat_interleave(2, 2).repeat_interleave(2, 3)
    kept: Tensor = large[:, 0, : finer[0], : finer[1]]
    return kept.flatten(1)
