"""LIME: a linear model of the class score from the presence of each superpixel.

    w = argmin  mean_n pi_n (f(z_n) - b - w z_n)^2 / 2 + strength Omega(w)
    pi_n = exp(-D_n^2 / (2 width^2)),  D_n = 1 - cos(z_n, 1)        map(i, j) = w of its superpixel

Ribeiro et al., ""Why Should I Trust You?": Explaining the Predictions of Any Classifier", KDD 2016.
f is the probability of the class in the image whose superpixels are covered where z_n is 0; each
superpixel is kept with probability 1/2, and the first z_n keeps all. The mean is weighted by pi_n,
the b without penalty; Omega is |w|^2 / 2 (ridge) or the sum of |w| (lasso).

The kernel, its width, ridge regression and the cover, the mean colour of each superpixel, are those
of the authors' code for images; the 2 in the kernel is not in the paper. The code's superpixels are
quickshift's, ours SLIC's; the paper names no algorithm. Its choice of few superpixels is `lasso`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from pipeline.errors import UserError
from pipeline.saliency.coalitions import CoalitionMethod, Scores

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64

MAX_SWEEPS = 10_000  # of coordinate descent over all superpixels
PRECISION = 1e-9  # change of the weights, as a share of the largest, at which descent ends


@dataclass(frozen=True)
class LIME(CoalitionMethod):
    """LIME: weights of a linear model of the presence of superpixels."""

    width: float = 0.25  # of the kernel: how near the whole image a sample must be to count
    penalty: Literal["ridge", "lasso"] = "ridge"  # lasso: weights of few superpixels are not 0
    strength: float = 0.002  # of the penalty

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.width > 0:
            raise UserError(f"saliency.width={self.width}: expected more than 0")
        if not 0 < self.strength < math.inf:
            raise UserError(f"saliency.strength={self.strength}: expected more than 0")

    def draw(self, count: int) -> Bool[np.ndarray, "n d"]:
        """Draw coalitions that keep each superpixel with probability 1/2; the first keeps all.

        Args:
            count: d, the number of superpixels.
        """
        random = np.random.default_rng(self.seed)
        coalitions: Bool[np.ndarray, "n d"] = random.random((self.samples, count)) < 0.5
        coalitions[0] = True
        return coalitions

    def fit(
        self, coalitions: Bool[np.ndarray, "n d"], scores: Scores
    ) -> Float64[np.ndarray, "d t"]:
        """Fit the linear model of each class.

        Args:
            coalitions: As `draw` returns them.
            scores: Of these; the first is of the whole image.
        """
        distances = 1 - np.sqrt(coalitions.mean(1))
        proximity = np.exp(-(distances**2) / (2 * self.width**2))
        proximity /= proximity.sum()
        presence = coalitions - proximity @ coalitions
        products = presence.T * proximity
        gram, along = products @ presence, products @ (scores.sampled - proximity @ scores.sampled)
        if self.penalty == "ridge":
            return np.linalg.solve(gram + self.strength * np.eye(len(gram)), along)
        return np.stack([solve_lasso(gram, column, self.strength) for column in along.T], 1)


def solve_lasso(
    gram: Float64[np.ndarray, "m m"], along: Float64[np.ndarray, "m"], strength: float
) -> Float64[np.ndarray, "m"]:
    """Minimize w G w / 2 - a w + strength sum |w| by coordinate descent.

    Args:
        gram: G, symmetric and positive semi-definite.
        along: a.
        strength: Of the penalty.
    """
    weights = np.zeros(len(along))
    for _ in range(MAX_SWEEPS):
        before = weights.copy()
        for n in np.flatnonzero(gram.diagonal() > 0):
            rest = along[n] - gram[n] @ weights + gram[n, n] * weights[n]
            weights[n] = np.sign(rest) * max(abs(rest) - strength, 0) / gram[n, n]
        if np.abs(weights - before).max() <= PRECISION * np.abs(weights).max():
            break
    return weights
