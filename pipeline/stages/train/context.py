"""What a training needs beside the network: images, an objective, settings, and how to compute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.engine.compute import Compute
from pipeline.engine.images import SplitImages
from pipeline.protocols import Objective
from pipeline.stages.train.recipe import Settings


@dataclass(frozen=True, kw_only=True)
class Context:
    """All that both ways of training, the loop and the head alone, are given.

    Args:
        images: what is learned from.
        held_back: what judges an epoch, by classification accuracy.
        objective: what the network is trained to do.
        settings: the recipe's settings.
        compute: device, precision, threads.
        mean, std: of red, green and blue from 0 to 1, as the network takes images.
        loggers: who watches: csv, tensorboard, wandb.
        name: what a logger calls the run.
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
