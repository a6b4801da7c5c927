"""RISE: hide the image at random, many times, and add up what was shown when the class was seen.

    map(i, j) = sum_n P(c | image * M_n) M_n(i, j) / (N p)

The masks M_n are random cells, each open with probability p, scaled up bilinearly to one cell more
than the image and cut out at a random place. Petsiuk et al., "RISE: Randomized Input Sampling for
Explanation of Black-box Models", BMVC 2018, section 3: 4000 masks of 7 x 7 cells, half of them
open. What is hidden fades to 0, the mean colour in a network's normalised units.

P is the softmax. The masks come from `seed` alone: each image gets the same ones, whatever batch
it is in. Forward passes alone, one set of them for all classes; few masks are held at a time.
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
from pipeline.types import ClassSelector, Explanation

if TYPE_CHECKING:
    from jaxtyping import Bool, Float


@dataclass(frozen=True)
class RISE:
    masks: int = 4000  # forward passes for each image; a rough map needs some 500
    cells: int = 7  # of a mask, a side
    probability: float = 0.5  # that a cell is open
    seed: int = 0  # of the masks
    batch: int = 8  # masked copies in one forward pass; an accelerator likes more

    def __post_init__(self) -> None:
        for name in ("masks", "cells", "batch"):
            if getattr(self, name) < 1:
                raise UserError(f"saliency.{name}={getattr(self, name)}: expected at least 1")
        if not 0 < self.probability <= 1:
            raise UserError(
                f"saliency.probability={self.probability}: expected more than 0, at most 1"
            )
        if self.seed < 0:
            raise UserError(f"saliency.seed={self.seed}: expected 0 or more")

    def __call__(
        self, network: Network, images: Float[Tensor, "b 3 H W"], choose: ClassSelector
    ) -> Explanation:
        """Maps of the chosen classes, a value for each pixel, never negative."""
        height, width = images.shape[2:]
        opened, shifts = self.draws()
        with torch.no_grad():
            logits = network(images).logits
            classes = choose(logits)
            maps = images.new_zeros((*classes.shape, height, width), dtype=torch.float32)
            for start in range(0, self.masks, self.batch):
                some = slice(start, start + self.batch)
                masks = self._masks(opened[some], shifts[some], (height, width)).to(images.device)
                for image, named, total in zip(images, classes, maps, strict=True):
                    masked = (image * masks[:, None]).contiguous(memory_format=torch.channels_last)
                    shares = network(masked).logits.float().softmax(1)[:, named]
                    with torch.autocast(images.device.type, enabled=False):
                        total += (shares.T @ masks.flatten(1)).view_as(total)
            maps /= self.masks * self.probability
        return Explanation(maps, classes, logits)

    def draws(self) -> tuple[Bool[np.ndarray, "N s s"], Float[np.ndarray, "N 2"]]:
        """Which cells are open, and by what part of a cell a mask is shifted down and across."""
        random = np.random.default_rng(self.seed)
        opened = random.random((self.masks, self.cells, self.cells)) < self.probability
        return opened, random.random((self.masks, 2))

    def _masks(
        self,
        opened: Bool[np.ndarray, "n s s"],
        shifts: Float[np.ndarray, "n 2"],
        size: tuple[int, int],
    ) -> Float[Tensor, "n H W"]:
        down, across = (self._tents(shifts[:, n], side) for n, side in enumerate(size))
        return torch.from_numpy((down @ opened @ across.swapaxes(1, 2)).astype(np.float32))

    def _tents(self, shifts: Float[np.ndarray, "n"], side: int) -> Float[np.ndarray, "n side s"]:
        """How much of each cell shows in each pixel of a side: bilinear scaling, then the cut."""
        cell = math.ceil(side / self.cells)
        pixels = np.arange(side) + np.floor(shifts * cell)[:, None]
        place = (pixels + 0.5) * self.cells / ((self.cells + 1) * cell) - 0.5
        place = place.clip(0, self.cells - 1)[..., None]
        tents: Float[np.ndarray, "n side s"] = 1 - np.abs(place - np.arange(self.cells))
        return tents.clip(0)
