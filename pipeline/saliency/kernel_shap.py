"""KernelSHAP: the Shapley value of each superpixel, from a weighted linear regression.

    phi = argmin  sum_z pi(z) (f(z) - f(0) - phi z)^2    subject to    sum_k phi_k = f(1) - f(0)
    pi(z) = (d - 1) / (binom(d, |z|) |z| (d - |z|))        map(i, j) = phi of its superpixel

Lundberg and Lee, "A Unified Approach to Interpreting Model Predictions", NeurIPS 2017, theorem 2:
over all z but 0 and 1, phi are the Shapley values of the game whose players are the superpixels,
and whose value f(z) is the class score of the image that is covered where z is 0.

If there are no more than `samples` of these z (2^d - 2 of d superpixels), all are used and phi is
exact. Else z are drawn: their size by its share of pi, all of a size alike, each with its
complement (Covert and Lee, "Improving KernelSHAP", AISTATS 2021), with sizes spread evenly over
their distribution. f(0) and f(1) are not sampled: the constraint holds exactly, so that a map adds
up to f(1) - f(0), each superpixel counted once. Where samples are too few to tell superpixels
apart, their weights are as equal as the samples allow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from pipeline.saliency.coalitions import CoalitionMethod, Scores

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64, Int


@dataclass(frozen=True)
class KernelSHAP(CoalitionMethod):
    """KernelSHAP: Shapley values of superpixels; `samples` should be several times `segments`."""

    value: float | Literal["mean", "segment"] = 0.0  # cover, or whose mean colour
    score: Literal["logit", "probability"] = "logit"  # what the weights explain

    def draw(self, count: int) -> Bool[np.ndarray, "n d"]:
        """Draw coalitions by the Shapley kernel, or return all where there are few.

        Args:
            count: d, the number of superpixels.
        """
        if self._has_all(count):
            numbers = np.arange(1, 2**count - 1)[:, None]
            return (numbers >> np.arange(count) & 1).astype(bool)
        random = np.random.default_rng(self.seed)
        pairs = -(-self.samples // 2)
        sizes = self._draw_sizes(pairs, count, random)
        # The superpixels of the least random numbers are kept.
        ranks = random.random((pairs, count)).argsort(1).argsort(1)
        kept = ranks < sizes[:, None]
        coalitions: Bool[np.ndarray, "n d"] = np.stack([kept, ~kept], 1).reshape(-1, count)
        return coalitions[: self.samples]

    def fit(
        self, coalitions: Bool[np.ndarray, "n d"], scores: Scores
    ) -> Float64[np.ndarray, "d t"]:
        """Solve the regression with its constraint.

        Args:
            coalitions: As `draw` returns them.
            scores: Of these, of the image and of the cover.
        """
        count = coalitions.shape[1]
        equal = np.tile((scores.whole - scores.empty) / count, (count, 1))
        if count == 1:
            return equal
        # phi = equal + free u, where the columns of `free` are orthogonal to (1, ..., 1).
        free = np.linalg.svd(np.ones((1, count)))[2][1:].T
        sizes = coalitions.sum(1)
        weights = np.sqrt(self._kernel(sizes, count))[:, None]
        left = scores.sampled - scores.empty - coalitions @ equal
        solved = np.linalg.lstsq(weights * (coalitions @ free), weights * left, rcond=None)[0]
        values: Float64[np.ndarray, "d t"] = equal + free @ solved
        return values

    def _has_all(self, count: int) -> bool:
        return count < 63 and 2**count - 2 <= self.samples

    def _draw_sizes(
        self, pairs: int, count: int, random: np.random.Generator
    ) -> Int[np.ndarray, "n"]:
        """Draw how many superpixels are kept, evenly over the distribution of sizes."""
        sizes = np.arange(1, count)
        share = np.cumsum(1 / (sizes * (count - sizes)))
        places = (np.arange(pairs) + random.random()) / pairs
        return 1 + np.searchsorted(share / share[-1], places, side="right").clip(max=count - 2)

    def _kernel(self, sizes: Int[np.ndarray, "n"], count: int) -> Float64[np.ndarray, "n"]:
        """Return pi of each coalition; what is drawn by pi counts alike."""
        if not self._has_all(count):
            return np.ones(len(sizes))
        # The same for all of a size, whose number is binom(d, size).
        number = np.bincount(sizes, minlength=count)[sizes]
        kernel: Float64[np.ndarray, "n"] = (count - 1) / (number * sizes * (count - sizes))
        return kernel
