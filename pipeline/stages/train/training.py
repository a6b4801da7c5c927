"""The network that a training starts with, and its recipe (stage.py)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.engine import terminal
from pipeline.errors import UserError
from pipeline.protocols import NetworkBuilder
from pipeline.stages.train.config import TrainOptions

if TYPE_CHECKING:
    from pipeline.model.classifier import Classifier
FROZEN_BACKBONE = ("auto", "backbone")  # values of train.freeze that freeze all of it
STAGES = "stages:"


def build_network(
    model: NetworkBuilder, classes: Sequence[str], options: TrainOptions
) -> tuple[Classifier, str]:
    """Build the network before training, and choose its recipe.

    Args:
        model: builds body and head.
        classes: those of the data set; empty where its images have no labels.
        options: of stage train, of which `head` and `freeze` are read.

    Returns:
        The network, and own, head, finetune or scratch.

    Raises:
        UserError: train.head=own is given, and the pretrained head does not know the classes.
    """
    from pipeline.model.classifier import HEADS, Classifier, MeanLinear
    from pipeline.model.torchvision import select_classes

    wanted, freeze = options.head, options.freeze
    if not model.pretrained:
        if wanted == "own":
            body, own_head = model.own(len(classes))
            return Classifier(body, own_head, classes, model.last, model.below), "scratch"
        body, channels = model.body()
        new = MeanLinear(channels, len(classes))
        return Classifier(body, new, classes, model.last, model.below), "scratch"
    body, pretrained_head, known = model.load()
    if pretrained_head is not None and wanted != "new":
        rows = _select_rows(classes, known, wanted == "own")
        # A head without global average pooling is kept on request only: CAM cannot use it.
        is_gap = isinstance(pretrained_head, tuple(HEADS.values()))
        if rows is not None and (wanted == "own" or is_gap):
            has_all = rows == list(range(len(known)))
            head = pretrained_head if has_all else select_classes(pretrained_head, rows)
            network = Classifier(body, head, classes or known, model.last, model.below)
            return network, "own" if freeze in FROZEN_BACKBONE else "finetune"
    elif wanted == "own":
        raise UserError("train.head=own: the file's classes are not ImageNet's; train.head=new")
    channels = model.body()[1]
    network = Classifier(body, MeanLinear(channels, len(classes)), classes, model.last, model.below)
    return network, "head" if freeze in FROZEN_BACKBONE else "finetune"


def list_frozen_parts(model: NetworkBuilder, freeze: str) -> tuple[str, ...]:
    """Return the names of the body's modules that train.freeze=stages:N freezes; else none.

    Raises:
        UserError: The network has fewer stages.
    """
    import torch

    from pipeline.model.freezing import list_stages

    if not freeze.startswith(STAGES):
        return ()
    wanted = int(freeze.removeprefix(STAGES))
    with torch.device("meta"):
        body, _ = model.at_trained_stride().own(2)
    stages = list_stages(body)
    if wanted > len(stages):
        raise UserError(
            f"train.freeze={freeze}: this network has {len(stages)} stages; possible: auto, "
            f"backbone, none, {STAGES}1 to {STAGES}{len(stages)}"
        )
    return tuple(name for stage in stages[:wanted] for name in stage)


def _select_rows(
    classes: Sequence[str], known: tuple[str, ...], required: bool
) -> list[int] | None:
    """Return the rows of a pretrained head for the data's classes; all where the data has none.

    Args:
        classes: Of the data set.
        known: Of the pretrained head.
        required: Whether a class that the head does not know by name is an error.

    Returns:
        None where the head does not know all classes by name.

    Raises:
        UserError: As `required` says.
    """
    from pipeline.model.torchvision import match_classes

    rows = match_classes(classes, known) if classes else list(range(len(known)))
    if rows is not None:
        return rows
    unknown = [name for name in classes if match_classes([name], known) is None]
    if required:
        raise UserError(
            f"train.head=own: the pretrained network's head does not know {unknown[:3]}; "
            "name the classes as it does (classes.txt), or train.head=new"
        )
    # Where most classes are known, the others are probably misspelt: say so.
    if 2 * len(unknown) <= len(classes):
        terminal.print_line(
            f"train: the pretrained network knows {len(classes) - len(unknown)} of {len(classes)} "
            f"classes by name, but not {', '.join(unknown[:5])}: a new head is trained for all"
        )
    return None
