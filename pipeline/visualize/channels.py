"""View `channels`: images made by gradient ascent on the mean of a feature map.

    argmax_I  mean_ij A_k(I)[i, j] - lambda ||I||_2^2

Erhan, Bengio, Courville and Vincent, "Visualizing Higher-Layer Features of a Deep Network", 2009;
pipeline/visualize/ascent.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pipeline.types import ViewResult, ViewSubject
from pipeline.visualize.ascent_view import AscentView, Goal, Target
from pipeline.visualize.feature_maps import select_channels


@dataclass(frozen=True, kw_only=True)
class Channels(AscentView):
    """Make images with high activations of feature maps of a layer."""

    layer: str = "last"  # last | below | a path: whose feature maps
    channels: tuple[int, ...] = ()  # of them; empty: the strongest
    maps: int = 6  # how many of the strongest
    images: int = 256  # of the split, evenly chosen, that are searched for the strongest

    reads_maps: ClassVar[bool] = False

    @property
    def reads_data(self) -> bool:
        """Whether images are read: the strongest feature maps are those of the images."""
        return not self.channels

    def __call__(self, subject: ViewSubject) -> ViewResult:
        """Make an image for each feature map."""
        network, layer = subject.trained.network, self.layer
        channels = select_channels(subject, layer, self.channels, self.maps, self.images)

        def score_function(images: Tensor, which: Sequence[int]) -> tuple[Tensor, Tensor]:
            with torch.enable_grad():
                activations = network(images, at=("input", layer)).activations
                score = activations[layer].mean((2, 3))[torch.arange(len(which)), list(which)]
                (gradient,) = torch.autograd.grad(score.sum(), activations["input"])
            return score.detach(), gradient

        goal = Goal(
            view="channels",
            heading=f", layer {layer}: what excites it",
            quantity="mean activation",
            targets=[Target(number=n, title=f"feature map {n}", file=str(n)) for n in channels],
            score_function=score_function,
        )
        return self.ascend(subject, goal)
