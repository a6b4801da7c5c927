"""Train a new head on a frozen backbone: multinomial regression by SGD on pooled features."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.engine import ranks, terminal
from pipeline.engine.images import SplitImages
from pipeline.engine.progress import show_progress
from pipeline.engine.saved_state import SavedState
from pipeline.engine.store import Store
from pipeline.ops.average_precision import mean_average_precision
from pipeline.ops.schedule import lr_factor
from pipeline.stages.train import features
from pipeline.stages.train.average import Average
from pipeline.stages.train.context import Context
from pipeline.stages.train.log import Log
from pipeline.stages.train.reading import Reading
from pipeline.stages.train.recipe import (
    Trained,
    build_epoch_record,
    build_optimizer,
    check_trainable,
    draw_order,
    is_out_of_patience,
    print_skipped,
    set_learning_rate,
    set_prior,
)
from pipeline.types import NetworkOutput

if TYPE_CHECKING:
    import torch
    from jaxtyping import Bool, Int
    from torch import Tensor

    from pipeline.model.classifier import Classifier

STATE = "state.pt"
MAX_BATCH = 4096  # features that are classified at once


def learn(
    context: Context, folder: Path, network: Classifier, store: Store, cache_key: Mapping[str, Any]
) -> Trained:
    """Train a new head, and load the weights of the best epoch.

    All ranks compute features, rank 0 trains on them.

    Args:
        context: images, objective, settings.
        folder: where logs and the state of a killed training are written.
        network: its head is changed in place.
        store: where the features are kept.
        cache_key: everything that can change the features, but the images.

    Raises:
        UserError: There is nothing to learn from, or the loss is not finite.
    """
    settings = context.settings
    load = partial(_load_pooled, context, network, store, cache_key)
    train, held_back = load(context.images), load(context.held_back)
    check_trainable(train.labels, network.classes)
    if ranks.current_world().rank > 0:
        return Trained([])
    # On the CPU, where the features are: an accelerator does not pay for a matrix this small.
    head = network.head.cpu()
    training = _HeadTraining(context=context, head=head, train=train, held_back=held_back)
    log = Log(context.loggers, context.name, folder, settings)
    history = training.run(log, SavedState(folder / STATE))
    return Trained(history, train.reading, held_back.reading)


@dataclass(frozen=True)
class _Pooled:
    """The pooled features of a split, their labels, and what was unusual about its files."""

    rows: features.Rows
    labels: np.ndarray  # the class of each image [n], or its classes [n, C]
    reading: Reading


@dataclass(frozen=True, kw_only=True)
class _HeadTraining:
    """Trains a head on pooled features."""

    context: Context
    head: Any  # a module from feature maps [b, K, 1, 1] to logits
    train: _Pooled
    held_back: _Pooled

    def run(self, log: Log, saved: SavedState) -> list[dict[str, Any]]:
        """Train from random weights, load those of the best epoch, return the epochs' records.

        Args:
            log: of steps and epochs.
            saved: the state that a killed training resumes from, written after epochs.
        """
        import torch

        settings, head = self.context.settings, self.head
        generator = torch.Generator().manual_seed(settings.seed)
        with torch.no_grad():
            head.class_weights.normal_(0, 0.01, generator=generator)
            head.bias.zero_()
            if self.context.learns_sets:
                set_prior(head.bias, self.train.labels)
        optimizer = build_optimizer(head.parameters(), settings)
        average = Average(head, settings.ema)
        state = _State([], _copy_state(head), -1.0)
        if saved.exists:
            state = _State.resume(saved, head, optimizer, average, generator)
        steps, history = self._steps_per_epoch, state.history
        done = len(history) * steps
        with show_progress("train", settings.epochs * steps, done, unit="steps") as advance:
            for epoch in range(len(history), settings.epochs):
                if is_out_of_patience(history, settings.patience):
                    break
                losses: list[float] = []
                order = self._draw_order(epoch, generator)
                for step, start in enumerate(range(0, len(order), self._batch_size), epoch * steps):
                    batch = order[start : start + self._batch_size]
                    lr = settings.lr * lr_factor(step, settings.epochs * steps, self._warmup)
                    set_learning_rate(optimizer, lr)
                    losses.append(self._take_step(batch, optimizer))
                    average.update(step + 1)
                    log.step(step + 1, losses[-1], lr)
                    advance(1)
                with average.swapped_in(), torch.no_grad():
                    score = self._judge()
                    state.end_epoch(
                        build_epoch_record(epoch, losses, score, self.context.score_name),
                        score,
                        head,
                    )
                log.epoch((epoch + 1) * steps, history[-1])
                if saved.is_due:
                    saved.save(state.with_weights(head, optimizer, average, generator))
        log.finish()
        head.load_state_dict(state.best)
        return history

    def _judge(self) -> float:
        """Return how well held-back images are classified; 0 without images."""
        judge = _mean_ap if self.context.learns_sets else _accuracy
        return judge(self._classify, self.held_back.rows, self.held_back.labels)

    @property
    def _batch_size(self) -> int:
        # Without batch norm the gradients of several batches are those of a batch of all images.
        return self.context.settings.images_a_step

    @property
    def _steps_per_epoch(self) -> int:
        return -(-len(self.train.labels) // self._batch_size)

    @property
    def _warmup(self) -> int:
        return int(self.context.settings.warmup * self._steps_per_epoch)

    def _draw_order(self, epoch: int, generator: torch.Generator) -> Int[np.ndarray, "n"]:
        """Draw the order of an epoch's images."""
        import torch

        settings, labels = self.context.settings, self.train.labels
        if settings.balanced:
            return draw_order(labels, settings, epoch)
        return torch.randperm(len(labels), generator=generator).numpy()

    def _take_step(self, batch: Int[np.ndarray, "b"], optimizer: torch.optim.Optimizer) -> float:
        """Change the weights by the gradients of a batch; return the loss."""
        import torch

        pooled = torch.from_numpy(self.train.rows[batch])
        labels = torch.from_numpy(self.train.labels[batch])
        loss, _ = self.context.objective(self._classify, pooled, labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return float(loss.detach())

    def _classify(self, pooled: Tensor) -> NetworkOutput:
        """Compute the logits of pooled features [b, K]."""
        return NetworkOutput(self.head(pooled[:, :, None, None]))


@dataclass
class _State:
    """The records of the epochs so far, and the best weights."""

    history: list[dict[str, Any]]
    best: dict[str, Tensor]
    best_top1: float

    def end_epoch(self, record: dict[str, Any], top1: float, head: Any) -> None:
        """Record an epoch, and keep its weights unless an earlier epoch is better."""
        self.history.append(record)
        if top1 >= self.best_top1:
            self.best, self.best_top1 = _copy_state(head), top1

    @classmethod
    def resume(
        cls, saved: SavedState, head: Any, optimizer: Any, average: Average, generator: Any
    ) -> _State:
        """Load the state of a killed training into what trains.

        Raises:
            UserError: The file cannot be loaded safely.
        """
        state = saved.load()
        head.load_state_dict(state.pop("head"))
        optimizer.load_state_dict(state.pop("optimizer"))
        average.load(state.pop("average"))
        generator.set_state(state.pop("generator"))
        terminal.print_line(f"train: going on from epoch {len(state['history']) + 1}")
        return cls(**state)

    def with_weights(
        self, head: Any, optimizer: Any, average: Average, generator: Any
    ) -> dict[str, Any]:
        """Return the state with those of what trains."""
        return {
            **self.__dict__,
            "head": head.state_dict(),
            "optimizer": optimizer.state_dict(),
            "average": average.state,
            "generator": generator.get_state(),
        }


def _copy_state(head: Any) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in head.state_dict().items()}


def _accuracy(
    classify: Callable[[Tensor], NetworkOutput],
    rows: features.Rows,
    labels: Int[np.ndarray, "n"],
) -> float:
    """Return the classification accuracy from 0 to 1; 0 without images."""
    import torch

    right = 0
    for start in range(0, len(labels), MAX_BATCH):
        places = np.arange(start, min(start + MAX_BATCH, len(labels)))
        logits = classify(torch.from_numpy(rows[places])).logits
        right += int((logits.argmax(1).numpy() == labels[places]).sum())
    return right / len(labels) if len(labels) else 0.0


def _mean_ap(
    classify: Callable[[Tensor], NetworkOutput],
    rows: features.Rows,
    labels: Bool[np.ndarray, "n C"],
) -> float:
    """Return the mean average precision from 0 to 1; 0 without images."""
    import torch

    scores = [np.zeros((0, labels.shape[1]), np.float32)]
    for start in range(0, len(labels), MAX_BATCH):
        places = np.arange(start, min(start + MAX_BATCH, len(labels)))
        scores.append(classify(torch.from_numpy(rows[places])).logits.float().numpy())
    return mean_average_precision(np.concatenate(scores), labels)


def _load_pooled(
    context: Context,
    network: Classifier,
    store: Store,
    cache_key: Mapping[str, Any],
    images: SplitImages,
) -> _Pooled:
    """Return the pooled features of a split, computed now unless they are in the store."""
    folder, _ = store.get_or_create(
        "features",
        {**cache_key, "data": images.fingerprint()},
        lambda folder: features.write_pooled(
            images, context.compute, folder, network, (context.mean, context.std)
        ),
        distributed=True,
    )
    rows, labels, positions, reading = features.read_positioned(folder)
    if context.learns_sets:
        labels = images.label_sets[positions]
    print_skipped(reading.reasons, images.split)
    return _Pooled(rows, labels, reading)
