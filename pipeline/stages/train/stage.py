"""Stage train: from images and labels to a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.engine.stage import Stage
from pipeline.errors import UserError
from pipeline.ops.hashing import hash_file
from pipeline.stages.train.config import TrainOptions

if TYPE_CHECKING:
    from pipeline.engine.run import Run


UNHASHED = ("loggers",)  # who watches changes nothing


class Train(Stage):
    """From images and labels to a checkpoint."""

    name = "train"
    distributed = True
    options = TrainOptions

    def cache_key(self, run: Run) -> dict[str, Any]:
        """Return all that can change the result."""
        model = run.model()
        node = {name: value for name, value in run.config["model"].items() if name != "weights"}
        weights: str | None = getattr(model, "weights", None)
        if weight_file := getattr(model, "weight_file", None):
            weights = hash_file(weight_file)
        return {
            "source": run.sources(__name__, "data", "model", "objective"),
            "model": node,
            "weights": weights,
            "objective": run.config["objective"],
            "train": {k: v for k, v in run.config["train"].items() if k not in UNHASHED},
            "data": [run.data.fingerprint("train"), run.data.fingerprint("held_back")],
            "classes": run.data.classes,
            "size": run.data.size,
            "precision": run.precision,
            "seed": run.config["seed"],
        }

    def check(self, run: Run) -> None:
        """Refuse a pretrained head of a network without weights, an objective that has nothing to
        work on because the backbone is frozen, and what no image could judge."""
        from pipeline.stages.train import log
        from pipeline.stages.train.training import (
            WHOLE,
            learns_own_head_from_scratch,
            list_frozen_parts,
        )

        pretrained = getattr(run.model(), "pretrained", False)
        freeze = run.config["train"]["freeze"]
        if run.objective().needs_images and pretrained and freeze in WHOLE:
            name = run.config["objective"]["_target_"].split(".")[-2]
            raise UserError(
                f"objective={name}: it changes the images or the network in every step, but with "
                f"train.freeze={freeze} a pretrained backbone's features are computed once; "
                "train.freeze=none trains the whole network"
            )
        if (
            run.config["train"]["head"] == "own"
            and not pretrained
            and not learns_own_head_from_scratch(run)
        ):
            raise UserError(
                f"train.head=own: model={run.config['model'].get('name', 'small')} has no weights; "
                "choose a pretrained network (model=mobilenet_v2, model.weights=imagenet or a "
                "file), or give a trained one, as in checkpoint=outputs/latest"
            )
        if freeze not in ("auto", "none") and not pretrained:
            raise UserError(
                f"train.freeze={freeze}: random weights would stay so; give model.weights="
            )
        list_frozen_parts(run)
        log.check(run.config["train"]["loggers"])
        if run.config["train"]["patience"] is not None and not len(run.data.ids("held_back")):
            raise UserError(
                f"train.patience={run.config['train']['patience']}: no image is held back from "
                "train to judge an epoch by; give data.held_back=0.1, or train.patience=null"
            )

    def run(self, run: Run, folder: Path) -> None:
        """Make the result."""
        from pipeline.stages.train.training import train_classifier

        train_classifier(run, folder)
