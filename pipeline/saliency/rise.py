"""RISE: mask the image at random many times, and sum the masks weighted by the class probability.

    map(i, j) = sum_n P(c | image * M_n) M_n(i, j) / (N p)

The masks M_n are random cells, each open with probability p, scaled up bilinearly to one cell more
than the image and cropped at a random position. Petsiuk et al., "RISE: Randomized Input Sampling
for Explanation of Black-box Models", BMVC 2018, section 3: 4000 masks of 7 x 7 cells, half of them
open. What is hidden becomes 0, the mean colour in the normalised units of a network.

P is the softmax, or the sigmoid of a single logit. The masks come from `seed` alone: each image
gets the same masks, whatever batch it is in. It needs forward passes only, shared by all classes;
few masks are held at a time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import UserError
from pipeline.protocols import Network
from pipeline.saliency.option_checks import check_counts, check_not_negative
from pipeline.types import ClassSelector, Explanation

if TYPE_CHECKING:
    from jaxtyping import Bool, Float


@dataclass(frozen=True)
class RISE:
    """RISE: random masks weighted by the class probability of the masked image."""

    masks: int = 4000  # forward passes for each image; a rough map needs some 500
    cells: int = 7  # of a mask, a side
    probability: float = 0.5  # that a cell is open
    seed: int = 0  # of the masks
    batch: int = 8  # masked copies in a forward pass; more are faster on an accelerator

    def __post_init__(self) -> None:
        check_counts(masks=self.masks, cells=self.cells, batch=self.batch)
        if not 0 < self.probability <= 1:
            raise UserError(
                f"saliency.probability={self.probability}: expected more than 0, at most 1"
            )
        check_not_negative(seed=self.seed)

    def __call__(
        self, network: Network, images: Float[Tensor, "b 3 H W"], choose: ClassSelector
    ) -> Explanation:
        """Compute maps of the chosen classes at the resolution of the image, never negative."""
        height, width = images.shape[2:]
        opened, shifts = self.draw_cells()
        with torch.no_grad():
            logits = network(images).logits
            classes = choose(logits)
            maps = images.new_zeros((*classes.shape, height, width), dtype=torch.float32)
            for start in range(0, self.masks, self.batch):
                chunk = slice(start, start + self.batch)
                masks = self._build_masks(opened[chunk], shifts[chunk], (height, width))
                masks = masks.to(images.device)
                for image, targets, total in zip(images, classes, maps, strict=True):
                    masked = (image * masks[:, None]).contiguous(memory_format=torch.channels_last)
                    logits_masked = network(masked).logits.float()
                    probabilities = network.probabilities(logits_masked)[:, targets]
                    with torch.autocast(images.device.type, enabled=False):
                        total += (probabilities.T @ masks.flatten(1)).view_as(total)
            maps /= self.masks * self.probability
        return Explanation(maps, classes, logits)

    def draw_cells(self) -> tuple[Bool[np.ndarray, "N s s"], Float[np.ndarray, "N 2"]]:
        """Draw the cells and the shift of each mask from the seed.

        Returns:
            Whether each cell is open, and by what share of a cell, in [0, 1), each mask is shifted
            down and across.
        """
        random = np.random.default_rng(self.seed)
        opened = random.random((self.masks, self.cells, self.cells)) < self.probability
        return opened, random.random((self.masks, 2))

    def _build_masks(
        self,
        opened: Bool[np.ndarray, "n s s"],
        shifts: Float[np.ndarray, "n 2"],
        size: tuple[int, int],
    ) -> Float[Tensor, "n H W"]:
        """Scale the cells up to one cell more than the image, and crop the image's size."""
        down, across = (self._weight_cells(shifts[:, n], side) for n, side in enumerate(size))
        return torch.from_numpy((down @ opened @ across.swapaxes(1, 2)).astype(np.float32))

    def _weight_cells(
        self, shifts: Float[np.ndarray, "n"], side: int
    ) -> Float[np.ndarray, "n side s"]:
        """Compute the bilinear weight of each cell at each pixel of a side, after the crop."""
        cell = math.ceil(side / self.cells)
        pixels = np.arange(side) + np.floor(shifts * cell)[:, None]
        position = (pixels + 0.5) * self.cells / ((self.cells + 1) * cell) - 0.5
        position = position.clip(0, self.cells - 1)[..., None]
        weights: Float[np.ndarray, "n side s"] = 1 - np.abs(position - np.arange(self.cells))
        return weights.clip(0)
