"""Learning of the whole network, or of what is not frozen of it: the loop.

A step is one change of the weights, by `train.accumulate` batches. With several processes each
takes a part of every batch, batch norm stands on all of it, and the gradients are averaged: what
comes out is what one process would have learned, but for rounding and for what an objective draws.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.engine import checkpoint, ranks, terminal
from pipeline.engine.compute import Compute
from pipeline.engine.progress import show_progress
from pipeline.errors import UserError
from pipeline.formats.files import atomic_write
from pipeline.ops.schedule import lr_factor
from pipeline.stages.train.average import Average
from pipeline.stages.train.context import Context
from pipeline.stages.train.images import HeldBackImages, TrainingImages
from pipeline.stages.train.log import Log
from pipeline.stages.train.recipe import (
    Trained,
    check_enough,
    epoch_record,
    optimizer,
    set_rate,
    waited_enough,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from pipeline.model.classifier import Classifier
    from pipeline.protocols import Objective

STATE = "state.pt"
SAVE_SECONDS = 5.0  # of training at most are lost when a run is killed, or
SAVE_SHARE = 0.05  # of its time goes into saving where that takes long


def train(
    context: Context, folder: Path, network: Classifier, frozen: Sequence[str] = ()
) -> Trained:
    """Train to the best epoch's weights.

    Args:
        context: images, objective, settings.
        folder: where the state of a killed training lies, to go on from, and the logs.
        network: changed in place.
        frozen: parts of the body that stay as they are.
    """
    import torch

    settings, compute = context.settings, context.compute
    device, fabric = compute.device, _fabric(compute)
    images = TrainingImages(context.images, settings, compute.workers)
    held_back = HeldBackImages(context.held_back, compute)
    check_enough(images.labels, network.classes)
    network = _with_synced_batch_norm(network, device)
    kept = [network.body.get_submodule(name).requires_grad_(False) for name in frozen]
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    learner, optimizing = fabric.setup(
        _learner(network, context.objective), optimizer(network.parameters(), settings)
    )
    steps, warmup = settings.epochs * images.steps, int(settings.warmup * images.steps)
    average = Average(network, settings.ema)
    state = _State.resume(folder, network, optimizing, average)
    log = Log(context.loggers, context.name, folder, settings)
    due = time.monotonic() + SAVE_SECONDS

    def save() -> float:
        """Write the state; the time of the next."""
        began = time.monotonic()
        if ranks.current_world().rank == 0:
            state.save(folder, network, optimizing, average)
        now = time.monotonic()
        return now + max(SAVE_SECONDS, (now - began) / SAVE_SHARE)

    terminal.print_line(
        f"train: {settings.recipe}, {settings.epochs} epochs of {len(images)} images"
    )
    with show_progress("train", steps, state.step, unit="steps") as advance:
        while state.step < steps and not waited_enough(state.history, settings.patience):
            epoch, first = divmod(state.step, images.steps)
            network.train()
            for part in kept:
                part.eval()
            for parts in images.of_steps(epoch, first):
                # Whatever a step draws depends on the step alone, so a resumed one draws the same.
                torch.manual_seed(_seed_of(settings.seed, state.step))
                lr = settings.lr * lr_factor(state.step, steps, warmup)
                set_rate(optimizing, lr)
                optimizing.zero_grad(set_to_none=True)
                losses = []
                for n, own in enumerate(parts, 1):
                    inputs = checkpoint.to_tensor(own.images, context.mean, context.std, device)
                    labels = torch.as_tensor(own.labels, device=device)
                    with _together_at_last(fabric, learner, n == len(parts)):
                        loss = learner(inputs, labels) * own.share
                        fabric.backward(loss)
                    losses.append(loss.detach())
                optimizing.step()
                state.step += 1
                average.update(state.step)
                state.losses.append(_all_reduce_mean(torch.stack(losses).sum()))
                log.step(state.step, state.losses[-1], lr)
                advance(1)
                # Not where the epoch ends: there it is judged first, then saved.
                if time.monotonic() > due and state.step % images.steps:
                    due = save()
            with average.in_place():
                top1 = held_back.top1(network, context.mean, context.std)
                state.judge(epoch_record(epoch, state.losses, top1), top1, network)
            log.epoch(state.step, state.history[-1])
            due = save()
    log.finish()
    network.load_state_dict(state.best)
    if state.step < steps:
        terminal.print_line(
            f"train: stopped after {len(state.history)} of {settings.epochs} epochs: "
            f"{settings.patience} without a better one"
        )
    return Trained(state.history, images.skipped)


@dataclass
class _State:
    """What a killed training goes on from, to the same weights."""

    step: int
    history: list[dict[str, Any]]
    losses: list[float]
    best: dict[str, Tensor]
    best_top1: float

    def judge(self, record: dict[str, Any], top1: float, network: Any) -> None:
        """An epoch ended: it is the best where none before was better."""
        self.history.append(record)
        self.losses = []
        if top1 >= self.best_top1:
            self.best_top1 = top1
            self.best = {k: v.detach().clone() for k, v in network.state_dict().items()}

    @classmethod
    def resume(cls, folder: Path, network: Any, optimizing: Any, average: Average) -> _State:
        import torch

        path = folder / STATE
        if not ranks.broadcast_flag(path.is_file()):
            return cls(0, [], [], {}, -1.0)
        try:
            kept = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # pickle's, zip's and torch's own kinds
            raise UserError(
                f"{path}: not a training state that loads safely ({type(error).__name__}); "
                "delete it, and training begins anew"
            ) from None
        ranks.barrier()  # before rank 0 writes the next
        network.load_state_dict(kept.pop("network"))
        optimizing.load_state_dict(kept.pop("optimizer"))
        average.load(kept.pop("average"))
        terminal.print_line(f"train: going on from step {kept['step']}")
        return cls(**kept)

    def save(self, folder: Path, network: Any, optimizing: Any, average: Average) -> None:
        import torch

        with atomic_write(folder / STATE) as temporary:
            torch.save(
                {**self.__dict__, "network": network.state_dict(), "average": average.state,
                 "optimizer": optimizing.state_dict()}, temporary)  # fmt: skip


def _learner(network: Classifier, objective: Objective) -> torch.nn.Module:
    """From images and labels to the loss, in one forward pass: an objective may run any part of the
    network, in the run's precision, and every process knows what it ran."""
    import torch

    class Learner(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, images: Tensor, labels: Tensor) -> Tensor:
            loss, _ = objective(self.network, images, labels)
            return loss

    return Learner()


def _seed_of(seed: int, step: int) -> int:
    rank = ranks.current_world().rank
    parts = (seed, step, rank) if rank else (seed, step)  # each rank's images draw their own
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


# -- several processes ---------------------------------------------------------------------------


def _fabric(compute: Compute) -> Any:
    """Device, precision, and the processes that were started (pipeline/engine/ranks.py)."""
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments import TorchElasticEnvironment
    from lightning_fabric.strategies import DDPStrategy

    for name in ("lightning.fabric", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)  # it announces the precision
    device, world = compute.device, ranks.current_world()
    precision = "bf16-mixed" if compute.precision == "bf16" else "32-true"
    if world.size == 1:
        return Fabric(
            accelerator=device.type,
            devices=[device.index or 0] if device.type == "cuda" else 1,
            precision=precision,
        )
    ranks.barrier()  # which joins them, so that Fabric need not
    fabric = Fabric(
        accelerator=device.type,
        devices=world.local_size,
        num_nodes=world.size // world.local_size,
        strategy=DDPStrategy(cluster_environment=TorchElasticEnvironment()),
        precision=precision,
    )
    fabric.launch()
    return fabric


def _with_synced_batch_norm(network: Classifier, device: torch.device) -> Classifier:
    """The network, its batch norm over the images of all ranks."""
    if ranks.current_world().size == 1:
        return network
    from pipeline.model.synced_norm import synchronize_batch_norm

    return synchronize_batch_norm(network, device.type)


def _together_at_last(fabric: Any, learner: Any, last: bool) -> Any:
    """Gradients are averaged over the ranks once a step, by the last batch's backward pass."""
    return fabric.no_backward_sync(learner, enabled=not last and ranks.current_world().size > 1)


def _all_reduce_mean(loss: Tensor) -> float:
    """The mean over ranks, of which each has weighed its own by its share."""
    return ranks.all_reduce_sum([float(loss)])[0] / ranks.current_world().size
