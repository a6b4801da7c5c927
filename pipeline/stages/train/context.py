"""What a training needs beside the network: images, objective, settings, device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.engine.compute import Compute
from pipeline.engine.images import SplitImages
from pipeline.protocols import Objective
from pipeline.stages.train.recipe import MEAN_AP, TOP1, Settings


@dataclass(frozen=True, kw_only=True)
class Context:
    """The arguments that both kinds of training share: of the whole network and of a head.

    Args:
        images: the training images.
        held_back: the images whose classification chooses the best epoch: its accuracy, or where
            images have sets of classes its mean average precision.
        objective: computes the loss.
        learns_sets: whether it learns the set of classes of an image, and not its only class.
        settings: the recipe's settings.
        compute: device, precision, threads.
        mean, std: of red, green and blue, on the scale of pixels from 0 to 1.
        loggers: names of loggers: csv, tensorboard, wandb.
        name: the run's name in the logs.
    """

    images: SplitImages
    held_back: SplitImages
    objective: Objective
    learns_sets: bool = False
    settings: Settings
    compute: Compute
    mean: Sequence[float]
    std: Sequence[float]
    loggers: Sequence[str]
    name: str

    @property
    def score_name(self) -> str:
        """What the score of an epoch is called in its record."""
        return MEAN_AP if self.learns_sets else TOP1
