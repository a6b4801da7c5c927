"""Finer-CAM: Grad-CAM of what distinguishes a class from the classes with the nearest logits.

    s = sum_d p_d (s_c - strength s_d) / sum_d p_d        map = relu(sum_k mean_ij(d s / d A_k) A_k)

The classes d are the `compared` ones whose logits are nearest to s_c, p_d are their softmax
probabilities. Zhang et al., "Finer-CAM: Spotting the Difference Reveals Finer Details for Visual
Explanation", CVPR 2025. As in the authors' code, which pytorch-grad-cam has, the probabilities are
differentiated too; `strength: 0` is then Grad-CAM.

A class is never compared with itself; a network of n classes compares with at most n - 1. Of
classes with equal logits, which are undecided in the authors' code, the first ones are compared.

Maps of several layers are each divided by their largest magnitude, upsampled to the largest
resolution, and averaged (`fused.average_scaled`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipeline.errors import UserError
from pipeline.saliency.fused import RectifiedLayerMethod
from pipeline.saliency.gradcam import weight_by_mean_gradient
from pipeline.saliency.gradients import compute_gradients
from pipeline.saliency.option_checks import check_counts, check_not_negative

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@dataclass(frozen=True)
class FinerCAM(RectifiedLayerMethod):
    """Finer-CAM, on Grad-CAM, of one or several layers."""

    strength: float = 1.0  # of the comparison; 0 is Grad-CAM, the paper also uses 0.6
    compared: int = 3  # classes with the nearest logits

    def __post_init__(self) -> None:
        super().__post_init__()
        check_not_negative(strength=self.strength)
        check_counts(compared=self.compared)

    def compute_maps(
        self, features: Float[Tensor, "b K h w"], gradients: Float[Tensor, "b t K h w"]
    ) -> Float[Tensor, "b t h w"]:
        """Compute sum_k w_k A_k from the gradients of the compared score."""
        return weight_by_mean_gradient(features, gradients)

    def differentiate(
        self,
        logits: Float[Tensor, "b C"],
        classes: Int[Tensor, "b t"],
        features: Sequence[Float[Tensor, "b K h w"]],
    ) -> list[Tensor]:
        """Compute the gradients of the difference of each class to those it is compared with.

        Raises:
            UserError: If the score does not depend on one of the layers, or there is no other class
                to compare with.
        """
        scores = compare_logits(logits, classes, self.compared, self.strength)
        columns = torch.arange(classes.shape[1], device=classes.device).expand_as(classes)
        return compute_gradients(scores, columns, features)


def compare_logits(
    logits: Float[Tensor, "b C"], classes: Int[Tensor, "b t"], compared: int, strength: float
) -> Float[Tensor, "b t"]:
    """Compute the weighted difference of each class's logit to the nearest other logits.

    Args:
        logits: Class scores.
        classes: The classes to explain, for each image.
        compared: How many others each class is compared with, if there are so many.
        strength: Factor of the logits of the others.

    Raises:
        UserError: If there is a single class.
    """
    if logits.shape[1] < 2:
        raise UserError(
            "saliency=finercam compares a class with others, and the network has a single class; "
            "saliency=gradcam explains it alone"
        )
    logits = logits.float()
    target = logits.gather(1, classes)[..., None]  # [b, t, 1]
    distances = (logits[:, None] - target).detach().abs()
    distances = distances.scatter(2, classes[..., None], float("inf"))
    count = min(compared, logits.shape[1] - 1)
    nearest = distances.sort(dim=2, stable=True).indices[..., :count]
    others = logits[:, None].expand_as(distances).gather(2, nearest)
    # The softmax over the compared classes is that over all, divided by their sum.
    return (others.softmax(2) * (target - strength * others)).sum(2)
