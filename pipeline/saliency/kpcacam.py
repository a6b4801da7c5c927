"""KPCA-CAM: the features projected on their first kernel principal component.

    K_ij = kernel(a_i, a_j), centred in both directions, K u = lambda u        map = sqrt(lambda) u

a_i are the features at position i, less the mean of each channel; lambda is the largest eigenvalue.
Karmani et al., "KPCA-CAM: Visual Explainability of Deep Computer Vision Models Using Kernel PCA",
MMSP 2024. Kernels as in scikit-learn, which pytorch-grad-cam calls, with g = gamma, or 1/K where
none is given (K channels):

    sigmoid   tanh(g a_i . a_j + 1)        rbf   exp(-g |a_i - a_j|^2)        linear   a_i . a_j

`linear` is Eigen-CAM, centred. It needs neither class nor gradient: all classes of an image have
the same map. The sign of an eigenvector is arbitrary: it is chosen as in our Eigen-CAM;
scikit-learn's sign is another.

Each image takes the eigenvectors of a matrix with a row for each position, in float64: that is for
late layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from pipeline.errors import UserError
from pipeline.protocols import Network
from pipeline.saliency.eigencam import orient_along_mean
from pipeline.types import ClassSelector, Explanation

if TYPE_CHECKING:
    from jaxtyping import Float

MAX_POSITIONS = 4096  # a kernel matrix of 128 MiB


@dataclass(frozen=True)
class KPCACAM:
    """KPCA-CAM of a layer, without classes and gradients."""

    layer: str = "last"  # whose feature maps are decomposed; below, or by name
    kernel: Literal["sigmoid", "rbf", "linear"] = "sigmoid"
    gamma: float | None = None  # of the kernel; null: 1 / number of channels

    def __post_init__(self) -> None:
        if self.gamma is not None and self.gamma <= 0:
            raise UserError(f"saliency.gamma={self.gamma}: expected more than 0, or null")

    @torch.no_grad()
    def __call__(
        self, network: Network, images: Float[Tensor, "b 3 H W"], choose: ClassSelector
    ) -> Explanation:
        """Compute maps at the resolution of the layer, the same for all classes of an image.

        Raises:
            UserError: If the layer does not exist, or has more than MAX_POSITIONS positions.
        """
        answer = network(images, at=(self.layer,))
        classes = choose(answer.logits)
        features = answer.activations[self.layer]
        count = features.shape[2] * features.shape[3]
        if count > MAX_POSITIONS:
            raise UserError(
                f"saliency.layer={self.layer}: it has {count} positions, and kernel PCA compares "
                f"each with each, at most {MAX_POSITIONS}; saliency.layer=last has fewer, "
                "saliency=eigencam has no such limit"
            )
        with torch.autocast(images.device.type, enabled=False):
            maps = torch.stack([self._project(image) for image in features])
        expanded = maps[:, None].expand(-1, classes.shape[1], -1, -1)
        return Explanation(expanded, classes, answer.logits)

    def _project(self, features: Float[Tensor, "K h w"]) -> Float[Tensor, "h w"]:
        """Project the features of an image on their first kernel principal component."""
        # Apple's devices have neither float64 nor eigh.
        device = torch.device("cpu") if features.device.type == "mps" else features.device
        positions = features.flatten(1).T.to(device, torch.float64)
        kernel = self._compare(positions - positions.mean(0))
        centred = kernel - kernel.mean(0) - kernel.mean(1, keepdim=True) + kernel.mean()
        values, vectors = torch.linalg.eigh(centred)
        rounding = len(kernel) * torch.finfo(kernel.dtype).eps * kernel.abs().max()
        # Where nothing varies, what centring leaves is rounding: the map is 0.
        largest = values[-1].where(values[-1] > rounding, 0)
        projected = vectors[:, -1] * largest.sqrt()
        oriented = orient_along_mean(projected[None], positions[None])
        return oriented.to(features.device, torch.float32).view(features.shape[1:])

    def _compare(self, positions: Float[Tensor, "n K"]) -> Float[Tensor, "n n"]:
        gamma = 1 / positions.shape[1] if self.gamma is None else self.gamma
        products = positions @ positions.T
        if self.kernel == "linear":
            return products
        if self.kernel == "sigmoid":
            return (gamma * products + 1).tanh()
        squares = products.diagonal()
        distances = squares[:, None] + squares - 2 * products
        return (-gamma * distances.clamp(min=0)).exp()
