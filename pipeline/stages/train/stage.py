"""Stage train: images and labels -> a checkpoint. No box is read, neither to train nor to select.

There are four recipes, chosen by the weights that training starts from:

    own       the pretrained head knows all classes and passes a check: nothing is trained
    head      pretrained, backbone frozen: a new head learns by SGD on cached features, in seconds
    finetune  pretrained, train.freeze=none: all weights learn; stages:N: not the first N stages
    scratch   no weights: all weights learn, from random initialization

Defaults of the recipes are in recipe.py, the training loops in loop.py and head.py; see
docs/training.md. The best epoch is chosen by classification accuracy on a part of train that is
held back by hash. Where an image may have several labels, each class is learned for itself, and the
best epoch has the greatest mean average precision.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.engine import terminal
from pipeline.engine.negatives import FIELD, list_negatives
from pipeline.engine.objectives import check_objective, choose_objective, describe_objective
from pipeline.engine.sources import hash_sources
from pipeline.engine.stage import Stage
from pipeline.errors import UserError
from pipeline.formats.files import read_json, write_json
from pipeline.ops.hashing import hash_file
from pipeline.protocols import (
    BuildsFeatures,
    LearnsLabelSets,
    ScalesDeepImages,
    WrappingObjective,
)
from pipeline.results.notes import load_notes, skipped_note, write_notes
from pipeline.stages.train.config import TrainOptions
from pipeline.stages.train.recipe import Settings, Trained, read_score
from pipeline.stages.train.several import choose_head, start_with_shares, tell_answers

if TYPE_CHECKING:
    from pipeline.engine.run import Run
    from pipeline.model.classifier import Classifier
    from pipeline.protocols import NetworkBuilder
    from pipeline.stages.train.head_check import HeadCheck


SKIPPED_FILE = "set_aside.json"  # why training images could not be used
STATE = "state.pt"  # the state that a killed training resumes from
UNHASHED = ("loggers",)  # options that do not change the result


class Train(Stage):
    """From images and labels to a checkpoint."""

    name = "train"
    after = ("check",)
    distributed = True
    options = TrainOptions

    def cache_key(self, run: Run) -> dict[str, Any]:
        """Return everything that can change the result."""
        model = run.model()
        node = _without_files(run.config["model"])
        objective = choose_objective(run.config["objective"], run.data)
        replaced = {} if objective is run.config["objective"] else _identify_objective(objective)
        return {
            **replaced,
            "source": run.sources(__name__, "data", "model", "objective"),
            "model": node,
            "weights": _identify_weights(model),
            "head": _list_given_classes(model),
            "objective": run.config["objective"],
            "train": {k: v for k, v in run.config["train"].items() if k not in UNHASHED},
            "data": [run.data.fingerprint("train"), run.data.fingerprint("held_back")],
            "classes": run.data.classes,
            "negatives": [*list_negatives(run.data)],
            "size": run.data.size,
            "precision": run.precision,
            "seed": run.config["seed"],
        }

    def check(self, run: Run) -> None:
        """Raise UserError for options that contradict the network, its weights or the data set."""
        from pipeline.stages.train import log
        from pipeline.stages.train.training import FROZEN_BACKBONE, list_frozen_parts, match_head

        model, options = run.model(), run.options("train")
        check_objective(run.config["objective"], run.data)
        if run.objective().needs_images and model.pretrained and options.freeze in FROZEN_BACKBONE:
            name = run.config["objective"]["_target_"].split(".")[-2]
            raise UserError(
                f"objective={name}: it changes the images or the network in every step, but with "
                f"train.freeze={options.freeze} a pretrained backbone's features are computed "
                "once; train.freeze=none trains the whole network"
            )
        learns_own_head = bool(run.data.classes) and model.own_head_from_scratch
        if options.head == "own" and not model.pretrained and not learns_own_head:
            unlabelled = "paths" in run.config["data"]  # nobody need have said train.head=own
            raise UserError(
                f"{'checkpoint is missing' if unlabelled else 'train.head=own'}: "
                f"model={run.config['model'].get('name', 'small')} has no weights; "
                "choose a pretrained network (model=mobilenet_v2, model.weights=imagenet or a "
                "file), or give a trained one, as in checkpoint=outputs/latest"
            )
        if options.freeze not in ("auto", "none") and not model.pretrained:
            raise UserError(
                f"train.freeze={options.freeze}: random weights would stay so; give model.weights="
            )
        if options.head == "own" and model.pretrained and not self._was_file_read(run, model):
            match_head(model, run.data.classes, model.known, is_required=True)
        list_frozen_parts(model, options.freeze)
        log.check(options.loggers)
        if options.patience is not None and not len(run.images("held_back")):
            raise UserError(
                f"train.patience={options.patience}: no image is held back from train to judge an "
                "epoch by; give data.held_back=0.1, or train.patience=null"
            )
        if model.weight_file is not None and not self._was_file_read(run, model):
            _ = model.known  # refuses a file that cannot be used, before anything is written

    def _was_file_read(self, run: Run, model: NetworkBuilder) -> bool:
        """Return whether there is a result from this file of weights, so that the file was checked.

        To read it again at each start would take seconds.
        """
        from pipeline.engine.store import is_done

        if model.weight_file is None:
            return False
        return is_done(run.store.folder(self.name, run.cache_key(self.name)))

    def run(self, run: Run, folder: Path) -> None:
        """Train the network, unless the recipe trains nothing, and write the checkpoint."""
        import torch

        from pipeline.engine import checkpoint, ranks
        from pipeline.stages.train.training import build_network

        torch.manual_seed(run.config["seed"])
        model, options, objective = run.model(), run.options("train"), run.objective()
        options, of_head = choose_head(model, options, run.data)
        start = build_network(model, run.data.classes, options, partial(self._check_head, run))
        network, recipe = start.network, start.recipe
        of_objective = describe_objective(run.config["objective"], run.data)
        notes = [*of_head, *(of_objective if recipe != "own" else ()), *start.notes]
        for note in notes:
            terminal.print_note(note)
        if isinstance(objective, WrappingObjective):
            network = objective.wrap(network)
        settings = Settings.of(options, recipe, run.config["seed"])
        started = time.time()
        network.answers = tell_answers(model, run.data, objective, recipe)
        trained = self._train(run, folder, network, settings)
        if ranks.current_world().rank > 0:
            return  # rank 0 writes
        data = run.data
        intensity = data.intensity_record() if isinstance(data, ScalesDeepImages) else {}
        card = {
            "size": list(run.data.size),
            "mean": list(model.mean),
            "std": list(model.std),
            "recipe": recipe,
            "settings": {} if recipe == "own" else settings.__dict__,
            **({checkpoint.INTENSITY: intensity} if intensity else {}),
            **({FIELD: negatives} if (negatives := [*list_negatives(data)]) else {}),
            "objective": choose_objective(run.config["objective"], run.data),
            "precision": run.precision,
            "head_check": start.check.record() if start.check else None,
            "notes": notes,
            "best": max(trained.history, key=read_score, default=None),
            "seconds": round(time.time() - started, 1),
        }
        found = model.recorded() if isinstance(model, BuildsFeatures) else {}
        checkpoint.save(folder, network, {**run.config["model"], **found}, card)
        write_json(folder / "history.json", trained.history, indent=1)
        write_json(folder / SKIPPED_FILE, trained.skipped, indent=1)
        ids = [run.images(split).ids for split in ("train", "held_back")]
        write_notes(folder, [*notes, *trained.describe_reading(*ids)])
        (folder / STATE).unlink(missing_ok=True)

    def notes(self, run: Run, result: Path) -> Sequence[str]:
        """Return notes on the head, and on training images that were read in part or not at all."""
        reasons = read_json(result / SKIPPED_FILE) if (result / SKIPPED_FILE).is_file() else []
        count = len(run.images("train")) + len(run.images("held_back"))
        skipped = skipped_note("train", reasons, count, "were not learned from")
        return [*load_notes(result), *skipped]

    def _check_head(self, run: Run, network: Classifier, rows: Sequence[int]) -> HeadCheck:
        """Return how often a pretrained head is right on training images, computed once.

        Args:
            run: the run.
            network: with the pretrained head.
            rows: of the pretrained head that the network has.
        """
        from pipeline.model.classes import list_imagenet_classes
        from pipeline.stages.train import head_check

        model, images, trained = run.model(), run.images("train"), run.cache_key("train")
        names = ("model", "weights", "head", "classes", "size", "precision")
        key = {
            "source": run.sources(head_check.__name__, "data", "model"),
            **{name: trained[name] for name in names},
            "data": images.fingerprint(),
            "rows": list(rows),
        }
        folder, _ = run.store.get_or_create(
            "head_check",
            key,
            lambda folder: head_check.write_check(
                images, run.compute, folder, network, (model.mean, model.std)
            ),
        )
        is_users = model.weight_file is not None and model.known != list_imagenet_classes()
        return head_check.read_check(folder, network.classes, is_users)

    def _train(self, run: Run, folder: Path, network: Classifier, settings: Settings) -> Trained:
        """Train the network in place by its recipe."""
        from pipeline.stages.train import features, head, loop
        from pipeline.stages.train.context import Context
        from pipeline.stages.train.training import list_frozen_parts

        if settings.recipe == "own":
            remedy = " (train.head=new trains a head)" if run.data.classes else ""
            terminal.print_line(
                f"train: the pretrained head has a row for each of the {len(network.classes)} "
                f"classes; nothing to train{remedy}"
            )
        if settings.recipe == "own" or settings.epochs == 0:
            return Trained([])
        model, images, objective = run.model(), run.images("train"), run.objective()
        learns_sets = isinstance(objective, LearnsLabelSets)
        if isinstance(objective, LearnsLabelSets):
            sets = images.label_sets
            objective = objective.with_shares(sets.mean(0).tolist() if len(sets) else ())
            if settings.recipe != "head" and len(sets):  # that recipe sets it itself
                start_with_shares(network, sets)
        context = Context(
            images=images,
            held_back=run.images("held_back"),
            objective=objective,
            learns_sets=learns_sets,
            settings=settings,
            compute=run.compute,
            mean=model.mean,
            std=model.std,
            loggers=run.config["train"]["loggers"],
            name=str(run.config["name"]),
        )
        if settings.recipe != "head":
            frozen = list_frozen_parts(model, run.config["train"]["freeze"])
            return loop.train(context, folder, network, frozen)
        key = {
            "source": run.sources(features.__name__, "data", "model"),
            "model": _without_files(run.config["model"]),
            "weights": run.cache_key("train")["weights"],
            "size": run.data.size,
            "precision": run.precision,
        }
        return head.learn(context, folder, network, run.store, key)


def _identify_objective(node: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of the key for an objective that is not that of the configuration."""
    module = str(node["_target_"]).rpartition(".")[0]
    return {"label_sets": [node, hash_sources([module])]}


def _identify_weights(model: NetworkBuilder) -> str | None:
    """Return what the values of the weights follow from: their name, or a hash of them."""
    from pipeline.model.module import BUILT, Module

    if isinstance(model, Module) and model.weights == BUILT:
        return model.content
    return model.weights if model.weight_file is None else hash_file(model.weight_file)


def _list_given_classes(model: NetworkBuilder) -> tuple[str, ...]:
    """Return what the classes of the head of a file follow from, besides the file itself.

    model.classes may be a file, so that its value does not stand for the names.
    """
    from pipeline.model.module import Module
    from pipeline.model.pretrained import Weighted

    if isinstance(model, Module) and model.pretrained:
        return model.known
    if model.weight_file is None:
        return ()
    return model.given_classes if isinstance(model, Weighted) else model.known


def _without_files(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return the node of a network without its files, whose content is part of a key."""
    return {name: value for name, value in model.items() if name not in ("weights", "classes")}
