"""Deep feature factorization: the features as few concepts; a class has its concept's map.

    A = S C + offset,  S, C >= 0 (a row of A for each position)        r = argmax_r s_c(S_r C_r)
    map = S_r |C_r|

Collins, Achanta and Suesstrunk, "Deep Feature Factorization for Concept Discovery", ECCV 2018: a
non-negative factorization, of the features of each image by itself; S_r is where concept r is, and
C_r its channels. The paper gives maps of all concepts; here a class has the map of the concept
whose part of the features, put in their place, has the largest logit. |C_r| makes the map the
magnitude of the features that the concept explains, and does not change its shape.

Features of the paper are never negative. `offset` is 0 for these; where a channel goes below 0, as
behind SiLU or a LayerNorm, it is the least value of the channel in the image, which all parts keep
(pytorch-grad-cam subtracts the least value of each channel always).

Factors start from the singular vectors (NNDSVD, Boutsidis and Gallopoulos 2008), so that nothing is
drawn at random, and descend by hierarchical alternating least squares (Cichocki and Phan 2009).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipeline.errors import UserError
from pipeline.protocols import Network
from pipeline.saliency.fused import check_layer
from pipeline.saliency.option_checks import check_counts
from pipeline.types import ClassSelector, Explanation

if TYPE_CHECKING:
    from jaxtyping import Float, Float64


@dataclass(frozen=True)
class DeepFeatureFactorization:
    """Deep feature factorization of a layer, without gradients."""

    layer: str = "last"  # whose feature maps are factorized; below, or by name
    concepts: int = 4  # of each image
    iterations: int = 200  # of the factorization

    def __post_init__(self) -> None:
        check_layer(self.layer)
        check_counts(concepts=self.concepts, iterations=self.iterations)

    @torch.no_grad()
    def __call__(
        self, network: Network, images: Float[Tensor, "b 3 H W"], choose: ClassSelector
    ) -> Explanation:
        """Compute maps of the chosen classes at the resolution of the layer, never negative.

        Raises:
            UserError: If the layer does not exist, or has fewer channels or positions than there
                are concepts.
        """
        answer = network(images, at=(self.layer,))
        classes = choose(answer.logits)
        features = answer.activations[self.layer].float()
        self._check_shape(features)
        offset = features.amin((2, 3), keepdim=True).clamp(max=0)
        with torch.autocast(images.device.type, enabled=False):
            where, what = self.factorize(features - offset)
        maps = where * what.norm(dim=2)[..., None, None]
        chosen = []
        for n in range(len(images)):
            parts = offset[n] + where[n][:, None] * what[n][..., None, None]
            scores = network.behind(self.layer, parts, images[n : n + 1])
            chosen.append(maps[n, scores[:, classes[n]].argmax(0)])
        return Explanation(torch.stack(chosen), classes, answer.logits)

    def factorize(
        self, features: Float[Tensor, "b K h w"]
    ) -> tuple[Float[Tensor, "b r h w"], Float[Tensor, "b r K"]]:
        """Factorize the features of each image into concepts.

        Args:
            features: Never negative.

        Returns:
            S, where each concept is, and C, its channels.
        """
        # Apple's devices have neither float64 nor eigh.
        device = torch.device("cpu") if features.device.type == "mps" else features.device
        rows = features.flatten(2).mT.to(device, torch.float64)
        where, what = start_factors(rows, self.concepts)
        for _ in range(self.iterations):
            _descend(where, rows @ what.mT, what @ what.mT)
            columns = what.mT.contiguous()
            _descend(columns, rows.mT @ where, where.mT @ where)
            what = columns.mT
        grids = where.mT.reshape(len(rows), self.concepts, *features.shape[2:])
        return grids.to(features), what.to(features)

    def _check_shape(self, features: Float[Tensor, "b K h w"]) -> None:
        channels, positions = features.shape[1], features.shape[2] * features.shape[3]
        if self.concepts > min(channels, positions):
            raise UserError(
                f"saliency.concepts={self.concepts}: layer {self.layer} has {channels} channels at "
                f"{positions} positions, which make {min(channels, positions)} concepts at most"
            )


def start_factors(
    rows: Float64[Tensor, "b n K"], count: int
) -> tuple[Float64[Tensor, "b n r"], Float64[Tensor, "b r K"]]:
    """Return the factors S and C that NNDSVD starts from.

    The first are the first singular vectors; of each other pair the part with signs that carries
    more.

    Args:
        rows: A, never negative.
        count: Number of concepts.
    """
    left, values, right = torch.linalg.svd(rows, full_matrices=False)
    left, values, right = left[..., :count], values[:, :count], right[:, :count]
    # Both signs of a pair: [2, b, r, n or K].
    lefts = torch.stack([left, -left]).clamp(min=0).transpose(2, 3)
    rights = torch.stack([right, -right]).clamp(min=0)
    sizes = lefts.norm(dim=3) * rights.norm(dim=3)
    best = sizes.argmax(0)[None, ..., None]
    lefts, rights = (
        side.gather(0, best.expand(-1, -1, -1, side.shape[3]))[0] for side in (lefts, rights)
    )
    scale = (values * sizes.amax(0)).sqrt()[..., None]
    units = (side / side.norm(dim=2, keepdim=True).clamp(min=1e-300) for side in (lefts, rights))
    where, what = (scale * unit for unit in units)
    return where.mT.contiguous(), what


def _descend(
    factor: Float64[Tensor, "b n r"],
    along: Float64[Tensor, "b n r"],
    gram: Float64[Tensor, "b r r"],
) -> None:
    """Update the columns of a factor in place, each by its best value given the others."""
    for column in range(factor.shape[2]):
        square = gram[:, column, column, None]
        rest = along[..., column] - (factor @ gram[..., column, None])[..., 0]
        better = (factor[..., column] + rest / square.clamp(min=1e-300)).clamp(min=0)
        factor[..., column] = torch.where(square > 0, better, factor[..., column])
