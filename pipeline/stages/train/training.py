"""Train: images and labels -> a checkpoint. Never a box: not for learning, not for choosing.

Three recipes, by what there is to start from:

    own       the pretrained network knows every class by name: its own head, nothing is trained
    head      pretrained, backbone frozen: a new head learns by SGD on cached features, in seconds
    finetune  pretrained, train.freeze=none: everything learns; stages:N: all but the first N stages
    scratch   no weights: everything learns, from random

What a recipe sets is in recipe.py, the loops are in learn.py and learn_head.py; docs/training.md.
The best epoch is chosen by classification accuracy on a part of train held back by hash.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.engine import checkpoint, ranks, terminal
from pipeline.engine.run import Run
from pipeline.errors import UserError
from pipeline.formats.files import write_json
from pipeline.protocols import WrappingObjective
from pipeline.results.skipped import SKIPPED_FILE
from pipeline.stages.train import head, loop
from pipeline.stages.train.recipe import Settings

if TYPE_CHECKING:
    from pipeline.model.classifier import Classifier
WHOLE = ("auto", "backbone")  # all of a pretrained backbone is frozen
STAGES = "stages:"


def train_classifier(run: Run, folder: Path) -> None:
    import torch

    torch.manual_seed(run.config["seed"])
    model = run.model()
    network, recipe = _start(run, model)
    objective = run.objective()
    if isinstance(objective, WrappingObjective):
        network = objective.wrap(network)
    settings = Settings.of(run, recipe)
    history: list[dict[str, Any]] = []
    started = time.time()
    if recipe == "own":
        terminal.print_line(f"train: all {len(network.classes)} classes are among the pretrained "
                  "network's "
                  "own; nothing to train (train.head=new trains a head)")  # fmt: skip
    elif settings.epochs > 0:
        if recipe == "head":
            history = head.learn(run, folder, network, model, settings)
        else:
            history = loop.train(run, folder, network, model, settings, list_frozen_parts(run))
    if ranks.current_world().rank > 0:
        return  # rank 0 writes
    best = max(history, key=lambda epoch: epoch["held_back_top1"], default=None)
    checkpoint.save(
        folder,
        network,
        run.config["model"],
        {
            "size": list(run.data.size),
            "mean": list(model.mean),
            "std": list(model.std),
            "recipe": recipe,
            "settings": {} if recipe == "own" else settings.__dict__,
            "objective": run.config["objective"],
            "precision": run.precision,
            "best": best,
            "seconds": round(time.time() - started, 1),
        },
    )
    write_json(folder / "history.json", history, indent=1)
    write_json(folder / SKIPPED_FILE, run.shared.pop("set_aside", []), indent=1)
    (folder / loop.STATE).unlink(missing_ok=True)


def _start(run: Run, model: Any) -> tuple[Classifier, str]:
    """The network before training, and which recipe it wants."""
    from pipeline.model.classifier import HEADS, Classifier, MeanLinear
    from pipeline.model.torchvision import select_classes

    classes = run.data.classes
    wanted, freeze = run.config["train"]["head"], run.config["train"]["freeze"]
    if not getattr(model, "pretrained", False):
        if wanted == "own":
            body, own = model.own(len(classes))
            return Classifier(body, own, classes, model.last, model.below), "scratch"
        body, channels = model.body()
        new = MeanLinear(channels, len(classes))
        return Classifier(body, new, classes, model.last, model.below), "scratch"
    body, own, known = model.load()
    if own is not None and wanted != "new":
        rows = _own_rows(classes, known, wanted == "own")
        # A head that is no GAP head is kept only where it is asked for: CAM cannot read it.
        if rows is not None and (wanted == "own" or isinstance(own, tuple(HEADS.values()))):
            head = own if rows == list(range(len(known))) else select_classes(own, rows)
            network = Classifier(body, head, classes or known, model.last, model.below)
            return network, "own" if freeze in WHOLE else "finetune"
    elif wanted == "own":
        raise UserError("train.head=own: the file's classes are not ImageNet's; train.head=new")
    channels = model.body()[1]
    network = Classifier(body, MeanLinear(channels, len(classes)), classes, model.last, model.below)
    return network, "head" if freeze in WHOLE else "finetune"


def learns_own_head_from_scratch(run: Run) -> bool:
    """Whether the network's own head learns from random weights, as LeNet's does."""
    return bool(run.data.classes) and getattr(run.model(), "own_from_scratch", False)


def list_frozen_parts(run: Run) -> tuple[str, ...]:
    """The parts of the body that train.freeze=stages:N keeps as they are.

    Raises UserError where the network has not so many stages.
    """
    import torch

    from pipeline.model.freezing import stages_of

    freeze = str(run.config["train"]["freeze"])
    if not freeze.startswith(STAGES):
        return ()
    model, wanted = run.model(), int(freeze.removeprefix(STAGES))
    if getattr(model, "stride", None) is not None:
        model = replace(model, stride=None)  # its stages are those it was trained with
    with torch.device("meta"):
        body, _ = model.own(2)
    stages = stages_of(body)
    if wanted > len(stages):
        raise UserError(
            f"train.freeze={freeze}: this network has {len(stages)} stages; possible: auto, "
            f"backbone, none, {STAGES}1 to {STAGES}{len(stages)}"
        )
    return tuple(name for stage in stages[:wanted] for name in stage)


def _own_rows(classes: tuple[str, ...], known: tuple[str, ...], must: bool) -> list[int] | None:
    """The rows of a pretrained head that know the data's classes; all, where the data has none.

    None where it does not know them all by name; UserError where it `must`.
    """
    from pipeline.model.torchvision import rows_by_name

    rows = rows_by_name(classes, known) if classes else list(range(len(known)))
    if rows is not None:
        return rows
    unknown = [name for name in classes if rows_by_name([name], known) is None]
    if must:
        raise UserError(
            f"train.head=own: the pretrained network's head does not know {unknown[:3]}; "
            "name the classes as it does (classes.txt), or train.head=new"
        )
    # Nearly all known is a name written otherwise; a few known is another set of classes.
    if 2 * len(unknown) <= len(classes):
        terminal.print_line(
            f"train: the pretrained network knows {len(classes) - len(unknown)} of {len(classes)} "
            f"classes by name, but not {', '.join(unknown[:5])}: a new head is trained for all"
        )
    return None
