"""Confidences of boxes, never of a model that was fitted on their own image, and their order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.ops.hashing import hash_of
from pipeline.ops.iou import best_iou
from pipeline.results.confidence import ConfidenceModels, Examples
from pipeline.segmenter.confidence import MIN_EXAMPLES, ConfidenceModel, MapKind, default_model
from pipeline.segmenter.confidence_features import FEATURES
from pipeline.types import Boxes

if TYPE_CHECKING:
    from jaxtyping import Bool, Float32

FOLDS = 5  # of the examples; a model is fitted without the fold of the image that it is used on
BLOCK = 20  # images of the order among which those of a class are spread


BestBoxes = Mapping[tuple[int, int], np.ndarray]
"""The best-scored box by position of the image and class."""


@dataclass(frozen=True)
class Table:
    """All boxes of a run, in the order of stage localize.

    Attributes:
        position: of the image of each box.
        label: its class.
        features: of each box.
        first: whether it is the best-scored box of the image's first class; where an image may
            have several, of any of its classes.
    """

    position: np.ndarray
    label: np.ndarray
    features: Float32[np.ndarray, "n k"]
    first: Bool[np.ndarray, n]


def tabulate(
    items: Iterator[tuple[int, Boxes]],
    others: Sequence[BestBoxes],
    grabcut: BestBoxes | None = None,
    has_sets: bool = False,
) -> Table:
    """Tabulate boxes; the last features are the agreement with other methods and with GrabCut.

    Args:
        items: boxes with the positions of their images.
        others: the best-scored box of each other method; empty: there is no such feature.
        grabcut: the box of GrabCut; None: there is no such feature.
        has_sets: whether an image may have several classes.
    """
    compared = [others] if others else []
    compared += [] if grabcut is None else [[grabcut]]
    positions, labels, rows, first = [], [], [], []
    before = -1
    for position, boxes in items:
        features = boxes.features
        assert features is not None, "stage localize measures the features of all boxes"
        for group in compared:
            best = [other[key] for other in group if (key := (position, boxes.label)) in other]
            agreement = [_average_iou(box, best) for box in boxes.boxes]
            features = np.column_stack([features, np.array(agreement, np.float32)])
        positions.append(np.full(len(features), position))
        labels.append(np.full(len(features), boxes.label))
        rows.append(features)
        first.append((np.arange(len(features)) == 0) & (has_sets or position != before))
        before = position
    width = len(FEATURES) + len(compared)
    return Table(
        np.concatenate([np.zeros(0, int), *positions]),
        np.concatenate([np.zeros(0, int), *labels]),
        np.concatenate([np.zeros((0, width), np.float32), *rows]),
        np.concatenate([np.zeros(0, bool), *first]),
    )


def _average_iou(box: np.ndarray, others: Sequence[np.ndarray]) -> float:
    """Average the IoU of a box with those of other methods; 0 where none of them has a box."""
    return float(np.mean([best_iou(box, other[None]) for other in others])) if others else 0.0


def add_agreement(
    examples: Examples, others: Sequence[Examples], grabcut: Examples | None = None
) -> Float32[np.ndarray, "n k"]:
    """Return the features of examples with their agreement with those of others.

    Args:
        examples: boxes of the method.
        others: boxes of other methods in the same images; empty: there is no such feature.
        grabcut: boxes of GrabCut; None: there is no such feature.
    """
    rows = [examples.features]
    for group in [others] if grabcut is None else [others, [grabcut]]:
        if not group:
            continue
        boxes = [dict(zip(other.keys, other.boxes, strict=True)) for other in group]
        agreement = [
            _average_iou(box, [other[key] for other in boxes if key in other])
            for key, box in zip(examples.keys, examples.boxes, strict=True)
        ]
        rows.append(np.array(agreement, np.float32)[:, None])
    return np.concatenate(rows, 1)


def fold_of(id: str) -> int:
    """Return the fold of an image among the examples; it depends only on its name."""
    return int(hash_of(["confidence", id]), 16) % FOLDS


def fit_models(
    maps: MapKind, examples: Examples, others: Sequence[Examples], grabcut: Examples | None = None
) -> ConfidenceModels:
    """Correct the default models on examples, where there are enough.

    Args:
        maps: what they are of.
        examples: boxes of the method.
        others: boxes of the run's other methods in the same images; empty: there are none.
        grabcut: boxes of GrabCut in the same images; None: they are not compared.
    """
    alone = default_model(maps, False).corrected(examples.features, examples.right)
    together = None
    if others or grabcut is not None:
        rows = add_agreement(examples, others, grabcut)
        default = default_model(maps, bool(others), grabcut is not None)
        together = default.corrected(rows, examples.right)
    source = examples.source if alone.kind == "calibrated" else ""
    return ConfidenceModels(alone, together, source)


def compute_confidences(
    table: Table, ids: Sequence[str], model: ConfidenceModel, folds: Sequence[ConfidenceModel],
    seen: frozenset[str],
) -> Float32[np.ndarray, n]:  # fmt: skip
    """Compute the confidence of each box.

    Args:
        table: the boxes.
        ids: the name of each image, by position.
        model: for images that it was not fitted on.
        folds: models that were fitted without the examples of each fold.
        seen: the images of the examples.
    """
    confidences = model(table.features)
    fold = np.array([fold_of(id) if id in seen else -1 for id in ids] or [-1], int)
    of_box = fold[table.position]
    for n, without in enumerate(folds):
        chosen = of_box == n
        confidences[chosen] = without(table.features[chosen])
    return np.asarray(confidences, np.float32)


def fit_folds(
    model: ConfidenceModel, default: ConfidenceModel, examples: Examples, rows: np.ndarray
) -> list[ConfidenceModel]:
    """Fit a model without the examples of each fold; none where the model is the default.

    Args:
        model: that is fitted on all examples.
        default: that was corrected.
        examples: their names and whether they are right.
        rows: their features.

    Returns:
        A model for each fold; the default where too few examples are left.
    """
    if model.kind == "default":
        return []
    fold = np.array([fold_of(id) for id in examples.ids])
    return [
        default.corrected(rows[fold != n], examples.right[fold != n])
        if (fold != n).sum() >= MIN_EXAMPLES
        else default
        for n in range(FOLDS)
    ]


def order_review(
    table: Table, explained: Sequence[int], confidences: Float32[np.ndarray, n],
    ids: Sequence[str], sample: int, seed: int, reviewed: frozenset[str] = frozenset(),
    without_object: frozenset[int] = frozenset(), sets: Bool[np.ndarray, "n C"] | None = None,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Order images for review: a random sample, then the least sure ones, spread over classes.

    An image is as sure as the best-scored box of its first class, and one without a box is the
    least sure. Of an image that may have several classes it is that of the least sure class, and a
    class without a box is the least sure. The sample is random by the hash of the name, so that it
    hardly changes as images are added. Within `BLOCK` images of the order the classes take turns.
    Images that a person has reviewed come last, and stay in the sample if they were in it.

    Args:
        table: the boxes.
        explained: the positions of the images that could be read.
        confidences: of each box.
        ids: the name of each image, by position.
        sample: how many images are drawn at random.
        seed: of the draw.
        reviewed: the names of images whose boxes are a person's.
        without_object: the positions of images of classes without an object, and of those that are
            labelled as showing no class: what is found there is known to be wrong, so they are not
            drawn and come last, before those that are reviewed.
        sets: which classes each image is labelled with, where it may have several and they were
            explained; None: those of the table are all that count.

    Returns:
        The rank of each image by position, from 1, 0 where it could not be read; and whether it
        belongs to the random sample.
    """
    sureness, label = _find_least_sure(table, confidences, len(ids), sets)
    key = {n: hash_of(["review", seed, ids[n]]) for n in explained}
    with_object = set(key) - without_object
    drawn = sorted(with_object, key=lambda n: key[n])[:sample]
    rest = sorted(with_object - set(drawn), key=lambda n: (sureness[n], key[n]))
    ranks, sampled = np.zeros(len(ids), np.int32), np.zeros(len(ids), bool)
    sampled[drawn] = True
    last = sorted(set(key) & without_object, key=lambda n: key[n])
    order = [*drawn, *_spread_classes(rest, label), *last]
    order.sort(key=lambda n: ids[n] in reviewed)  # a stable sort
    for rank, n in enumerate(order, 1):
        ranks[n] = rank
    return ranks, sampled


def _find_least_sure(
    table: Table, confidences: Float32[np.ndarray, n], count: int,
    sets: Bool[np.ndarray, "i C"] | None,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Return how sure each image is, -1 where it has no box, and the class that this is of."""
    sureness, label = np.full(count, -1.0), np.full(count, -1)
    counts = table.first.copy()
    if sets is not None:  # of an image with labels, classes that are none of them do not count
        counts &= sets[table.position, table.label] | ~sets[table.position].any(1)
    chosen = np.flatnonzero(counts)
    chosen = chosen[np.argsort(-confidences[chosen], kind="stable")]  # the least sure is kept
    sureness[table.position[chosen]] = confidences[chosen]
    label[table.position[chosen]] = table.label[chosen]
    if sets is not None:
        has_box = np.zeros_like(sets)
        has_box[table.position, table.label] = True
        without = sets & ~has_box
        lacking = without.any(1)
        sureness[lacking], label[lacking] = -1.0, without[lacking].argmax(1)
    return sureness, label


def _spread_classes(order: Sequence[int], label: np.ndarray) -> list[int]:
    """Let classes take turns within each block of an order."""
    spread: list[int] = []
    for start in range(0, len(order), BLOCK):
        count: dict[int, int] = {}
        turns = []
        for n in order[start : start + BLOCK]:
            turn = count.get(int(label[n]), 0)
            count[int(label[n])] = turn + 1
            turns.append((turn, n))
        spread += [n for _, n in sorted(turns, key=lambda item: item[0])]
    return spread
