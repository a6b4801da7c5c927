"""Which network a training begins with, by what there is to start from (stage.py)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.engine import terminal
from pipeline.errors import UserError
from pipeline.protocols import NetworkBuilder
from pipeline.stages.train.config import TrainOptions

if TYPE_CHECKING:
    from pipeline.model.classifier import Classifier
WHOLE = ("auto", "backbone")  # all of a pretrained backbone is frozen
STAGES = "stages:"


def build_network(
    model: NetworkBuilder, classes: Sequence[str], options: TrainOptions
) -> tuple[Classifier, str]:
    """Return the network before training, and the recipe that it wants.

    Args:
        model: what builds body and head.
        classes: those of the data set; none where its images have no labels.
        options: of stage train: `head` and `freeze` matter here.

    Raises:
        UserError: where train.head=own is wanted of a head that does not know the classes.
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


def list_frozen_parts(model: NetworkBuilder, freeze: str) -> tuple[str, ...]:
    """Return the parts of the body that train.freeze=stages:N keeps as they are.

    Raises:
        UserError: where the network has not so many stages.
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


def _own_rows(classes: Sequence[str], known: tuple[str, ...], must: bool) -> list[int] | None:
    """The rows of a pretrained head that know the data's classes; all, where the data has none.

    None where it does not know them all by name; UserError where it `must`.
    """
    from pipeline.model.torchvision import match_classes

    rows = match_classes(classes, known) if classes else list(range(len(known)))
    if rows is not None:
        return rows
    unknown = [name for name in classes if match_classes([name], known) is None]
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
