"""What training learns by: a recipe's settings, its optimizer, its learning rate, its epochs.

A knob that the configuration leaves open (None) is the recipe's (pipeline/stages/train/stage.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.engine import terminal
from pipeline.errors import UserError
from pipeline.stages.train.config import TrainOptions

if TYPE_CHECKING:
    import torch
    from torch import Tensor

RECIPES: dict[str, dict[str, Any]] = {
    "own": {},
    "head": {"epochs": 30, "batch": 64, "optimizer": "sgd", "lr": 0.01, "weight_decay": 5e-4,
             "warmup": 1, "crop": 1.0},
    "finetune": {"epochs": 6, "batch": 32, "optimizer": "sgd", "lr": 0.003, "weight_decay": 1e-4,
                 "warmup": 1, "crop": 0.3},
    "scratch": {"epochs": 16, "batch": 64, "optimizer": "sgd", "lr": 0.1, "weight_decay": 5e-4,
                "warmup": 1, "crop": 0.6},
}  # fmt: skip


@dataclass(frozen=True)
class Settings:
    recipe: str
    epochs: int
    batch: int
    optimizer: str
    lr: float
    weight_decay: float
    momentum: float
    warmup: float
    crop: float
    flip: bool
    accumulate: int
    ema: float | None
    patience: int | None
    balanced: bool
    seed: int

    @classmethod
    def of(cls, options: TrainOptions, recipe: str, seed: int) -> Settings:
        """Return the options of a run, what they leave open as the recipe has it."""
        given, defaults = asdict(options), RECIPES[recipe] or RECIPES["head"]
        left_open = {
            name: default if given[name] is None else given[name]
            for name, default in defaults.items()
        }
        same = ("momentum", "flip", "accumulate", "ema", "patience", "balanced")
        return cls(recipe=recipe, seed=seed, **left_open, **{name: given[name] for name in same})

    @property
    def images_a_step(self) -> int:
        return self.batch * self.accumulate


def optimizer(parameters: Iterable[Tensor], settings: Settings) -> torch.optim.Optimizer:
    """Of the parameters that learn."""
    import torch

    learned = [one for one in parameters if one.requires_grad]
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(learned, settings.lr, weight_decay=settings.weight_decay)
    return torch.optim.SGD(learned, settings.lr, momentum=settings.momentum,
                           weight_decay=settings.weight_decay, nesterov=True)  # fmt: skip


def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr


def order_of(labels: np.ndarray, settings: Settings, epoch: int) -> np.ndarray:
    """The places of an epoch's images, in the order in which they are learned: every one once; or,
    balanced, as many, each class equally often but for one, a class's own in turn."""
    random = np.random.default_rng((settings.seed, epoch))
    if not settings.balanced:
        return random.permutation(len(labels))
    classes = np.unique(labels)
    each = -(-len(labels) // len(classes))
    chosen = []
    for label in classes:
        own = np.flatnonzero(labels == label)
        times = -(-each // len(own))
        chosen.append(np.concatenate([random.permutation(own) for _ in range(times)])[:each])
    # Cut where classes alternate: none loses more than one.
    drawn = np.stack(chosen, 1).reshape(-1)[: len(labels)]
    return random.permutation(drawn)


def epoch_record(epoch: int, losses: Sequence[float], top1: float) -> dict[str, Any]:
    loss = float(np.mean(losses)) if losses else float("nan")
    if not np.isfinite(loss):
        raise UserError(f"train: the loss is {loss} in epoch {epoch + 1}; try a smaller train.lr")
    return {"epoch": epoch + 1, "loss": round(loss, 5), "held_back_top1": round(top1, 5)}


def waited_enough(history: Sequence[dict[str, Any]], patience: int | None) -> bool:
    """Whether the last `patience` epochs classified held-back images no better than one before."""
    if patience is None or not history:
        return False
    judged = [epoch["held_back_top1"] for epoch in history]
    return len(judged) - 1 - judged.index(max(judged)) >= patience


def check_enough(labels: np.ndarray, classes: tuple[str, ...]) -> None:
    """Raises UserError where there is nothing to learn from."""
    if len(labels) == 0:
        raise UserError(
            "train: no image to learn from: train/ is missing or empty, or every image was set "
            "aside; without train/ only classes that the pretrained network knows by name work "
            "(classes.txt gives folders their names)"
        )
    if len(classes) < 2:
        raise UserError(
            f"train: one class, {classes[0]!r}, and nothing to tell it from; expected "
            "train/<class>/<image> with at least two classes"
        )
    missing = [name for n, name in enumerate(classes) if not (labels == n).any()]
    if missing:
        terminal.print_line(
            f"train: no image of {', '.join(missing[:5])}: such a class cannot be learned"
        )


def print_skipped(reasons: Sequence[str], split: str) -> None:
    """Name on the terminal what could not be learned from."""
    if reasons:
        shown = "".join(f"\n    {why}" for why in reasons[:5])
        more = f"\n    ... and {len(reasons) - 5} more" if len(reasons) > 5 else ""
        terminal.print_line(f"train: {len(reasons)} images of {split} were set aside:{shown}{more}")


@dataclass(frozen=True)
class Trained:
    """What a training leaves beside the weights: an epoch's record each, and skipped images."""

    history: list[dict[str, Any]]
    skipped: list[str]
