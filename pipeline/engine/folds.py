"""Folds: a training image is localized by a head that did not learn from it (annotate.folds).

    fold of an image = hash of its content modulo k        so that it stays where images are added

Stage refine fits a localization head without the images of each fold, besides the head that learned
from all. They are branches of the network, and its card has the hashes of the images learned from.
All other images are localized by the head that learned from all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pipeline.engine.checkpoint import Checkpoint
from pipeline.engine.images import SplitImages, image_source
from pipeline.engine.shards import PositionedExamples
from pipeline.results.human import image_content

if TYPE_CHECKING:
    from pipeline.model.classifier import Classifier

FIELD = "folds"  # of the card, absent where there are none


def fold_of(content: str, count: int) -> int:
    """Return the fold of an image.

    Args:
        content: hash of its content, in hexadecimal digits.
        count: of folds.
    """
    return int(content, 16) % count


def branch_name(fold: int) -> str:
    """Return the name of the branch that did not learn from a fold."""
    return f"foreground_fold{fold}"


def describe_folds(count: int, content: Sequence[str]) -> dict[str, Any]:
    """Return what the card says of folds.

    Args:
        count: of folds.
        content: hashes of the images that were learned from.
    """
    return {FIELD: {"count": count, "content": sorted(set(content))}}


@dataclass(frozen=True)
class FoldedNetworks:
    """The network for each image: with the head that did not learn from it.

    Attributes:
        trained: with the head that learned from all images.
        of_fold: the same for each fold, with its head.
        content: hashes of the images that were learned from.
        hash_image: from the position of an image to the hash of its content.
    """

    trained: Checkpoint
    of_fold: Sequence[Checkpoint]
    content: frozenset[str]
    hash_image: Callable[[int], str]

    @classmethod
    def of(cls, trained: Checkpoint, images: SplitImages) -> FoldedNetworks:
        """Return the networks of a checkpoint for the images of a split.

        Args:
            trained: the checkpoint, which may have no folds.
            images: the images.
        """
        record = trained.card.get(FIELD)
        if record is None:
            return cls(trained, (), frozenset(), lambda _: "")
        source = image_source(images.data, images.split)
        network: Classifier = trained.network
        networks = [
            replace(trained, network=network.with_foreground(branch_name(fold)))
            for fold in range(record["count"])
        ]
        content = frozenset(record["content"])
        return cls(trained, networks, content, lambda position: image_content(source, position))

    def split(self, batch: PositionedExamples) -> Iterator[tuple[Checkpoint, PositionedExamples]]:
        """Yield the parts of a batch, each with its network.

        Args:
            batch: examples with their positions.
        """
        if not self.of_fold:
            yield self.trained, batch
            return
        parts: dict[int | None, PositionedExamples] = {}
        for position, example in batch:
            content = self.hash_image(position)
            fold = fold_of(content, len(self.of_fold)) if content in self.content else None
            parts.setdefault(fold, []).append((position, example))
        for fold, part in parts.items():
            yield (self.trained if fold is None else self.of_fold[fold]), part
