"""The training loop of the whole network, or of the parts that are not frozen.

A step is one change of the weights, by `train.accumulate` batches. With several processes each
computes a part of each batch, batch norm normalizes over all parts, and the gradients are averaged:
the weights are those of a single process, but for rounding and for random draws of an objective.
On a CPU a single process computes the parts of a batch in threads (pipeline/model/batch_parts.py).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.engine import checkpoint, ranks, terminal
from pipeline.engine.compute import Compute
from pipeline.engine.progress import show_progress
from pipeline.engine.saved_state import SavedState
from pipeline.engine.shards import single_threaded_torch
from pipeline.ops.schedule import lr_factor
from pipeline.stages.train.average import Average
from pipeline.stages.train.context import Context
from pipeline.stages.train.images import HeldBackImages, Part, TrainingImages
from pipeline.stages.train.log import Log
from pipeline.stages.train.recipe import (
    Trained,
    build_epoch_record,
    build_optimizer,
    check_trainable,
    is_out_of_patience,
    set_learning_rate,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from pipeline.model.batch_parts import SplitNetwork
    from pipeline.model.classifier import Classifier
    from pipeline.protocols import Objective

STATE = "state.pt"
TRIAL_IMAGES = 4  # of noise, which tell whether batches can be split


def train(
    context: Context, folder: Path, network: Classifier, frozen: Sequence[str] = ()
) -> Trained:
    """Train a network, and load the weights of the best epoch.

    Args:
        context: images, objective, settings.
        folder: where logs and the state of a killed training are written.
        network: changed in place.
        frozen: names of the body's modules that are not trained.

    Raises:
        UserError: There is nothing to learn from, the loss is not finite, or the state of a killed
            training cannot be read.
    """
    training = prepare(context, folder, network, frozen)
    images, settings = training.images, context.settings
    terminal.print_line(
        f"train: {settings.recipe}, {settings.epochs} epochs of {len(images)} images"
    )
    with training.threads():
        training.run()
    return Trained(
        history=training.state.history,
        train=images.reading.gather(),
        held_back=training.held_back.reading.gather(),
        learns_grey=images.learns_grey,
    )


def prepare(
    context: Context, folder: Path, network: Classifier, frozen: Sequence[str] = ()
) -> Training:
    """Read the images, and build what a training runs with; arguments and errors as of `train`.

    Returns:
        The training, which begins where one that was killed ended.
    """
    import torch

    settings, compute = context.settings, context.compute
    device, fabric = compute.device, _build_fabric(compute)
    images = TrainingImages(context.images, settings, compute.workers, context.learns_sets)
    check_trainable(images.labels, network.classes)
    network = _sync_batch_norm(network, device)
    fixed = [network.body.get_submodule(name).requires_grad_(False) for name in frozen]
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    split = _split_batches(context, network, fixed, images)
    learner, optimizer = fabric.setup(
        _build_learner(network, context.objective, split),
        build_optimizer(network.parameters(), settings),
    )
    average = Average(network, settings.ema)
    saved = SavedState(folder / STATE)
    return Training(
        context=context,
        network=network,
        frozen=fixed,
        images=images,
        held_back=HeldBackImages(context.held_back, compute),
        fabric=fabric,
        learner=learner,
        split=split,
        optimizer=optimizer,
        average=average,
        state=_State.resume(saved, network, optimizer, average),
        saved=saved,
        log=Log(context.loggers, context.name, folder, settings),
    )


@dataclass(kw_only=True)
class Training:
    """A training that runs: what it trains with, its state, and where the state is saved."""

    context: Context
    network: Classifier
    frozen: Sequence[torch.nn.Module]
    images: TrainingImages
    held_back: HeldBackImages
    fabric: Any
    learner: Any
    split: SplitNetwork | None
    optimizer: Any
    average: Average
    state: _State
    saved: SavedState
    log: Log

    @property
    def steps(self) -> int:
        """Steps of all epochs."""
        return self.context.settings.epochs * self.images.steps

    @contextmanager
    def threads(self) -> Iterator[None]:
        """Let each thread compute with a single thread of torch, where batches are split."""
        if self.split is None:
            yield
            return
        with self.split, single_threaded_torch():
            yield

    def run(self) -> None:
        """Train epoch by epoch, and load the best weights."""
        settings, state, steps = self.context.settings, self.state, self.steps
        with show_progress("train", steps, state.step, unit="steps") as advance:
            while state.step < steps and not is_out_of_patience(state.history, settings.patience):
                self._run_epoch(advance)
        self.log.finish()
        self.network.load_state_dict(state.best)
        if state.step < steps:
            terminal.print_line(
                f"train: stopped after {len(state.history)} of {settings.epochs} epochs: "
                f"{settings.patience} without a better one"
            )

    def _run_epoch(self, advance: Callable[[int], None]) -> None:
        """Train the rest of an epoch, evaluate it, and save the state."""
        context, state, images = self.context, self.state, self.images
        epoch, first = divmod(state.step, images.steps)
        _set_training_mode(self.network, self.frozen)
        for parts in images.iterate_steps(epoch, first):
            self.take_step(parts)
            advance(1)
            # Not at the end of an epoch: it is evaluated first, then saved.
            if self.saved.is_due and state.step % images.steps:
                self._save()
        with self.average.swapped_in():
            judge = self.held_back.mean_ap if context.learns_sets else self.held_back.top1
            score = judge(self.network, context.mean, context.std)
            record = build_epoch_record(epoch, state.losses, score, context.score_name)
            state.end_epoch(record, score, self.network)
        self.log.epoch(state.step, state.history[-1])
        self._save()

    def take_step(self, parts: Sequence[Part]) -> None:
        """Change the weights by the gradients of some batches.

        Args:
            parts: this rank's part of each batch.
        """
        import torch

        context, state, settings = self.context, self.state, self.context.settings
        device = context.compute.device
        # What a step draws depends on the step alone, so a resumed training draws the same.
        torch.manual_seed(_derive_seed(settings.seed, state.step))
        warmup = int(settings.warmup * self.images.steps)
        lr = settings.lr * lr_factor(state.step, self.steps, warmup)
        set_learning_rate(self.optimizer, lr)
        self.optimizer.zero_grad(set_to_none=True)
        losses = []
        for n, part in enumerate(parts, 1):
            inputs = checkpoint.to_tensor(part.images, context.mean, context.std, device)
            labels = torch.as_tensor(part.labels, device=device)
            with _sync_gradients(self.fabric, self.learner, n == len(parts)):
                loss = self.learner(inputs, labels) * part.share
                self.fabric.backward(loss)
            losses.append(loss.detach())
        self.optimizer.step()
        state.step += 1
        self.average.update(state.step)
        state.losses.append(_all_reduce_mean(torch.stack(losses).sum()))
        self.log.step(state.step, state.losses[-1], lr)

    def _save(self) -> None:
        """Write the state on rank 0."""
        state = self.state.with_weights(self.network, self.optimizer, self.average)
        self.saved.save(state, is_writer=ranks.current_world().rank == 0)


@dataclass
class _State:
    """The state that a killed training resumes from, to the same weights."""

    step: int
    history: list[dict[str, Any]]
    losses: list[float]
    best: dict[str, Tensor]
    best_top1: float

    def end_epoch(self, record: dict[str, Any], top1: float, network: Any) -> None:
        """Record an epoch, and keep its weights unless an earlier epoch is better."""
        self.history.append(record)
        self.losses = []
        if top1 >= self.best_top1:
            self.best_top1 = top1
            self.best = {k: v.detach().clone() for k, v in network.state_dict().items()}

    @classmethod
    def resume(cls, saved: SavedState, network: Any, optimizer: Any, average: Average) -> _State:
        """Load the state of a killed training into network, optimizer and average, if there is one.

        Raises:
            UserError: The file cannot be loaded safely.
        """
        if not ranks.broadcast_flag(saved.exists):
            return cls(0, [], [], {}, -1.0)
        state = saved.load()
        ranks.barrier()  # before rank 0 writes the next state
        network.load_state_dict(state.pop("network"))
        optimizer.load_state_dict(state.pop("optimizer"))
        average.load(state.pop("average"))
        terminal.print_line(f"train: going on from step {state['step']}")
        return cls(**state)

    def with_weights(self, network: Any, optimizer: Any, average: Average) -> dict[str, Any]:
        """Return the state with those of network, optimizer and average."""
        return {
            **self.__dict__,
            "network": network.state_dict(),
            "average": average.state,
            "optimizer": optimizer.state_dict(),
        }


def _set_training_mode(network: Classifier, frozen: Sequence[torch.nn.Module]) -> None:
    """Put a network into training mode, and its frozen modules into evaluation mode."""
    network.train()
    for module in frozen:
        module.eval()


def _split_batches(
    context: Context,
    network: Classifier,
    frozen: Sequence[torch.nn.Module],
    images: TrainingImages,
) -> SplitNetwork | None:
    """Return the network that computes batches in parts; None where they are computed whole.

    They are on an accelerator, with several processes, and where a batch has a single part.
    """
    import torch

    from pipeline.model.batch_parts import SplitNetwork, count_parts, explain_whole

    parts = count_parts(min(context.settings.batch, len(images)), images.size)
    compute = context.compute
    if parts == 1 or not compute.is_cpu or ranks.current_world().size > 1:
        return None
    _set_training_mode(network, frozen)
    labels = torch.as_tensor(images.labels[:TRIAL_IMAGES])
    if why := explain_whole(network, context.objective, images.size, labels):
        terminal.print_line(f"train: batches are computed whole, not in parts: {why}")
        return None
    return SplitNetwork(network, parts, max(1, compute.workers))


def _build_learner(
    network: Classifier, objective: Objective, split: SplitNetwork | None
) -> torch.nn.Module:
    """Return a module from images and labels to the loss, in a single forward pass.

    An objective may call any part of the network: within one forward pass Fabric applies the run's
    precision, and DDP knows which parameters were used.
    """
    import torch

    class Learner(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, images: Tensor, labels: Tensor) -> Tensor:
            callee: Any = split or self.network
            loss, _ = objective(callee, images, labels)
            return loss

    return Learner()


def _derive_seed(seed: int, step: int) -> int:
    """Return the seed of a step, different on each rank."""
    rank = ranks.current_world().rank
    parts = (seed, step, rank) if rank else (seed, step)
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


# -- several processes ---------------------------------------------------------------------------


def _build_fabric(compute: Compute) -> Any:
    """Build Fabric for device, precision and the processes that run (pipeline/engine/ranks.py)."""
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments import TorchElasticEnvironment
    from lightning_fabric.strategies import DDPStrategy

    for name in ("lightning.fabric", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)  # silences a line on precision
    device, world = compute.device, ranks.current_world()
    precision = "bf16-mixed" if compute.precision == "bf16" else "32-true"
    if world.size == 1:
        return Fabric(
            accelerator=device.type,
            devices=[device.index or 0] if device.type == "cuda" else 1,
            precision=precision,
        )
    ranks.barrier()  # joins the processes: Fabric finds them joined
    fabric = Fabric(
        accelerator=device.type,
        devices=world.local_size,
        num_nodes=world.size // world.local_size,
        strategy=DDPStrategy(cluster_environment=TorchElasticEnvironment()),
        precision=precision,
    )
    fabric.launch()
    return fabric


def _sync_batch_norm(network: Classifier, device: torch.device) -> Classifier:
    """Return the network with batch norm over the images of all ranks."""
    if ranks.current_world().size == 1:
        return network
    from pipeline.model.synced_norm import synchronize_batch_norm

    return synchronize_batch_norm(network, device.type)


def _sync_gradients(fabric: Any, learner: Any, last: bool) -> Any:
    """Return a context in which gradients are averaged over ranks in a step's last batch alone."""
    return fabric.no_backward_sync(learner, enabled=not last and ranks.current_world().size > 1)


def _all_reduce_mean(loss: Tensor) -> float:
    """Return the mean over ranks of losses that are weighted by each rank's share."""
    return ranks.all_reduce_sum([float(loss)])[0] / ranks.current_world().size
