"""A new head on a frozen backbone: multinomial regression by SGD on pooled features from disk."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.engine import ranks
from pipeline.engine.images import SplitImages
from pipeline.engine.progress import show_progress
from pipeline.engine.store import Store
from pipeline.ops.schedule import lr_factor
from pipeline.stages.train import features
from pipeline.stages.train.average import Average
from pipeline.stages.train.context import Context
from pipeline.stages.train.log import Log
from pipeline.stages.train.recipe import (
    Trained,
    check_enough,
    epoch_record,
    optimizer,
    order_of,
    print_skipped,
    set_rate,
    waited_enough,
)
from pipeline.types import NetworkOutput

if TYPE_CHECKING:
    from jaxtyping import Int
    from torch import Tensor

    from pipeline.model.classifier import Classifier

AT_ONCE = 4096  # features that are judged in one go


def learn(
    context: Context, folder: Path, network: Classifier, store: Store, cache_key: Mapping[str, Any]
) -> Trained:
    """Train to the best epoch's head. All ranks make features, rank 0 alone learns on them.

    Args:
        context: images, objective, settings.
        folder: where the logs lie.
        network: its head is changed in place.
        store: where the features are kept.
        cache_key: all that can change the features, but the images.
    """
    import torch

    settings = context.settings
    features_of = partial(_pooled, context, network, store, cache_key)
    (learned, labels, skipped), (held, held_labels, held_skipped) = (
        features_of(images) for images in (context.images, context.held_back)
    )
    skipped = [*skipped, *held_skipped]
    check_enough(labels, network.classes)
    if ranks.current_world().rank > 0:
        return Trained([], skipped)
    # Where the features are: an accelerator has nothing to win on a matrix this small.
    head, objective = network.head.cpu(), context.objective
    generator = torch.Generator().manual_seed(settings.seed)
    with torch.no_grad():
        head.class_weights.normal_(0, 0.01, generator=generator)
        head.bias.zero_()
    optimizing = optimizer(head.parameters(), settings)
    average, log = Average(head, settings.ema), Log(context.loggers, context.name, folder, settings)
    # Without batch norm the gradients of some batches are those of one as large.
    size = settings.images_a_step
    per_epoch = -(-len(labels) // size)
    steps, warmup = settings.epochs * per_epoch, int(settings.warmup * per_epoch)
    history: list[dict[str, Any]] = []
    best, best_top1 = {k: v.clone() for k, v in head.state_dict().items()}, -1.0

    def answer(pooled: Tensor) -> NetworkOutput:
        return NetworkOutput(head(pooled[:, :, None, None]))

    def order(epoch: int) -> Int[np.ndarray, "n"]:
        if settings.balanced:
            return order_of(labels, settings, epoch)
        return torch.randperm(len(labels), generator=generator).numpy()

    with show_progress("train", steps, unit="steps") as advance:
        for epoch in range(settings.epochs):
            losses: list[float] = []
            places = order(epoch)
            for n, start in enumerate(range(0, len(places), size), epoch * per_epoch):
                batch = places[start : start + size]
                lr = settings.lr * lr_factor(n, steps, warmup)
                set_rate(optimizing, lr)
                loss, _ = objective(
                    answer, torch.from_numpy(learned[batch]), torch.from_numpy(labels[batch])
                )
                optimizing.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizing.step()
                average.update(n + 1)
                losses.append(float(loss.detach()))
                log.step(n + 1, losses[-1], lr)
                advance(1)
            with average.in_place(), torch.no_grad():
                top1 = _accuracy(answer, held, held_labels)
                history.append(epoch_record(epoch, losses, top1))
                if top1 >= best_top1:
                    best, best_top1 = {k: v.clone() for k, v in head.state_dict().items()}, top1
            log.epoch((epoch + 1) * per_epoch, history[-1])
            if waited_enough(history, settings.patience):
                break
    log.finish()
    head.load_state_dict(best)
    return Trained(history, skipped)


def _accuracy(answer: Any, rows: features.Rows, labels: Int[np.ndarray, "n"]) -> float:
    import torch

    right = 0
    for start in range(0, len(labels), AT_ONCE):
        places = np.arange(start, min(start + AT_ONCE, len(labels)))
        logits = answer(torch.from_numpy(rows[places])).logits
        right += int((logits.argmax(1).numpy() == labels[places]).sum())
    return right / len(labels) if len(labels) else 0.0


def _pooled(
    context: Context,
    network: Classifier,
    store: Store,
    cache_key: Mapping[str, Any],
    images: SplitImages,
) -> tuple[features.Rows, Int[np.ndarray, "n"], list[str]]:
    """Return mean_ij f_k(i, j) of every image, from shards that outlive a killed run, the labels,
    and why images were skipped."""
    where, _ = store.get_or_create(
        "features",
        {**cache_key, "data": images.fingerprint()},
        lambda folder: features.write_pooled(
            images, context.compute, folder, network, (context.mean, context.std)
        ),
        distributed=True,
    )
    rows, labels, skipped = features.read_pooled(where)
    print_skipped(skipped, images.split)
    return rows, labels, skipped
