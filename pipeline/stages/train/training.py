"""The network that a training starts with, and its recipe (stage.py)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.errors import UserError
from pipeline.ops.text import list_some
from pipeline.protocols import BuildsFeatures, NetworkBuilder
from pipeline.stages.train.config import TrainOptions
from pipeline.stages.train.head_check import HeadCheck

if TYPE_CHECKING:
    from torch import nn

    from pipeline.model.classifier import Classifier

FROZEN_BACKBONE = ("auto", "backbone")  # values of train.freeze that freeze all of it
STAGES = "stages:"
NEW_HEAD = "a new head is learned for all classes"


@dataclass(frozen=True)
class Start:
    """The network before training.

    Attributes:
        network: it.
        recipe: own, head, finetune or scratch.
        notes: what was recognised in the file of weights, and why a head is kept or not.
        check: of a pretrained head that the data set has labels for; else None.
    """

    network: Classifier
    recipe: str
    notes: tuple[str, ...] = ()
    check: HeadCheck | None = None


def build_network(
    model: NetworkBuilder,
    classes: Sequence[str],
    options: TrainOptions,
    measure: Callable[[Classifier, Sequence[int]], HeadCheck],
) -> Start:
    """Build the network before training, and choose its recipe.

    Args:
        model: builds body and head.
        classes: those of the data set; empty where its images have no labels.
        options: of stage train, of which `head` and `freeze` are read.
        measure: checks a network, whose head has these rows of the pretrained head.

    Raises:
        UserError: train.head=own is given, and the pretrained head does not know the classes.
    """
    from pipeline.model.classifier import Classifier, MeanLinear

    if not model.pretrained:
        return Start(_build_untrained(model, classes, options), "scratch")
    body, pretrained_head, known = model.load()
    notes, check = list(model.notes()), None
    frozen = options.freeze in FROZEN_BACKBONE
    if options.head != "new":
        match = match_head(model, classes, known, options.head == "own")
        notes += match.notes
        fits = match.rows is not None and _can_keep(pretrained_head, options.head, notes)
        if fits and match.rows is not None and pretrained_head is not None:
            network = _keep_head(model, body, pretrained_head, match.rows, classes or known)
            check = measure(network, match.rows) if classes else None
            notes += check.describe() if check else []
            is_kept = check is None or not check.failing or options.head == "own"
            if check is not None and check.failing:
                notes.append(check.describe_failing(_describe_decision(is_kept, match)))
            if is_kept:
                return Start(network, "own" if frozen else "finetune", tuple(notes), check)
    channels = model.body()[1]
    if isinstance(model, BuildsFeatures):
        body = model.features(body)
    network = Classifier(body, MeanLinear(channels, len(classes)), classes, model.last, model.below)
    return Start(network, "head" if frozen else "finetune", tuple(notes), check)


def _build_untrained(
    model: NetworkBuilder, classes: Sequence[str], options: TrainOptions
) -> Classifier:
    """Build a network with random weights."""
    from pipeline.model.classifier import Classifier, MeanLinear

    if options.head == "own":
        body, head = model.own(len(classes))
    else:
        body, channels = model.body()
        head = MeanLinear(channels, len(classes))
    return Classifier(body, head, classes, model.last, model.below)


def _keep_head(
    model: NetworkBuilder, body: nn.Module, head: nn.Module, rows: list[int], classes: Sequence[str]
) -> Classifier:
    """Build a network with some rows of the pretrained head, or all."""
    from pipeline.model.classifier import Classifier
    from pipeline.model.torchvision import select_classes

    has_all = rows == list(range(len(model.known)))
    kept = head if has_all else select_classes(head, rows)
    return Classifier(body, kept, classes, model.last, model.below)


def _can_keep(head: nn.Module | None, wanted: str, notes: list[str]) -> bool:
    """Return whether a pretrained head is kept where its classes fit; if not, add a note."""
    from pipeline.model.classifier import HasClassWeights

    # A head without global average pooling is kept on request only: CAM cannot use it.
    if head is not None and (wanted == "own" or isinstance(head, HasClassWeights)):
        return True
    notes.append(
        "train: the pretrained head has no global average pooling with one linear layer, which "
        f"CAM reads: {NEW_HEAD}; train.head=own keeps the pretrained one, for saliency=gradcam and "
        "other methods"
    )
    return False


def _describe_decision(is_kept: bool, match: HeadMatch) -> str:
    order = "; model.classes=[...] gives the order of its rows" if match.is_by_order else ""
    if is_kept:
        return f"train.head=own keeps it; train.head=new learns a new head{order}"
    return f"{NEW_HEAD}; train.head=own keeps the pretrained one{order}"


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


@dataclass(frozen=True)
class HeadMatch:
    """The rows of a pretrained head for the classes of a data set.

    Attributes:
        rows: the row of each class; None where the head does not fit.
        notes: why the head does not fit, or what its rows are taken for.
        is_by_order: whether only the number of classes fits, and the rows have no names.
    """

    rows: list[int] | None
    notes: tuple[str, ...] = ()
    is_by_order: bool = False


def match_head(
    model: NetworkBuilder, classes: Sequence[str], known: Sequence[str], is_required: bool
) -> HeadMatch:
    """Match the classes of a data set with the rows of a pretrained head.

    Args:
        model: the network's builder.
        classes: of the data set; empty: all rows are taken.
        known: the names of the head's rows; empty where there is no head.
        is_required: whether a head that does not fit is an error.

    Raises:
        UserError: The head does not fit, and `is_required`.
    """
    from pipeline.model.classes import (
        IMAGENET_CLASSES,
        are_numbered,
        are_wnids,
        list_imagenet_classes,
        match_classes,
    )

    is_file = model.weight_file is not None
    if not known:
        why = _describe_missing_head(model, is_required)
    elif not classes:
        return HeadMatch(list(range(len(known))))
    elif (rows := match_classes(classes, known)) is not None:
        return HeadMatch(rows)
    elif are_wnids(classes) and tuple(known) == list_imagenet_classes():
        rows, why = _match_imagenet_ids(classes)
        if rows is not None or not is_required:
            ending = f"; {NEW_HEAD}" if rows is None else ""
            return HeadMatch(rows, (f"train: {why}{ending}",))
    elif are_numbered(known) and len(known) == len(classes):
        order = ", ".join(map(repr, classes[:5])) + (", ..." if len(classes) > 5 else "")
        note = (f"train: the {len(known)} rows of the file's head have no names: they are taken "
                f"for the data set's classes in its order, {order}; model.classes=[...] names "
                "them")  # fmt: skip
        return HeadMatch(list(range(len(known))), (note,), True)
    else:
        why = _describe_mismatch(classes, known, is_file)
    if is_required:
        raise UserError(f"train.head=own: {why}; {_suggest_head(classes, known, is_file)}")
    # A network of ImageNet's classes is the usual start for others: nobody expects its head.
    if is_file and known and len(known) != IMAGENET_CLASSES:
        why += ": it is dropped"
    elif known and 2 * len(_list_unknown(classes, known)) > len(classes):
        return HeadMatch(None)
    return HeadMatch(None, (f"train: {why}; {NEW_HEAD}",))


def _describe_missing_head(model: NetworkBuilder, is_required: bool) -> str:
    """Say why weights have no head; where it is required, with what was recognised in the file.

    Raises:
        UserError: The head is required, and the weights do not fit the network's body either.
    """
    why = "the weights have no head that can be kept"
    if model.weight_file is None or not is_required:
        return why
    model.load()
    return why + (f" ({'; '.join(model.notes())})" if model.notes() else "")


def _match_imagenet_ids(classes: Sequence[str]) -> tuple[list[int] | None, str]:
    """Match folders named by ImageNet's ids with the rows of its head; say what was done."""
    from pipeline.model.classes import IMAGENET_CLASSES, load_wnids

    what = f"the {len(classes)} classes are named by ids of ImageNet, as {classes[0]!r}"
    by_id = load_wnids()
    if by_id is None:
        return None, (
            f"{what}, whose rows in the pretrained head only timm's list of ids tells, and timm is "
            "not installed: pip install 'label2box[timm]', or classes.txt gives them the head's "
            "names"
        )
    if unknown := [name for name in classes if name not in by_id]:
        are = "is" if len(unknown) == 1 else "are"
        return None, (
            f"{what}, and {list_some(unknown, 'id')} {are} none of the {IMAGENET_CLASSES} that the "
            "pretrained head has rows for"
        )
    matched = "matched with the rows of the pretrained head by timm's list of ids"
    return [by_id[name] for name in classes], f"{what}: {matched}; classes.txt gives them names"


def _list_unknown(classes: Sequence[str], known: Sequence[str]) -> list[str]:
    """List the classes that a head does not know by name."""
    from pipeline.model.classes import match_classes

    return [name for name in classes if match_classes([name], known) is None]


def _describe_mismatch(classes: Sequence[str], known: Sequence[str], is_file: bool) -> str:
    """Say which of the data set's classes a head does not know."""
    from pipeline.model.classes import are_numbered

    head = "the head of the file" if is_file else "the pretrained network's head"
    if are_numbered(known):
        return f"{head} tells {len(known)} classes apart, the data set has {len(classes)}"
    unknown = _list_unknown(classes, known)
    knows = f"; it knows {', '.join(known[:5])}{' ...' if len(known) > 5 else ''}"
    return (
        f"{head} does not know {unknown[:3]}, {len(unknown)} of {len(classes)} classes"
        f"{knows if is_file else ''}"
    )


def _suggest_head(classes: Sequence[str], known: Sequence[str], is_file: bool) -> str:
    """Say what helps where a head does not fit."""
    if not classes:
        return (
            "explaining images without labels takes a network with its head: give a file that has "
            "the network's own, or learn a head on labelled images, with +experiment=cam "
            "data=folder data.root=PHOTOS and the same model, and give checkpoint=outputs/latest"
        )
    names = "model.classes=[...] names the rows of the file's head; " if is_file and known else ""
    return f"{names}name the classes as it does (classes.txt), or train.head=new learns a head"
