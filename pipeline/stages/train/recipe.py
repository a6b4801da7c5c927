"""Recipes of training: default settings, the optimizer, the order of images, early stopping.

An option that is None in the configuration has the recipe's default; recipes are described in
pipeline/stages/train/stage.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.engine import terminal
from pipeline.errors import UserError
from pipeline.ops.text import count_note
from pipeline.results.notes import reading_notes
from pipeline.stages.train.config import TrainOptions
from pipeline.stages.train.reading import Reading
from pipeline.types import Note

if TYPE_CHECKING:
    import torch
    from torch import Tensor

MIN_SHARE = 0.01  # of a class, where a new head begins
TOP1, MEAN_AP = "held_back_top1", "held_back_map"  # in the record of an epoch
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
    """The settings of a training, as conf/ documents them; none is open."""

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
        """Return the options of a run, with the recipe's defaults where they are None.

        Args:
            options: Of stage train.
            recipe: own, head, finetune or scratch.
            seed: Of the run.
        """
        given, defaults = asdict(options), RECIPES[recipe] or RECIPES["head"]
        resolved = {
            name: default if given[name] is None else given[name]
            for name, default in defaults.items()
        }
        same = ("momentum", "flip", "accumulate", "ema", "patience", "balanced")
        return cls(recipe=recipe, seed=seed, **resolved, **{name: given[name] for name in same})

    @property
    def images_a_step(self) -> int:
        """Images of an optimizer step: those of all its batches."""
        return self.batch * self.accumulate


def build_optimizer(parameters: Iterable[Tensor], settings: Settings) -> torch.optim.Optimizer:
    """Build the optimizer of the parameters that require gradients."""
    import torch

    learned = [parameter for parameter in parameters if parameter.requires_grad]
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(learned, settings.lr, weight_decay=settings.weight_decay)
    return torch.optim.SGD(learned, settings.lr, momentum=settings.momentum,
                           weight_decay=settings.weight_decay, nesterov=True)  # fmt: skip


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def draw_order(labels: np.ndarray, settings: Settings, epoch: int) -> np.ndarray:
    """Draw the order of an epoch's images, as indices of `labels`.

    Each image is drawn once. With balanced classes as many images are drawn, the counts of classes
    differ by 1 at most, as do the counts of the images of a class. An image of several classes is
    drawn for each of them; those of none are drawn as often as those of a class.

    Args:
        labels: The class of each image [n], or its classes [n, C].
        settings: `balanced` and the seed.
        epoch: Counted from 0.
    """
    random = np.random.default_rng((settings.seed, epoch))
    if not settings.balanced:
        return random.permutation(len(labels))
    if labels.ndim == 1:
        groups = [np.flatnonzero(labels == label) for label in list_present(labels)]
    else:
        groups = [np.flatnonzero(labels[:, label]) for label in list_present(labels)]
        groups += [np.flatnonzero(~labels.any(1))] if not labels.any(1).all() else []
    each = -(-len(labels) // len(groups))
    chosen = []
    for members in groups:
        times = -(-each // len(members))
        chosen.append(np.concatenate([random.permutation(members) for _ in range(times)])[:each])
    # Classes alternate before the end is dropped: each loses one image at most.
    drawn = np.stack(chosen, 1).reshape(-1)[: len(labels)]
    return random.permutation(drawn)


def list_present(labels: np.ndarray) -> np.ndarray:
    """Return the classes that images have.

    Args:
        labels: The class of each image [n], or its classes [n, C].
    """
    return np.unique(labels) if labels.ndim == 1 else np.flatnonzero(labels.any(0))


def build_epoch_record(
    epoch: int, losses: Sequence[float], score: float, name: str = TOP1
) -> dict[str, Any]:
    """Return the record of an epoch in history.json.

    Args:
        epoch: Counted from 0; the record counts from 1.
        losses: Of its steps.
        score: Of the classification of held-back images.
        name: TOP1, the accuracy, or MEAN_AP, the mean average precision.

    Raises:
        UserError: The loss is not finite.
    """
    loss = float(np.mean(losses)) if losses else float("nan")
    if not np.isfinite(loss):
        raise UserError(f"train: the loss is {loss} in epoch {epoch + 1}; try a smaller train.lr")
    return {"epoch": epoch + 1, "loss": round(loss, 5), name: round(score, 5)}


def read_score(record: Mapping[str, Any]) -> float:
    """Return how good the classification of held-back images is, as the record of an epoch says."""
    return float(record[TOP1 if TOP1 in record else MEAN_AP])


def is_out_of_patience(history: Sequence[dict[str, Any]], patience: int | None) -> bool:
    """Return whether none of the last `patience` epochs is better than the best before them."""
    if patience is None or not history:
        return False
    judged = [read_score(epoch) for epoch in history]
    return len(judged) - 1 - judged.index(max(judged)) >= patience


def set_prior(bias: Tensor, sets: np.ndarray) -> None:
    """Set the bias of a new head so that its probabilities begin as the shares of the classes.

    Args:
        bias: Of each class.
        sets: Which classes each training image has [n, C].
    """
    import torch

    shares = np.clip(sets.mean(0), MIN_SHARE, 1 - MIN_SHARE)
    with torch.no_grad():
        bias.copy_(torch.from_numpy(np.log(shares / (1 - shares))))


def check_trainable(labels: np.ndarray, classes: tuple[str, ...]) -> None:
    """Raise UserError unless there are images of two classes; warn of classes without images.

    A single class can be told from images of no class, where labels are sets.
    """
    if len(labels) == 0:
        raise UserError(
            "train: no image to learn from: train/ is missing or empty, or every image was "
            "skipped; without train/ only classes that the pretrained network knows by name work "
            "(classes.txt gives folders their names)"
        )
    has_background = labels.ndim == 2 and not labels.any(1).all()
    if len(classes) < 2 and not has_background:
        raise UserError(
            f"train: one class, {classes[0]!r}, and nothing to tell it from; expected "
            "train/<class>/<image> with at least two classes"
        )
    present = set(list_present(labels).tolist())
    missing = [name for n, name in enumerate(classes) if n not in present]
    if missing:
        why = f"of {len(classes)} have no image to learn from: never learned, nor predicted"
        terminal.print_line(count_note(missing, "class", why, where="train"))


def print_skipped(reasons: Sequence[str], split: str) -> None:
    """Print how many images cannot be read, before hours of training; the stage's note names them.

    Args:
        reasons: why, for each.
        split: the split that they are of.
    """
    if reasons:
        images = "image" if len(reasons) == 1 else "images"
        terminal.print_line(
            f"train: learning goes on without {len(reasons)} {images} of {split} that cannot be "
            "read; a note names them at the end"
        )


@dataclass(frozen=True)
class Trained:
    """The results of a training beside the weights.

    Attributes:
        history: A record of each epoch.
        train: What was unusual about the files of the training images.
        held_back: And about those of the held-back images.
        learns_grey: Whether training images that could not be read were grey images, and not left
            out.
    """

    history: list[dict[str, Any]]
    train: Reading = field(default_factory=Reading)
    held_back: Reading = field(default_factory=Reading)
    learns_grey: bool = False

    @property
    def skipped(self) -> list[str]:
        """Why images were not learned from."""
        return [*([] if self.learns_grey else self.train.reasons), *self.held_back.reasons]

    def describe_reading(self, train: Sequence[str], held_back: Sequence[str]) -> list[Note]:
        """Return notes on images that were read in part, not as the others, or not at all.

        Args:
            train: The ids of the training images.
            held_back: The ids of the held-back images.
        """
        both = ((train, self.train), (held_back, self.held_back))
        several = [ids[n] for ids, reading in both for n in sorted(reading.several)]
        own_range = [ids[n] for ids, reading in both for n in sorted(reading.own_range)]
        notes = reading_notes("train", len(train) + len(held_back), several, own_range)
        if self.learns_grey and (reasons := self.train.reasons):
            text = (
                f"train: {len(reasons)} of {len(train)} images could not be read, and the network "
                f"learned from a grey image for each; repair or remove them: {reasons[0]}"
            )
            notes.append(Note(text, reasons))
        return notes
