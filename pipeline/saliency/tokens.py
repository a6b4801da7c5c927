"""What methods of vision transformers share: tokens that the head reads, chains of matrices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from pipeline.errors import UserError

if TYPE_CHECKING:
    from jaxtyping import Float


def select_read_tokens(gradients: Float[Tensor, "b n K"]) -> Float[Tensor, "b n"]:
    """Return equal weights, which sum to 1, for the tokens that a score reads.

    Of a head that reads the class token it is 1 at this token; of one that averages the patches
    1 / n at each.

    Args:
        gradients: of the score with respect to the tokens that the last block gives.

    Raises:
        UserError: there is no gradient at any token of an image.
    """
    reads = gradients.abs().amax(2) > 0
    if not gradients.is_meta and not bool(reads.any(1).all()):
        raise UserError(
            "the score depends on no token that the last block gives; a head of zeros, for "
            "example, depends on none: load its weights"
        )
    return reads / reads.sum(1, keepdim=True)


def multiply_rows(
    rows: Float[Tensor, "b n"], matrices: Sequence[Float[Tensor, "b n n"]]
) -> Float[Tensor, "b n"]:
    """Compute r M_L ... M_1, which are rows of the product of all matrices, averaged by r."""
    product = rows[:, None]
    for matrix in reversed(matrices):
        product = product @ matrix
    return product[:, 0]
