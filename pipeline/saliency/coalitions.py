"""What LIME and KernelSHAP share: scores of an image of which a part of the superpixels is kept.

    f(z) = s_c(image where z is 1, cover where z is 0)        map(i, j) = w of its superpixel

z has a 0 or 1 for each superpixel. A method draws coalitions z, and fits weights w to their scores.
The coalitions come from a seed and from the number of superpixels of the image alone, so that an
image has the same map whatever batch it is in. All classes of an image share the forward passes.
"""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import UserError
from pipeline.protocols import Network
from pipeline.saliency.superpixels import Superpixels, segment_superpixels
from pipeline.types import ClassSelector, Explanation

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Float64, Int


@dataclass(frozen=True)
class CoalitionMethod(abc.ABC):
    """A method that fits a weight for each superpixel to the scores of coalitions."""

    samples: int = 1000  # coalitions, a forward pass each
    superpixels: Superpixels = "slic"  # segments by colour, or the cells of a grid
    segments: int = 50  # superpixels, about
    compactness: float = 1.0  # of slic: how much nearness counts beside colour
    value: float | Literal["mean", "segment"] = 0.0  # the cover; mean colour of image or segment
    score: Literal["logit", "probability"] = "logit"  # what the weights explain
    seed: int = 0  # of the coalitions
    batch: int = 8  # covered copies in a forward pass; more are faster on an accelerator

    def __post_init__(self) -> None:
        counts = {"samples": self.samples, "segments": self.segments, "batch": self.batch}
        for name, count in counts.items():
            if count < 1:
                raise UserError(f"saliency.{name}={count}: expected at least 1")
        if not self.compactness >= 0:
            raise UserError(f"saliency.compactness={self.compactness}: expected 0 or more")
        if isinstance(self.value, float | int) and not math.isfinite(self.value):
            raise UserError(
                f"saliency.value={self.value}: expected a finite number, mean or segment"
            )
        if self.seed < 0:
            raise UserError(f"saliency.seed={self.seed}: expected 0 or more")

    @abc.abstractmethod
    def draw(self, count: int) -> Bool[np.ndarray, "n d"]:
        """Draw the coalitions of an image.

        Args:
            count: d, the number of superpixels.

        Returns:
            Whether each superpixel is kept, a row for each coalition.
        """

    @abc.abstractmethod
    def fit(
        self,
        coalitions: Bool[np.ndarray, "n d"],
        scores: Float64[np.ndarray, "n t"],
        whole: Float64[np.ndarray, "t"],
        empty: Float64[np.ndarray, "t"],
    ) -> Float64[np.ndarray, "d t"]:
        """Fit the weights of the superpixels, for each class by itself.

        Args:
            coalitions: As `draw` returns them.
            scores: f of each coalition, for each class.
            whole: f of the image.
            empty: f of the cover alone.
        """

    @torch.no_grad()
    def __call__(
        self, network: Network, images: Float[Tensor, "b 3 H W"], choose: ClassSelector
    ) -> Explanation:
        """Compute signed maps of the chosen classes at the resolution of the image."""
        logits = network(images).logits
        classes = choose(logits)
        maps = images.new_zeros((*classes.shape, *images.shape[2:]), dtype=torch.float32)
        for image, row, targets, target_maps in zip(images, logits, classes, maps, strict=True):
            labels = segment_superpixels(image, self.superpixels, self.segments, self.compactness)
            coalitions = self.draw(int(labels.max()) + 1)
            # The last row keeps nothing.
            rows = np.concatenate([coalitions, np.zeros((1, coalitions.shape[1]), bool)])
            scores = self._score(network, image, torch.from_numpy(labels), rows, targets)
            whole = self._select(row[None], targets).double().cpu().numpy()[0]
            weights = self.fit(coalitions, scores[:-1], whole, scores[-1])
            target_maps += torch.from_numpy(weights.T[:, labels]).to(target_maps)
        return Explanation(maps, classes, logits)

    def _score(
        self,
        network: Network,
        image: Float[Tensor, "C H W"],
        labels: Int[Tensor, "H W"],
        coalitions: Bool[np.ndarray, "n d"],
        classes: Int[Tensor, "t"],
    ) -> Float64[np.ndarray, "n t"]:
        """Compute the scores of an image of which each coalition's superpixels are kept."""
        labels = labels.to(image.device)
        cover = self._build_cover(image, labels)
        scores = []
        for kept in torch.from_numpy(coalitions).to(image.device).split(self.batch):
            copies = torch.where(kept[:, labels][:, None], image, cover)
            copies = copies.contiguous(memory_format=torch.channels_last)
            scores.append(self._select(network(copies).logits, classes))
        return torch.cat(scores).double().cpu().numpy()

    def _build_cover(
        self, image: Float[Tensor, "C H W"], labels: Int[Tensor, "H W"]
    ) -> Float[Tensor, "C #H #W"]:
        """Return what is seen where a superpixel is covered."""
        if self.value == "segment":
            values, places = image.flatten(1), labels.flatten()
            sums = image.new_zeros((len(image), int(labels.max()) + 1))
            means = sums.index_add(1, places, values) / places.bincount()
            return means[:, labels]
        if self.value == "mean":
            return image.mean((1, 2), keepdim=True)
        return image.new_tensor(self.value).expand(len(image), 1, 1)

    def _select(
        self, logits: Float[Tensor, "n C"], classes: Int[Tensor, "t"]
    ) -> Float[Tensor, "n t"]:
        logits = logits.float()
        return (logits if self.score == "logit" else logits.softmax(1))[:, classes]
