"""Logs of a training: loss, learning rate and accuracy, step by step.

`train.loggers` names the formats; all are written to `logs/` in the result's folder:

    csv          logs/csv/version_N/metrics.csv, a new N each time that a training resumes
    tensorboard  logs/tensorboard, for tensorboard --logdir
    wandb        Weights & Biases; WANDB_MODE=offline keeps it on this machine
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pipeline.engine import ranks
from pipeline.engine.store import LOGS
from pipeline.errors import UserError
from pipeline.stages.train.recipe import MEAN_AP, TOP1, Settings

EXTRAS = ("tensorboard", "wandb")


def check(names: Sequence[str]) -> None:
    """Raise UserError for a logger whose package is not installed."""
    for name in names:
        if name in EXTRAS and find_spec(name) is None:
            raise UserError(
                f"train.loggers=[{','.join(names)}]: {name} is not installed; "
                f"pip install 'label2box[{name}]', or train.loggers=[csv]"
            )


class Log:
    """Lightning Fabric's loggers, on rank 0; other ranks log nothing.

    Args:
        loggers: csv, tensorboard, wandb.
        run_name: The run's name.
        folder: The result's folder.
        settings: Of the training.
    """

    def __init__(
        self, loggers: Sequence[str], run_name: str, folder: Path, settings: Settings
    ) -> None:
        names = loggers if ranks.current_world().rank == 0 else []
        self.loggers = [_logger(name, run_name, folder / LOGS, settings) for name in names]

    def step(self, step: int, loss: float, lr: float) -> None:
        """Log a step; `step` counts optimizer steps from 1."""
        self._log({"loss": loss, "lr": lr}, step)

    def epoch(self, step: int, record: Mapping[str, float]) -> None:
        """Log the epoch that ended with a step: its mean loss and its score on held-back images."""
        scores = {name: record[name] for name in (TOP1, MEAN_AP) if name in record}
        named = {"epoch": record["epoch"], "epoch_loss": record["loss"], **scores}
        self._log(named, step)
        for logger in self.loggers:
            logger.save()

    def _log(self, metrics: Mapping[str, float], step: int) -> None:
        for logger in self.loggers:
            logger.log_metrics(dict(metrics), step)

    def finish(self) -> None:
        """Close the logs."""
        for logger in self.loggers:
            logger.finalize("success")


def _logger(name: str, run_name: str, folder: Path, settings: Settings) -> Any:
    """Build a logger by its name."""
    from lightning_fabric.loggers import CSVLogger, TensorBoardLogger

    if name == "csv":
        return CSVLogger(folder, "csv")
    if name == "tensorboard":
        return TensorBoardLogger(folder, "tensorboard")
    return WeightsAndBiases(folder, run_name, settings.__dict__)


class WeightsAndBiases:
    """A logger for wandb with the methods of Fabric's loggers: Fabric has none."""

    def __init__(self, folder: Path, name: str, settings: Mapping[str, Any]) -> None:
        import wandb

        folder.mkdir(parents=True, exist_ok=True)
        try:
            self.run = wandb.init(
                project="label2box", name=name, dir=str(folder), config=dict(settings)
            )
        except wandb.Error as error:
            raise UserError(
                f"train.loggers: wandb cannot start ({error}); `wandb login`, or "
                "WANDB_MODE=offline in the environment, which keeps everything on this machine"
            ) from error
        # A separate axis: wandb drops values for steps below its own counter.
        self.run.define_metric("*", step_metric="step")

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Log values of a step."""
        self.run.log({**metrics, "step": step})

    def save(self) -> None:
        """Return at once: wandb writes values when they are logged."""

    def finalize(self, status: str) -> None:
        """Close the log."""
        self.run.finish()
