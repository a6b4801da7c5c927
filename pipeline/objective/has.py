"""Hide-and-Seek (HaS): hide patches of the image, so that other parts must tell the class as well.

    x' = 0 (the mean colour) in every cell of a grid that is hidden, each with probability p

Singh and Lee, "Hide-and-Seek: Forcing a Network to be Meticulous for Weakly-supervised Object and
Action Localization", ICCV 2017. As in their HaS-Mixed the grid's size is drawn anew for each image,
one of its values being the whole image with nothing hidden. Inputs are normalised, so that 0 is the
mean colour of the images that the network was pretrained on, as in wsolevaluation (Choe et al.
2020), which hides cells of one size, 4 pixels.

What differs: sizes are in pixels of an image with a side of 224, and scale with the input.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipeline.objective.cross_entropy import check_share, check_smoothing, cross_entropy
from pipeline.types import NetworkOutput

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

REFERENCE_SIDE = 224  # pixels of the image that cell sizes are given for


@dataclass(frozen=True)
class HideAndSeek:
    """Hide-and-Seek.

    Args:
        cells: sides in pixels of an image of 224, among which each image draws; 0: nothing is
            hidden.
        hide: the probability that a cell is hidden.
        label_smoothing: from 0 to below 1; 0 in the paper.
    """

    cells: tuple[int, ...] = (0, 16, 32, 44, 56)
    hide: float = 0.5
    label_smoothing: float = 0.1

    needs_images = True

    def __post_init__(self) -> None:
        if not self.cells or min(self.cells) < 0:
            raise ValueError(f"cells={self.cells}: expected sides in pixels, 0 or more")
        check_share("hide", self.hide)
        check_smoothing(self.label_smoothing)

    def __call__(
        self,
        network: Callable[[Float[Tensor, "b 3 H W"]], NetworkOutput],
        inputs: Float[Tensor, "b 3 H W"],
        labels: Int[Tensor, "b"],
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "b C"]]:
        """Compute the loss and the logits of a batch; see `pipeline.protocols.Objective`."""
        height, width = inputs.shape[2:]
        sizes = torch.tensor(self.cells)[torch.randint(len(self.cells), (len(inputs),))].tolist()
        kept = torch.stack([draw_kept_pixels(height, width, size, self.hide) for size in sizes])
        logits = network(inputs * kept[:, None].to(inputs.device)).logits.float()
        return cross_entropy(logits, labels, self.label_smoothing), logits


def draw_kept_pixels(height: int, width: int, size: int, hide: float) -> Bool[Tensor, "H W"]:
    """Draw which pixels of an image are kept: all but those of the hidden cells.

    Cells begin at the upper left corner; those at the right and lower edge may be clipped.

    Args:
        height: of the image in pixels.
        width: of the image in pixels.
        size: side of a cell in pixels of an image of 224; 0: all pixels are kept.
        hide: the probability that a cell is hidden.
    """
    if size == 0:
        return torch.ones(height, width, dtype=torch.bool)
    tall, wide = (max(1, round(size * side / REFERENCE_SIDE)) for side in (height, width))
    grid = torch.rand(-(-height // tall), -(-width // wide)) >= hide
    return grid.repeat_interleave(tall, 0).repeat_interleave(wide, 1)[:height, :width]
