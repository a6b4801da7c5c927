"""Options of stage train."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.engine.options import option


@dataclass
class TrainOptions:
    """How a network is trained; None: the recipe's default (stages/train/recipe.py)."""

    freeze: str = option(
        "auto",
        "auto | backbone | none | stages:N, the first N stages",
        pattern=r"auto|backbone|none|stages:[1-9][0-9]*",
        expected="choices: auto, backbone, none, stages:N (the first N stages, as stages:3)",
    )
    head: str = option("auto", "auto | own | new", choices=("auto", "own", "new"))
    epochs: int | None = option(None, "times that all images are learned from", low=0, high=100_000)
    batch: int | None = option(None, "images in a batch", low=1, high=1_000_000)
    optimizer: str | None = option(None, "sgd | adamw", choices=("sgd", "adamw"))
    lr: float | None = option(None, "the learning rate at its highest", low=1e-12, high=1000)
    weight_decay: float | None = option(None, "L2 penalty of the weights", low=0, high=1000)
    momentum: float = option(0.9, "of sgd", low=0, high=1)
    warmup: float | None = option(None, "epochs", low=0, high=100_000)
    crop: float | None = option(
        None, "the smallest part of the area that a random crop keeps; 1: none", low=0.01, high=1
    )
    flip: bool = option(True, "mirror half of the images")
    accumulate: int = option(1, "batches whose gradients make one step", low=1, high=100_000)
    ema: float | None = option(
        None,
        "judge and keep a moving average of the weights, as 0.999; null: no",
        low=0,
        high=0.9999999,
    )
    patience: int | None = option(
        None, "epochs to wait for a better one, then stop; null: to the end", low=1, high=100_000
    )
    balanced: bool = option(False, "draw every class equally often")
    loggers: list[str] = option(
        ["csv"],
        "csv | tensorboard | wandb",
        choices=("csv", "tensorboard", "wandb"),
        item="logger",
        distinct=True,
    )
