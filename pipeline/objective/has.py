"""Hide-and-Seek (HaS): hide patches of the image, so that other parts must tell the class as well.

    x' = 0 (the mean colour) in every cell of a grid that is hidden, each with probability p

Singh and Lee, "Hide-and-Seek: Forcing a Network to be Meticulous for Weakly-supervised Object and
Action Localization", ICCV 2017. As in their HaS-Mixed the grid's size is drawn anew for each image,
one of its values being the whole image with nothing hidden. Inputs are normalised, so that 0 is the
mean colour of the images that the network was pretrained on, as in wsolevaluation (Choe et al.
2020), which hides cells of one size, 4 pixels.

What differs: sizes are pixels of an image with a side of 224, and scale with the input.
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

SIDE = 224  # of the image that cell sizes are given for


@dataclass(frozen=True)
class HideAndSeek:
    cells: tuple[int, ...] = (0, 16, 32, 44, 56)  # sides in pixels at 224; 0: nothing is hidden
    hide: float = 0.5  # the probability of each cell
    label_smoothing: float = 0.1  # 0 in the paper

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
        height, width = inputs.shape[2:]
        sizes = torch.tensor(self.cells)[torch.randint(len(self.cells), (len(inputs),))].tolist()
        kept = torch.stack([kept_of(height, width, size, self.hide) for size in sizes])
        logits = network(inputs * kept[:, None].to(inputs.device)).logits.float()
        return cross_entropy(logits, labels, self.label_smoothing), logits


def kept_of(height: int, width: int, size: int, hide: float) -> Bool[Tensor, "H W"]:
    """Where one image stays; `size` is that of a cell at 224, from the upper left on."""
    if size == 0:
        return torch.ones(height, width, dtype=torch.bool)
    tall, wide = (max(1, round(size * side / SIDE)) for side in (height, width))
    grid = torch.rand(-(-height // tall), -(-width // wide)) >= hide
    return grid.repeat_interleave(tall, 0).repeat_interleave(wide, 1)[:height, :width]
