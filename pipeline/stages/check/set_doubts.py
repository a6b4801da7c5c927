"""Labels that a pretrained network doubts, where an image may have several.

The network's classes exclude each other (softmax): a label is compared with the classes D that the
image is not labelled with, among which and itself the network has to choose:

    q_c = exp(s_c) / (exp(s_c) + sum_D exp(s_d))     doubt = max_D q_d - q_c     of each label c

With one label an image this is the softmax of all classes, as in doubts.py. They do not exclude
each other (sigmoid): each class of each image is a question of its own, also those that it is not
labelled with:

    doubt = 1 - 2 p_c     of a label c               doubt = 2 p_d - 1     of another class d

A doubt is above 0 where the network holds the opposite for more probable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.stages.check.findings import Finding

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    from pipeline.results.shards import Arrays
    from pipeline.stages.check.images import CheckedImages

LARGE = 1e30  # stands for infinity where it would be subtracted from itself


@dataclass(frozen=True)
class SetDoubt:
    """A class of an image that the network doubts: that it is there, or that it is not.

    Attributes:
        number: of the image.
        label: the class.
        is_labelled: whether the image is labelled with it.
        probability: of the class; q where classes exclude each other.
        other: the most probable class that the image is not labelled with; -1 where classes do not
            exclude each other, so that none speaks against another.
        other_probability: its q; 0 where there is none.
    """

    number: int
    label: int
    is_labelled: bool
    probability: float
    other: int
    other_probability: float

    @property
    def strength(self) -> float:
        """How much is doubted, above 0 and at most 1."""
        if self.other >= 0:
            return self.other_probability - self.probability
        return 1 - 2 * self.probability if self.is_labelled else 2 * self.probability - 1


def describe_exclusive(
    numbers: Int[np.ndarray, "n"], sets: Bool[np.ndarray, "n C"], logits: Float[np.ndarray, "n C"]
) -> Arrays:
    """Return the labels that are less probable than a class that the image is not labelled with.

    Args:
        numbers: of the images.
        sets: the labels of each image.
        logits: of all classes; the probability of one of them is the softmax.
    """
    row, label = np.nonzero(sets & ~sets.all(1, keepdims=True))
    absent = np.where(sets[row], -LARGE, logits[row].astype(np.float64))
    score = logits[row, label].astype(np.float64)
    largest = np.maximum(absent.max(1, initial=-LARGE), score)
    weights, weight = np.exp(absent - largest[:, None]), np.exp(score - largest)
    total = weight + weights.sum(1)
    other = absent.argmax(1)
    of_other = weights[np.arange(len(row)), other] / total
    return _keep(of_other > weight / total, numbers[row], label, sets[row, label], weight / total,
                 other, of_other)  # fmt: skip


def describe_independent(
    numbers: Int[np.ndarray, "n"],
    sets: Bool[np.ndarray, "n C"],
    probabilities: Float[np.ndarray, "n C"],
) -> Arrays:
    """Return the labels with a probability below a half, and other classes with one above.

    Args:
        numbers: of the images.
        sets: the labels of each image.
        probabilities: the sigmoid of each logit.
    """
    row, label = np.nonzero(np.where(sets, probabilities < 0.5, probabilities > 0.5))
    none = np.full(len(row), -1)
    return _keep(np.ones(len(row), bool), numbers[row], label, sets[row, label],
                 probabilities[row, label], none, np.zeros(len(row)))  # fmt: skip


def _keep(kept: Bool[np.ndarray, "m"], *columns: np.ndarray) -> Arrays:
    """Return the rows that are kept, by the names of the columns in shards."""
    names = ("image", "label", "is_labelled", "probability", "other", "other_probability")
    types = (np.int32, np.int32, bool, np.float32, np.int32, np.float32)
    return {
        name: column[kept].astype(kind)
        for name, kind, column in zip(names, types, columns, strict=True)
    }


def list_set_doubts(arrays: Arrays) -> list[SetDoubt]:
    """Return the doubts of a shard.

    Args:
        arrays: of the shard.
    """
    names = ("image", "label", "is_labelled", "probability", "other", "other_probability")
    rows = zip(*(arrays[name].tolist() for name in names), strict=True) if arrays else ()
    return [SetDoubt(*row) for row in rows]


def describe_set_doubts(
    images: CheckedImages, doubts: Sequence[SetDoubt], classes: Sequence[str]
) -> list[Finding]:
    """Return findings about doubted labels and about labels that may be missing.

    Args:
        images: of all splits.
        doubts: the most doubtful first.
        classes: of the data set.
    """
    assert images.sets is not None, "images have one class at most"
    has_labels = images.sets.any(1)
    labelled, count = int(images.sets.sum()), int(has_labels.sum())
    empty, findings = int(images.backgrounds.sum()), []
    if present := [doubt for doubt in doubts if doubt.is_labelled]:
        than = (
            "a class that the image is not labelled with"
            if present[0].other >= 0
            else "its absence"
        )
        findings.append(Finding.of(
            "doubt", "warning", [name_doubt(images, doubt, classes) for doubt in present], "label",
            f"of {labelled} that {count} images have, whose class the pretrained network takes for "
            f"less probable than {than}: some labels may be wrong",
            "look at them, the most doubtful first, and take wrong ones away"))  # fmt: skip
    if absent := [doubt for doubt in doubts if not doubt.is_labelled]:
        findings.append(Finding.of(
            "doubt_missing", "warning", [name_doubt(images, doubt, classes) for doubt in absent],
            "class", f"that its image is not labelled with (of {count + empty} images), which the "
            "pretrained network takes for more probable than not: some labels may be missing",
            "look at the images, the most doubtful first, and add what they show"))  # fmt: skip
    return findings


def name_doubt(images: CheckedImages, doubt: SetDoubt, classes: Sequence[str]) -> str:
    """Return the image, the class and its probability, as a finding names them.

    Args:
        images: of all splits.
        doubt: about a class of an image.
        classes: of the data set.
    """
    return f"{images.ids[doubt.number]} ({say_set_doubt(doubt, classes)})"


def say_set_doubt(doubt: SetDoubt, classes: Sequence[str]) -> str:
    """Return a line about a doubt: the class, its probability, and what is more probable.

    Args:
        doubt: about a class of an image.
        classes: of the data set.

    Examples:
        >>> say_set_doubt(SetDoubt(0, 0, True, 0.1, 1, 0.7), ["cat", "dog"])
        'cat 0.10, or dog 0.70?'
        >>> say_set_doubt(SetDoubt(0, 1, False, 0.9, -1, 0.0), ["cat", "dog"])
        'dog 0.90, without this label'
    """
    shown = f"{classes[doubt.label]} {doubt.probability:.2f}"
    if doubt.other >= 0:
        return f"{shown}, or {classes[doubt.other]} {doubt.other_probability:.2f}?"
    return f"{shown}, its label" if doubt.is_labelled else f"{shown}, without this label"


def record_set_doubt(
    images: CheckedImages, doubt: SetDoubt, classes: Sequence[str]
) -> dict[str, object]:
    """Return a doubt as check.json holds it.

    Args:
        images: of all splits.
        doubt: about a class of an image.
        classes: of the data set.
    """
    record: dict[str, object] = {
        "id": images.ids[doubt.number],
        "class": classes[doubt.label],
        "labelled": doubt.is_labelled,
        "probability_of_label": round(doubt.probability, 4),
    }
    if doubt.other < 0:
        return record
    other = {"predicted": classes[doubt.other], "probability": round(doubt.other_probability, 4)}
    return {**record, **other}
