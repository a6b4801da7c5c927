"""Check a pretrained head on labelled training images, class by class, before it is trusted.

A name may mean two things: ImageNet's kite is a bird. Labels of training images show it; no box, no
held-back image and no image of val is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.engine import checkpoint, runtime
from pipeline.engine.compute import Compute
from pipeline.engine.images import SplitImages
from pipeline.engine.progress import show_progress
from pipeline.formats.files import read_json, write_json
from pipeline.types import Example, Note

if TYPE_CHECKING:
    from pipeline.model.classifier import Classifier

MAX_IMAGES = 32  # of a class that are classified
MIN_IMAGES = 8  # of a class, to judge it
MIN_SKILL = 0.5  # of a class: the share of the way from chance to always right
LOWEST_TOP1 = 0.5  # of a class, where the head is the user's own
SEED = 0  # of the sample: the same for all runs, so that seeds do not change the recipe
FILE = "head_check.json"


@dataclass(frozen=True)
class HeadCheck:
    """How often a head is right on labelled training images.

    Attributes:
        classes: the names of the classes.
        right: of each class, how many images are classified right among these classes.
        images: of each class, how many were classified.
        skipped: why images could not be read.
        is_users: whether it is the head of the user's own file, and not ImageNet's by name.
    """

    classes: tuple[str, ...]
    right: tuple[int, ...]
    images: tuple[int, ...]
    skipped: tuple[str, ...] = ()
    is_users: bool = False

    @property
    def judged(self) -> list[int]:
        """The classes with enough images to judge them."""
        return [n for n, count in enumerate(self.images) if count >= MIN_IMAGES]

    @property
    def lowest_top1(self) -> float:
        """The accuracy that a class must have: 0.75 of 2 classes, 0.55 of 10, towards 0.5.

        It is 0.5 for the head of the user's own file, which was made for such classes. Half of the
        median class's accuracy is never more than this.
        """
        if self.is_users:
            return LOWEST_TOP1
        chance = 1 / len(self.classes)
        return chance + MIN_SKILL * (1 - chance)

    @property
    def failing(self) -> list[int]:
        """The judged classes that the head does not know by this name."""
        return [n for n in self.judged if self.right[n] / self.images[n] < self.lowest_top1]

    def record(self) -> dict[str, Any]:
        """Return what the card holds: of each class [right, images], and the failing classes."""
        pairs = zip(self.right, self.images, strict=True)
        return {
            "classes": dict(zip(self.classes, map(list, pairs), strict=True)),
            "failing": [self.classes[n] for n in self.failing],
            "skipped": len(self.skipped),
        }

    def describe(self) -> list[Note]:
        """Return a line about all classes, and lines about what was not judged or not read."""
        judged = self.judged
        right, images = (sum(counts[n] for n in judged) for counts in (self.right, self.images))
        lines = []
        if judged:
            lines.append(Note(
                f"train: the pretrained head is right on {right} of {images} labelled training "
                f"images of {len(judged)} of {len(self.classes)} classes (at most {MAX_IMAGES} "
                "images a class, among these classes)"))  # fmt: skip
        unjudged = [name for n, name in enumerate(self.classes) if n not in judged]
        if unjudged:
            shown = ", ".join(map(repr, unjudged[:3])) + (", ..." if len(unjudged) > 3 else "")
            lines.append(Note(
                f"train: the pretrained head was not checked on {len(unjudged)} of "
                f"{len(self.classes)} classes ({shown}), which have fewer than {MIN_IMAGES} "
                "training images that can be read; train.head=new learns a head", unjudged)
            )  # fmt: skip
        if self.skipped:
            drawn = sum(self.images) + len(self.skipped)
            lines.append(Note(
                f"train: {len(self.skipped)} of {drawn} training images that were drawn to check "
                "the pretrained head could not be read and are not among those that it is judged "
                f"by; repair or remove them: {self.skipped[0]}", self.skipped))  # fmt: skip
        return lines

    def describe_failing(self, decision: str) -> Note:
        """Return a line that names the failing classes with their numbers.

        Args:
            decision: what is done about them.
        """
        middle = median(self.right[n] / self.images[n] for n in self.judged)
        shown = [
            f"{self.classes[n]!r} right on {self.right[n]} of {self.images[n]}"
            for n in self.failing[:5]
        ]
        more = ", ..." if len(self.failing) > 5 else ""
        meaning = "the names may mean other things there"
        if self.is_users:
            meaning = ("the rows may be in another order, or the network does not know these "
                       "images")  # fmt: skip
        return Note(
            f"train: the pretrained head fails on {len(self.failing)} of {len(self.judged)} "
            f"classes: {', '.join(shown)}{more} (median class {middle:.0%}, expected "
            f"{self.lowest_top1:.0%}); {meaning}: {decision}",
            [self.classes[n] for n in self.failing],
        )


def draw_sample(labels: np.ndarray, classes: int) -> list[int]:
    """Draw at most MAX_IMAGES images of each class; return their positions, sorted.

    Args:
        labels: the class of each image, -1 where it has none; or its classes [n, C].
        classes: the number of classes.
    """
    random = np.random.default_rng(SEED)
    drawn: list[int] = []
    for label in range(classes):
        members = np.flatnonzero(labels == label if labels.ndim == 1 else labels[:, label])
        count = min(len(members), MAX_IMAGES)
        drawn += random.choice(members, count, replace=False).tolist() if count else []
    return sorted(set(drawn))


def write_check(
    images: SplitImages,
    compute: Compute,
    folder: Path,
    network: Classifier,
    normalization: tuple[Sequence[float], Sequence[float]],
) -> None:
    """Classify a sample of labelled images, and write how many of each class are right.

    Of an image with k labels the k most probable classes count as right.

    Args:
        images: the training images.
        compute: device, precision, threads.
        folder: where the file is written.
        network: with a row for each class of the images; in eval mode afterwards.
        normalization: mean and standard deviation of the network's input.
    """
    import torch

    network.to(compute.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    labels = images.label_sets if images.is_multi_label else images.labels
    positions = draw_sample(labels, len(network.classes))
    right, count = (np.zeros(len(network.classes), int) for _ in range(2))
    skipped: list[str] = []
    read = runtime.map_in_threads(
        lambda position: images.read(position, images.size), positions, compute.workers
    )
    with show_progress("check", len(positions)) as advance:
        for batch in runtime.split_into_batches(read, compute.batch):
            examples = [item for item in batch if isinstance(item, Example)]
            skipped += [str(item) for item in batch if not isinstance(item, Example)]
            advance(len(batch))
            if not examples:
                continue
            pixels = np.stack([example.image for example in examples])
            inputs = checkpoint.to_tensor(pixels, *normalization, compute.device)
            with torch.inference_mode(), compute.autocast():
                logits = network(inputs).logits.float().cpu().numpy()
            for example, row in zip(examples, logits, strict=True):
                best = np.argsort(-row, kind="stable")[: len(example.labels)]
                for label in example.labels:
                    count[label] += 1
                    right[label] += label in best
    record = {"right": right.tolist(), "images": count.tolist(), "skipped": skipped}
    write_json(folder / FILE, record)


def read_check(folder: Path, classes: Sequence[str], is_users: bool) -> HeadCheck:
    """Return what `write_check` wrote.

    Args:
        folder: of the result.
        classes: the names of the classes.
        is_users: whether it is the head of the user's own file.
    """
    record: Mapping[str, Any] = read_json(folder / FILE)
    right, images, skipped = (tuple(record[name]) for name in ("right", "images", "skipped"))
    return HeadCheck(tuple(classes), right, images, skipped, is_users)
