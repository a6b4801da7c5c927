"""Eigen-CAM: what most of the features agree on, whatever the class.

    A = U S V^T with a row for each place, a column for each channel        map = A v_1

Muhammad and Yeasin, "Eigen-CAM: Class Activation Map using Principal Components", IJCNN 2020. It
asks for no class and no gradient: every class of an image has the same map.

`centred: true` takes each channel's mean away first, which makes v_1 the first principal component
over the places of the image; pytorch-grad-cam does so, the paper does not. A singular vector has no
sign: the map is turned so that it goes along with the mean of the features (their inner product is
not negative). From features that are never negative it is never negative then, unless centred.

v_1 comes from the smaller of A A^T and A^T A, in float64: places are fewer than channels at the
layers that matter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipeline.protocols import Network
from pipeline.types import ClassSelector, Explanation

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class EigenCAM:
    layer: str = "last"  # whose feature maps are taken apart; below, or by name
    centred: bool = False  # true: without each channel's mean (principal component)

    @torch.no_grad()
    def __call__(
        self, network: Network, images: Float[Tensor, "b 3 H W"], choose: ClassSelector
    ) -> Explanation:
        answer = network(images, at=(self.layer,))
        classes = choose(answer.logits)
        with torch.autocast(images.device.type, enabled=False):
            maps = first_component(answer.activations[self.layer], self.centred)
        every = maps[:, None].expand(-1, classes.shape[1], -1, -1)
        return Explanation(every, classes, answer.logits)


def first_component(features: Float[Tensor, "b K h w"], centred: bool) -> Float[Tensor, "b h w"]:
    # Apple's devices have neither float64 nor eigh.
    home = torch.device("cpu") if features.device.type == "mps" else features.device
    places = features.flatten(2).mT.to(home, torch.float64)  # [b, h*w, K]
    mean = places.mean(2)
    if centred:
        places = places - places.mean(1, keepdim=True)
    if places.shape[1] <= places.shape[2]:
        values, vectors = torch.linalg.eigh(places @ places.mT)
        found = vectors[..., -1] * values[..., -1:].clamp(min=0).sqrt()
    else:
        found = (places @ torch.linalg.eigh(places.mT @ places).eigenvectors[..., -1:])[..., 0]
    found = torch.where((found * mean).sum(1, keepdim=True) < 0, -found, found)
    return found.to(features.device, torch.float32).reshape(-1, *features.shape[2:])
