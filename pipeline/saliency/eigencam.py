"""Eigen-CAM: the features projected on their first singular vector, whatever the class.

    A = U S V^T with a row for each position, a column for each channel        map = A v_1

Muhammad and Yeasin, "Eigen-CAM: Class Activation Map using Principal Components", IJCNN 2020. It
needs neither class nor gradient: all classes of an image have the same map.

`centred: true` subtracts the mean of each channel first, which makes v_1 the first principal
component over the positions of the image; pytorch-grad-cam does so, the paper does not. The sign of
a singular vector is arbitrary: here the inner product of the map with the mean of the features is
not negative. The map of features that are never negative is then never negative, unless centred.

v_1 comes from the smaller of A A^T and A^T A, in float64: late layers have fewer positions than
channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipeline.protocols import Network
from pipeline.saliency.fused import check_layer
from pipeline.types import ClassSelector, Explanation

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class EigenCAM:
    """Eigen-CAM of a layer, without classes and gradients."""

    layer: str = "last"  # whose feature maps are decomposed; below, or by name
    centred: bool = False  # true: without each channel's mean (principal component)

    def __post_init__(self) -> None:
        check_layer(self.layer)

    @torch.no_grad()
    def __call__(
        self, network: Network, images: Float[Tensor, "b 3 H W"], choose: ClassSelector
    ) -> Explanation:
        """Compute maps at the resolution of the layer, the same for all classes of an image.

        Raises:
            UserError: If the layer does not exist.
        """
        answer = network(images, at=(self.layer,))
        classes = choose(answer.logits)
        with torch.autocast(images.device.type, enabled=False):
            maps = project_on_first_vector(answer.activations[self.layer], self.centred)
        expanded = maps[:, None].expand(-1, classes.shape[1], -1, -1)
        return Explanation(expanded, classes, answer.logits)


def project_on_first_vector(
    features: Float[Tensor, "b K h w"], centred: bool
) -> Float[Tensor, "b h w"]:
    """Project the features of each image on their first right singular vector.

    Args:
        features: Feature maps.
        centred: Whether the mean of each channel is subtracted first.

    Returns:
        A v_1 for each image, in float32, signed so that its inner product with the mean of the
        features is not negative.
    """
    # Apple's devices have neither float64 nor eigh.
    device = torch.device("cpu") if features.device.type == "mps" else features.device
    positions = features.flatten(2).mT.to(device, torch.float64)  # [b, h*w, K]
    mean = positions.mean(2)
    if centred:
        positions = positions - positions.mean(1, keepdim=True)
    if positions.shape[1] <= positions.shape[2]:
        values, vectors = torch.linalg.eigh(positions @ positions.mT)
        projected = vectors[..., -1] * values[..., -1:].clamp(min=0).sqrt()
    else:
        vectors = torch.linalg.eigh(positions.mT @ positions).eigenvectors
        projected = (positions @ vectors[..., -1:])[..., 0]
    negative = (projected * mean).sum(1, keepdim=True) < 0
    projected = torch.where(negative, -projected, projected)
    return projected.to(features.device, torch.float32).reshape(-1, *features.shape[2:])
