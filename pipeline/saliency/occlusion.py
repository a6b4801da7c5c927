"""Occlusion: cover one patch after another and measure how far the class score falls.

    drop_p = s_c(image) - s_c(image with patch p covered)
    map(i, j) = mean of drop_p over the patches p that cover (i, j)

Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014, section 4.2:
they measure the probability of the class and cover with grey, which is 0 in the units of a network
whose inputs are normalised. The mean over patches that overlap is captum's, and so are the borders:
patches start at 0, `stride`, 2 `stride`, ..., until the last pixel is covered, and are clipped to
the image.

It needs forward passes only, shared by all classes: (H / stride) * (W / stride) for each image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from pipeline.errors import UserError
from pipeline.ops.local_changes import LocalChanges, can_run_locally
from pipeline.protocols import Network
from pipeline.types import ClassSelector, Explanation

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@dataclass(frozen=True)
class Occlusion:
    """The drop of the class score where patches of the image are covered."""

    window: int = 32  # side of a patch in pixels of the network's input
    stride: int = 16  # pixels from one patch to the next; half as many cost four times the time
    value: float | Literal["mean"] = 0.0  # the cover, in normalised units; mean: the image's mean
    score: Literal["logit", "probability"] = "logit"  # whose drop is measured
    batch: int = 8  # covered copies in a forward pass; more are faster on an accelerator

    def __post_init__(self) -> None:
        if self.window < 1:
            raise UserError(f"saliency.window={self.window}: a patch has at least 1 pixel a side")
        if not 1 <= self.stride <= self.window:
            raise UserError(
                f"saliency.stride={self.stride}: expected 1 to {self.window}, the window's side, "
                "so that no pixel is passed over"
            )
        if self.value != "mean" and not math.isfinite(self.value):
            raise UserError(f"saliency.value={self.value}: expected a finite number or mean")
        if self.batch < 1:
            raise UserError(f"saliency.batch={self.batch}: expected at least 1")

    def __call__(
        self, network: Network, images: Float[Tensor, "b 3 H W"], choose: ClassSelector
    ) -> Explanation:
        """Compute signed maps of the chosen classes at the resolution of the image.

        Raises:
            UserError: If the window is larger than the images.
        """
        height, width = images.shape[2:]
        if self.window > min(height, width):
            raise UserError(
                f"saliency.window={self.window}: larger than the network's input of {height} x "
                f"{width} pixels; as in saliency.window={max(1, min(height, width) // 7)}"
            )
        tops, lefts = self._list_starts(height), self._list_starts(width)
        corners = [(y, x) for y in tops for x in lefts]
        with torch.no_grad():
            logits = network(images).logits
            classes = choose(logits)
            drops = torch.stack(
                [
                    self._select_scores(network, row[None], targets)
                    - self._score_covered(network, image, corners, targets)
                    for image, row, targets in zip(images, logits, classes, strict=True)
                ]
            )
            grids = drops.mT.reshape(*classes.shape, len(tops), len(lefts))
            rows = self._mark_covered(tops, height).to(grids)
            columns = self._mark_covered(lefts, width).to(grids)
            with torch.autocast(grids.device.type, enabled=False):
                maps = rows @ grids @ columns.T / torch.outer(rows.sum(1), columns.sum(1))
        return Explanation(maps, classes, logits)

    def _score_covered(
        self,
        network: Network,
        image: Float[Tensor, "3 H W"],
        corners: list[tuple[int, int]],
        classes: Int[Tensor, "t"],
    ) -> Float[Tensor, "p t"]:
        """Compute class scores of an image with the patch at each corner (y, x) covered."""
        cover = image.mean((1, 2)) if self.value == "mean" else image.new_tensor(self.value)
        cover = cover.expand(len(image))[:, None, None]
        # An accelerator computes whole copies sooner than many small parts are cut and pasted.
        is_local = image.device.type == "cpu" and can_run_locally(network)
        local = LocalChanges(image) if is_local else None
        scores = []
        for start in range(0, len(corners), self.batch):
            patches = corners[start : start + self.batch]
            logits = None if local is None else self._run_locally(local, network, patches, cover)
            if logits is None:
                local = None
                logits = network(self._cover_copies(image, patches, cover)).logits
            scores.append(self._select_scores(network, logits, classes))
        return torch.cat(scores)

    def _cover_copies(
        self,
        image: Float[Tensor, "3 H W"],
        patches: list[tuple[int, int]],
        cover: Float[Tensor, "3 1 1"],
    ) -> Float[Tensor, "n 3 H W"]:
        """Return a copy of the image for each patch, which is covered."""
        copies = image.expand(len(patches), *image.shape).clone(memory_format=torch.channels_last)
        for copy, (y, x) in zip(copies, patches, strict=True):
            copy[:, y : y + self.window, x : x + self.window] = cover
        return copies

    def _run_locally(
        self,
        local: LocalChanges,
        network: Network,
        patches: list[tuple[int, int]],
        cover: Float[Tensor, "3 1 1"],
    ) -> Float[Tensor, "n C"] | None:
        """Compute the logits of the copies where they change; None: the network hides its work."""
        height, width = local.image.shape[1:]
        # Of the size of the window also where it stands out of the image.
        corners = [(min(y, height - self.window), min(x, width - self.window)) for y, x in patches]
        crops = torch.stack(
            [
                local.image[:, top : top + self.window, left : left + self.window]
                for top, left in corners
            ]
        ).contiguous(memory_format=torch.channels_last)
        for crop, (top, left), (y, x) in zip(crops, corners, patches, strict=True):
            crop[:, y - top :, x - left :] = cover
        return local.run(lambda images: network(images).logits, crops, corners)

    def _select_scores(
        self, network: Network, logits: Float[Tensor, "n C"], classes: Int[Tensor, "t"]
    ) -> Float[Tensor, "n t"]:
        logits = logits.float()
        return (logits if self.score == "logit" else network.probabilities(logits))[:, classes]

    def _list_starts(self, side: int) -> list[int]:
        return [n * self.stride for n in range(math.ceil((side - self.window) / self.stride) + 1)]

    def _mark_covered(self, starts: list[int], side: int) -> Float[Tensor, "side p"]:
        """Return 1 where a pixel of a side lies under the patch at a start, else 0."""
        pixels, first = torch.arange(side)[:, None], torch.tensor(starts)
        return ((pixels >= first) & (pixels < first + self.window)).float()
