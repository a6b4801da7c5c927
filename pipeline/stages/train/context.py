"""What a training needs beside the network: images, objective, settings, device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.engine.compute import Compute
from pipeline.engine.images import SplitImages
from pipeline.protocols import Objective
from pipeline.stages.train.recipe import Settings


@dataclass(frozen=True, kw_only=True)
class Context:
    """The arguments that both kinds of training share: of the whole network and of a head.

    Args:
        images: the training images.
        held_back: the images whose classification accuracy chooses the best epoch.
        objective: computes the loss.
        settings: the recipe's settings.
        compute: device, precision, threads.
        mean, std: of red, green and blue, on the scale of pixels from 0 to 1.
        loggers: names of loggers: csv, tensorboard, wandb.
        name: the run's name in the logs.
    """

    images: SplitImages
    held_back: SplitImages
    objective: Objective
    settings: Settings
    compute: Compute
    mean: Sequence[float]
    std: Sequence[float]
    loggers: Sequence[str]
    name: str
