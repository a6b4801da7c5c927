"""A head that classifies by first and second order statistics of features on the foreground.

    y_ij = A^T f_ij,  f the last layer of stride 16             m  the foreground, from 0 to 1
    B    = sum_ij m_ij y_ij y_ij^T / sum_ij m_ij
    d    = [mean_ij g_ij, sign(B) sqrt|B|],  g the layer `last`
    s_c  = w_c . (d - mean) / std + b_c

How often two features occur at the same position separates classes that differ in pattern and
colour, as birds do, where the means of the features do not: Carreira et al., "Semantic Segmentation
with Second-Order Pooling", ECCV 2012; Lin et al., "Bilinear CNN Models for Fine-grained Visual
Recognition", ICCV 2015 (the signed square root). A are the principal axes of f, whitened, so that B
is small. The background has no weight in B.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from pipeline.types import Size

MAX_AXES = 48  # columns of A


class SecondOrderHead(nn.Module):
    """A branch that classifies by the foreground; see `Classifier.branches`.

    Args:
        reads: names of `last`, of a layer below it, and of the branch `foreground`.
        last: channels of `last`.
        channels: channels of the layer below it.
        classes: number of classes.

    Attributes:
        node: the arguments, as a checkpoint stores them to build the head again.
    """

    def __init__(self, reads: tuple[str, str, str], last: int, channels: int, classes: int) -> None:
        super().__init__()
        self.reads = tuple(reads)
        self.node: dict[str, Any] = {
            "_target_": f"{__name__}.SecondOrderHead",
            "reads": list(reads),
            "last": last,
            "channels": channels,
            "classes": classes,
        }
        axes = min(MAX_AXES, channels)
        size = last + axes * (axes + 1) // 2
        self.linear = nn.Linear(size, classes)
        self.register_buffer("axes", torch.zeros(channels, axes))
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))

    @torch.no_grad()
    def fit_axes(self, features: Float[Tensor, "n L h w"]) -> None:
        """Fit the axes A to features of some images: principal components of unit variance.

        Args:
            features: of the layer below `last`.
        """
        rows = features.double().permute(0, 2, 3, 1).flatten(0, 2)
        rows = rows - rows.mean(0)
        variance, axes = torch.linalg.eigh(rows.T @ rows / max(1, len(rows) - 1))
        count = self.get_buffer("axes").shape[1]
        variance, axes = variance.flip(0)[:count], axes.flip(1)[:, :count]
        # Without a lower bound, axes of little variance would amplify noise.
        scale = variance.clamp(min=1e-4 * float(variance[0]) + 1e-12).sqrt()
        self.get_buffer("axes").copy_((axes / scale).float())

    def describe(
        self,
        last: Float[Tensor, "b K h w"],
        below: Float[Tensor, "b L h w"],
        foreground: Float[Tensor, "b 1 h w"],
    ) -> Float[Tensor, "b D"]:
        """Compute d in float32, from the activations of the three layers of `reads`."""
        with torch.autocast(last.device.type, enabled=False):
            last, below, foreground = last.float(), below.float(), foreground.float()
            projected = torch.einsum("blhw,la->bahw", below, self.get_buffer("axes"))
            weight = _shrink(foreground, (int(projected.shape[2]), int(projected.shape[3])))
            both = torch.einsum("bihw,bjhw->bij", projected * weight, projected)
            both = both / (weight.sum((2, 3))[:, :, None] + 1e-3)
            pairs = both.flatten(1)[:, _list_pairs(int(both.shape[1])).to(both.device)]
            return torch.cat((last.mean((2, 3)), pairs.sign() * pairs.abs().sqrt()), 1)

    def standardize(self, descriptors: Float[Tensor, "b D"]) -> Float[Tensor, "b D"]:
        """Standardize each number of d, and weight means and pairs equally in total."""
        first = int(self.node["last"])
        weights = torch.full_like(self.get_buffer("mean"), (descriptors.shape[1] - first) ** -0.5)
        weights[:first] = first**-0.5
        return (descriptors - self.get_buffer("mean")) / self.get_buffer("std") * weights

    def fit(
        self, descriptors: Float[Tensor, "n D"], labels: Int[Tensor, "n"], decay: float, steps: int
    ) -> None:
        """Fit a multinomial regression: min mean CE(s, label) + decay ||w||^2, by L-BFGS.

        Args:
            descriptors: d of each image.
            labels: the class of each image.
            decay: weight of the squared norm of the weights.
            steps: the largest number of iterations.
        """
        with torch.no_grad():
            self.get_buffer("mean").copy_(descriptors.mean(0))
            self.get_buffer("std").copy_(descriptors.std(0) + 1e-4)
            self.linear.weight.zero_()
            self.linear.bias.zero_()
            rows = self.standardize(descriptors)
        weights: Sequence[Tensor] = [self.linear.weight, self.linear.bias]
        optimizer = torch.optim.LBFGS(weights, max_iter=steps, line_search_fn="strong_wolfe")

        def compute_loss() -> Tensor:
            optimizer.zero_grad()
            loss = F.cross_entropy(self.linear(rows), labels)
            loss = loss + decay * self.linear.weight.square().sum()
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        optimizer.step(compute_loss)  # type: ignore[no-untyped-call]

    def classify(self, descriptors: Float[Tensor, "b D"]) -> Float[Tensor, "b C"]:
        """Compute logits from d, in float32."""
        with torch.autocast(descriptors.device.type, enabled=False):
            logits: Tensor = self.linear(self.standardize(descriptors))
            return logits

    def forward(self, last: Tensor, below: Tensor, foreground: Tensor) -> Float[Tensor, "b C"]:
        """Compute logits from the activations of the three layers of `reads`."""
        return self.classify(self.describe(last, below, foreground))


def _list_pairs(count: int) -> Int[Tensor, "n"]:
    """Return the places of the upper triangle of a square matrix, its rows one after the other."""
    row, column = np.triu_indices(count)
    return torch.from_numpy(row * count + column)


def _shrink(maps: Float[Tensor, "b 1 H W"], size: Size) -> Float[Tensor, "b 1 h w"]:
    """Return the means of maps over the areas of smaller ones; numbers alone fit a file of ONNX."""
    rows, columns = int(maps.shape[2]), int(maps.shape[3])
    if rows % size[0] or columns % size[1]:
        return F.interpolate(maps, size, mode="area")
    return F.avg_pool2d(maps, (rows // size[0], columns // size[1]))
