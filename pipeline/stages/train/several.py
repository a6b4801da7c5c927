"""What differs where an image may have several labels: the head that is kept, and how it begins."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pipeline.engine.images import is_multi_label
from pipeline.protocols import DataSet, LearnsLabelSets, NetworkBuilder, Objective
from pipeline.stages.train.config import TrainOptions
from pipeline.stages.train.recipe import set_prior
from pipeline.types import Note

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Bool

    from pipeline.model.classifier import Classifier
    from pipeline.ops.probabilities import Answers


def choose_head(
    model: NetworkBuilder, options: TrainOptions, data: DataSet
) -> tuple[TrainOptions, list[Note]]:
    """Return the options with which a network is built: a head of exclusive classes is not kept.

    Args:
        model: builds the network.
        options: of stage train.
        data: the data set.

    Returns:
        The options, and a note where a pretrained head would have been kept.
    """
    from pipeline.stages.train.training import match_head

    if not is_multi_label(data) or options.head != "auto" or model.is_multi_label:
        return options, []
    notes = []
    if model.pretrained and match_head(model, data.classes, model.known, False).rows is not None:
        notes.append(
            Note(
                "train: the pretrained head tells exclusive classes apart, and an image may have "
                "several labels: a new head is learned; train.head=own keeps the pretrained one, "
                "and reads each of its logits by the sigmoid"
            )
        )
    return replace(options, head="new"), notes


def tell_answers(
    model: NetworkBuilder, data: DataSet, objective: Objective, recipe: str
) -> Answers:
    """Return what the logits of a network mean once it is trained.

    Args:
        model: builds the network.
        data: the data set.
        objective: of the training.
        recipe: own, head, finetune or scratch.
    """
    if recipe == "own":
        return "independent" if model.is_multi_label or is_multi_label(data) else "exclusive"
    return "independent" if isinstance(objective, LearnsLabelSets) else "exclusive"


def start_with_shares(network: Classifier, sets: Bool[np.ndarray, "n C"]) -> None:
    """Let a new GAP head begin with the shares of the classes as probabilities.

    Args:
        network: its head is changed, where it is a new GAP head of one linear layer.
        sets: which classes each training image has.
    """
    from pipeline.model.classifier import MeanLinear

    if type(network.head) is MeanLinear:
        set_prior(network.head.bias, sets)
