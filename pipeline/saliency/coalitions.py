"""What LIME and KernelSHAP share: scores of an image of which a part of the superpixels is kept.

    f(z) = s_c(image where z is 1, cover where z is 0)        map(i, j) = w of its superpixel

z has a 0 or 1 for each superpixel. A method draws coalitions z, and fits weights w to their scores.
The coalitions come from a seed and from the number of superpixels of the image alone, so that an
image has the same map whatever batch it is in. All classes of an image share the forward passes.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import UserError
from pipeline.protocols import Network
from pipeline.saliency.option_checks import check_counts, check_not_negative
from pipeline.saliency.superpixels import Superpixels, segment_superpixels
from pipeline.types import ClassSelector, Explanation

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Float64, Int


@dataclass(frozen=True)
class Scores:
    """The scores of the coalitions of an image, for each class.

    Attributes:
        sampled: f of each coalition.
        whole: f of the image.
        empty: f of the cover alone.
    """

    sampled: Float64[np.ndarray, "n t"]
    whole: Float64[np.ndarray, "t"]
    empty: Float64[np.ndarray, "t"]


@dataclass(frozen=True)
class CoalitionMethod(ABC):
    """A method that fits weights of superpixels to the scores of coalitions.

    A subclass draws the coalitions, and fits the weights.
    """

    samples: int = 1000  # coalitions, a forward pass each
    superpixels: Superpixels = "slic"  # segments by colour, or the cells of a grid
    segments: int = 50  # superpixels, about
    compactness: float = 1.0  # of slic: how much nearness counts beside colour
    value: float | Literal["mean", "segment"] = "segment"  # cover, or whose mean colour
    score: Literal["logit", "probability"] = "probability"  # what the weights explain
    seed: int = 0  # of the coalitions
    batch: int = 8  # covered copies in a forward pass; more are faster on an accelerator

    def __post_init__(self) -> None:
        check_counts(samples=self.samples, segments=self.segments, batch=self.batch)
        check_not_negative(seed=self.seed, compactness=self.compactness)
        if isinstance(self.value, float | int) and not math.isfinite(self.value):
            raise UserError(
                f"saliency.value={self.value}: expected a finite number, mean or segment"
            )

    @abstractmethod
    def draw(self, count: int) -> Bool[np.ndarray, "n d"]:
        """Draw coalitions: whether each superpixel is kept.

        Args:
            count: d, the number of superpixels.
        """

    @abstractmethod
    def fit(
        self, coalitions: Bool[np.ndarray, "n d"], scores: Scores
    ) -> Float64[np.ndarray, "d t"]:
        """Fit the weights of the superpixels for each class.

        Args:
            coalitions: As `draw` returns them.
            scores: Of these, of the image and of the cover.
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
            segments = self.segment(image)
            labels = torch.from_numpy(segments).to(images.device)
            coalitions = self.draw(int(segments.max()) + 1)
            nothing = np.zeros((1, coalitions.shape[1]), bool)
            scored = np.concatenate([coalitions, nothing])
            scores = self.score_coalitions(network, image, labels, scored, targets)
            whole = self.select(network, row[None], targets)[0].double().cpu().numpy()
            weights = self.fit(coalitions, Scores(scores[:-1], whole, scores[-1]))
            target_maps += torch.from_numpy(weights.T[:, segments]).to(target_maps)
        return Explanation(maps, classes, logits)

    def segment(self, image: Float[Tensor, "c H W"]) -> Int[np.ndarray, "H W"]:
        """Return the superpixel of each pixel.

        Args:
            image: As the network sees it.
        """
        return segment_superpixels(image, self.superpixels, self.segments, self.compactness)

    def score_coalitions(
        self,
        network: Network,
        image: Float[Tensor, "c H W"],
        labels: Int[Tensor, "H W"],
        coalitions: Bool[np.ndarray, "n d"],
        classes: Int[Tensor, "t"],
    ) -> Float64[np.ndarray, "n t"]:
        """Compute the scores of an image of which each coalition's superpixels are kept.

        Args:
            network: The classifier.
            image: As the network sees it.
            labels: The superpixel of each pixel, on the image's device.
            coalitions: Whether each superpixel is kept.
            classes: Whose scores are computed.
        """
        cover = self._build_cover(image, labels)
        scores = []
        for kept in torch.split(torch.from_numpy(coalitions).to(image.device), self.batch):
            copies = torch.where(kept[:, labels][:, None], image, cover)
            copies = copies.contiguous(memory_format=torch.channels_last)
            scores.append(self.select(network, network(copies).logits, classes))
        return torch.cat(scores).double().cpu().numpy()

    def select(
        self, network: Network, logits: Float[Tensor, "n C"], classes: Int[Tensor, "t"]
    ) -> Float[Tensor, "n t"]:
        """Return the scores of the classes.

        Args:
            network: The classifier.
            logits: Its logits.
            classes: Whose scores are returned.
        """
        logits = logits.float()
        return (logits if self.score == "logit" else network.probabilities(logits))[:, classes]

    def _build_cover(
        self, image: Float[Tensor, "c H W"], labels: Int[Tensor, "H W"]
    ) -> Float[Tensor, "c #H #W"]:
        """Return what is seen where a superpixel is covered."""
        if self.value == "segment":
            places = labels.flatten()
            sums = image.new_zeros((len(image), int(labels.max()) + 1))
            means = sums.index_add(1, places, image.flatten(1)) / places.bincount()
            return means[:, labels]
        if self.value == "mean":
            return image.mean((1, 2), keepdim=True)
        return image.new_tensor(self.value).expand(len(image), 1, 1)
