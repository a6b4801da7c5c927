"""Labels that a pretrained network doubts: a look for wrong labels, before anything is trained.

    doubt = p(most probable other class) - p(label)     among the classes of the data set

The network is that of model= with the head that came with its weights. An image is doubted where
another class is more probable than its label, so that the doubt is above 0. Where an image may have
several labels, set_doubts.py has the definitions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.engine import checkpoint, runtime
from pipeline.engine.backends import compiled
from pipeline.engine.reuse import EarlierImages
from pipeline.engine.shard_parts import concatenate_parts
from pipeline.engine.shards import (
    ShardPlan,
    flow_of_new_images,
    single_threaded_torch,
    write_shards,
)
from pipeline.errors import SkippedImage, UserError
from pipeline.formats.arrays import read_arrays
from pipeline.results.shards import Arrays, Skipped, list_shards
from pipeline.stages.check.findings import Finding, name_class
from pipeline.stages.check.set_doubts import (
    SetDoubt,
    describe_exclusive,
    describe_independent,
    describe_set_doubts,
    list_set_doubts,
)

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from pipeline.engine.compute import Compute
    from pipeline.model.classifier import Classifier
    from pipeline.protocols import NetworkBuilder
    from pipeline.stages.check.images import CheckedImages


@dataclass(frozen=True)
class Doubt:
    """An image whose label the network doubts.

    Attributes:
        number: of the image.
        predicted: the most probable other class.
        probability: of that class.
        of_label: the probability of the label.
    """

    number: int
    predicted: int
    probability: float
    of_label: float


def match_rows(model: NetworkBuilder, classes: Sequence[str]) -> list[int]:
    """Return the row of each class in the head that came with the weights of a network.

    Args:
        model: the network's builder.
        classes: of the data set.

    Raises:
        UserError: the network has no weights, or its head does not know all classes.
    """
    from pipeline.model.classes import match_classes

    if not model.pretrained:
        raise UserError(
            "check.doubt=true: model= has no weights, so it can doubt nothing; give a pretrained "
            "network, as in model=mobilenet_v2, or check.doubt=false"
        )
    rows = match_classes(classes, model.known) if classes else None
    if rows is None:
        unknown = next((name for name in classes if match_classes([name], model.known) is None), "")
        raise UserError(
            f"check.doubt=true: the head of the pretrained network has no row for "
            f"{f'the class {unknown!r}' if unknown else 'each class'}; classes.txt gives folders "
            "the names of its head, or check.doubt=false"
        )
    return rows


def build_network(model: NetworkBuilder, classes: Sequence[str]) -> Classifier:
    """Build the pretrained network with the rows of its head for some classes.

    Args:
        model: the network's builder.
        classes: of the data set.

    Raises:
        UserError: the weights have no head that fits.
    """
    from pipeline.model.classifier import Classifier
    from pipeline.model.torchvision import select_classes

    rows = match_rows(model, classes)
    body, head, known = model.load()
    if head is None:
        raise UserError("check.doubt=true: the weights have no head; check.doubt=false")
    if rows != list(range(len(known))):
        head = select_classes(head, rows)
    return Classifier(body, head, tuple(classes), model.last, model.below)


def measure_doubts(
    images: CheckedImages, folder: Path, compute: Compute, model: NetworkBuilder,
    classes: Sequence[str], earlier: EarlierImages | None = None,
) -> None:  # fmt: skip
    """Classify all images that are labelled, and write the shards that are missing.

    An image that is labelled as showing no class can only lack a label, which a head of exclusive
    classes does not tell.

    Args:
        images: of all splits.
        folder: that the shards are written into.
        compute: device, precision, threads.
        model: the network's builder.
        classes: of the data set.
        earlier: what the same network said of some of the images; None: of none.
    """
    import torch

    network = build_network(model, classes)
    network.to(compute.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    is_asked = images.labels >= 0
    if model.is_multi_label:
        is_asked |= images.backgrounds

    def read(piece: Sequence[int]) -> tuple[list[int], list[np.ndarray]]:
        numbers, pixels = [], []
        for number in [n for n in piece if is_asked[n]]:
            try:
                pixels.append(images.read(number, images.data.size).image)
            except SkippedImage:  # stage check names it already
                continue
            numbers.append(number)
        return numbers, pixels

    def classify(batch: tuple[list[int], list[np.ndarray]]) -> tuple[Arrays, Skipped]:
        numbers, pixels = batch
        if not numbers:
            return {}, []
        inputs = checkpoint.to_tensor(np.stack(pixels), model.mean, model.std, compute.device)
        with torch.inference_mode(), compute.autocast():
            logits = network(inputs).logits.float()
        return _describe_answers(images, np.array(numbers), logits, model.is_multi_label), []

    def classify_new(pieces: Iterator[Sequence[int]]) -> Iterator[tuple[Arrays, Skipped]]:
        if not compute.is_cpu:
            yield from map(classify, runtime.map_in_threads(read, pieces, compute.workers))
            return
        with single_threaded_torch():
            yield from runtime.map_in_threads(
                lambda piece: classify(read(piece)), pieces, compute.workers, compute.workers + 2
            )

    def flow(pieces: Iterator[range]) -> Iterator[tuple[Arrays, Skipped]]:
        return flow_of_new_images(classify_new, pieces, earlier)

    folder.mkdir(exist_ok=True)
    plan = ShardPlan(count=len(images), size=compute.shard, piece=compute.batch)
    with compiled([network], compute, len(images), images.data.size, folder):
        write_shards(folder, "doubt", plan, flow, concatenate_parts)


def _describe_answers(
    images: CheckedImages, numbers: np.ndarray, logits: Float[Tensor, "n C"], is_multi_label: bool
) -> Arrays:
    """Return what is kept of the answers of a network that may have a sigmoid for each class."""
    if images.sets is None:
        probabilities = logits.softmax(1).cpu().numpy()
        return _describe_batch(numbers, images.labels[numbers], probabilities)
    sets = images.sets[numbers]
    if is_multi_label:
        return describe_independent(numbers, sets, logits.sigmoid().cpu().numpy())
    return describe_exclusive(numbers, sets, logits.cpu().numpy())


def _describe_batch(numbers: np.ndarray, labels: np.ndarray, probabilities: np.ndarray) -> Arrays:
    """Return the most probable other class of each image, and the probabilities."""
    rows = np.arange(len(numbers))
    of_label = probabilities[rows, labels].copy()
    others = probabilities.copy()
    others[rows, labels] = -1
    predicted = others.argmax(1)
    return {
        "image": numbers.astype(np.int32),
        "predicted": predicted.astype(np.int32),
        "probability": others[rows, predicted].astype(np.float32),
        "of_label": of_label.astype(np.float32),
    }


def load_doubts(folder: Path) -> list[Doubt]:
    """Return the images whose label is doubted, the most doubtful first.

    Args:
        folder: that `measure_doubts` wrote into.
    """
    doubts = []
    for path in list_shards(folder):
        arrays, _ = read_arrays(path)
        for n in np.flatnonzero(arrays["probability"] > arrays["of_label"]) if arrays else ():
            names = ("image", "predicted", "probability", "of_label")
            number, predicted, probability, of_label = (arrays[name][n].item() for name in names)
            doubts.append(Doubt(number, predicted, probability, of_label))
    return sorted(doubts, key=lambda doubt: (doubt.of_label - doubt.probability, doubt.number))


def load_set_doubts(folder: Path) -> list[SetDoubt]:
    """Return the doubted classes of images that may have several, the most doubtful first.

    Args:
        folder: that `measure_doubts` wrote into.
    """
    shards = (read_arrays(path)[0] for path in list_shards(folder))
    doubts = [doubt for arrays in shards for doubt in list_set_doubts(arrays)]
    return sorted(doubts, key=lambda doubt: (-doubt.strength, doubt.number, doubt.label))


def describe_doubts(
    images: CheckedImages, doubts: Sequence[Doubt | SetDoubt], classes: Sequence[str]
) -> list[Finding]:
    """Return findings about doubted labels; none where there are none.

    Args:
        images: of all splits.
        doubts: the most doubtful first.
        classes: of the data set.
    """
    if of_sets := [doubt for doubt in doubts if isinstance(doubt, SetDoubt)]:
        return describe_set_doubts(images, of_sets, classes)
    if not doubts:
        return []
    names = [
        f"{images.ids[doubt.number]} ({name_class(images, doubt.number, classes)}, or "
        f"{classes[doubt.predicted]}?)"
        for doubt in doubts
        if isinstance(doubt, Doubt)
    ]
    labelled = int((images.labels >= 0).sum())
    return [Finding.of(
        "doubt", "warning", names, "image", f"of {labelled} with a label whose class the "
        "pretrained network takes for less probable than another: some labels may be wrong",
        "look at them, the most doubtful first, and move wrong ones to their class")]  # fmt: skip
