"""Build the batches that tests of maps are given: pixels, classes, and how they are explained."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.engine import shards
from pipeline.errors import SkippedImage
from pipeline.ops.hashing import hash_of
from pipeline.protocols import Network, SaliencyMethod, TrainedNetwork
from pipeline.saliency.targets import class_selector
from pipeline.types import AuditBatch, Boxes, ClassSelector, SaliencyMap, Size

if TYPE_CHECKING:
    from jaxtyping import Float, Float32, Int, UInt8
    from torch import Tensor

SegmentMap = Callable[[int, SaliencyMap], Boxes | SkippedImage]
"""From an image's position in its split and its map to boxes."""


@dataclass(frozen=True, kw_only=True)
class ImageBatch:
    """Images of one size, and what is known of them.

    Attributes:
        ids: Their names.
        positions: Their places among all images.
        pixels: RGB, at the size of the network's input.
        sizes: Height and width of each original image.
        images: As the network reads them.
    """

    ids: Sequence[str]
    positions: Sequence[int]
    pixels: UInt8[np.ndarray, "b H W 3"]
    sizes: Sequence[Size]
    images: Float[Tensor, "b 3 H W"]

    def take(self, rows: Sequence[int]) -> ImageBatch:
        """Return some of the images.

        Args:
            rows: Their places in the batch.
        """
        return ImageBatch(
            ids=[self.ids[n] for n in rows],
            positions=[self.positions[n] for n in rows],
            pixels=self.pixels[rows],
            sizes=[self.sizes[n] for n in rows],
            images=self.images[rows],
        )


@dataclass(frozen=True, kw_only=True)
class BatchBuilder:
    """Builds the batches for tests of a method on a network.

    Args:
        network: The network.
        method: The saliency method, fitted if it needs fitting.
        segment: How maps become boxes.
        seed: The seed of the run.
        is_independent: Whether the classes of the network do not exclude each other.
    """

    network: Network
    method: SaliencyMethod
    segment: SegmentMap
    seed: int
    is_independent: bool = False

    def build(self, given: ImageBatch, select: ClassSelector, shown: int) -> AuditBatch:
        """Build the batch of some images.

        Args:
            given: The images.
            select: From logits to classes, of which the first of each image is explained.
            shown: How many of the images, from the first on, are kept for a picture.
        """
        classes = select(_compute_logits(self.network, given.images))[:, 0]
        return self.build_of(given, classes, shown)

    def build_of(self, given: ImageBatch, classes: Int[Tensor, "b"], shown: int) -> AuditBatch:
        """Build the batch of some images and classes.

        Args:
            given: The images.
            classes: The class of each that is explained.
            shown: How many of the images, from the first on, are kept for a picture.
        """

        def read_logits(network: Network, images: Float[Tensor, "b 3 H W"]) -> Tensor:
            logits = _compute_logits(network, images)
            return logits.gather(1, classes[:, None]) if self.is_independent else logits

        return AuditBatch(
            positions=given.positions,
            pixels=given.pixels,
            sizes=given.sizes,
            images=given.images,
            classes=classes,
            # A seed for each image: results do not depend on the division into batches.
            seeds=[int(hash_of([self.seed, position]), 16) for position in given.positions],
            shown=shown,
            maps_of=lambda network, images: self._explain(network, images, classes),
            logits_of=read_logits,
            best_boxes=lambda maps: self._segment_best(given, classes, maps),
            is_independent=self.is_independent,
        )

    def _explain(
        self, network: Network, images: Float[Tensor, "b 3 H W"], classes: Int[Tensor, "b"]
    ) -> Float[Tensor, "b h w"]:
        """Compute the maps of given classes in float32."""
        from pipeline.ops.precision import disable_autocast

        with disable_autocast(images):
            explanation = self.method(network, images, lambda logits: classes[:, None])
        return explanation.maps[:, 0].detach().float()

    def _segment_best(
        self, given: ImageBatch, classes: Int[Tensor, "b"], maps: Float[Tensor, "b h w"]
    ) -> Float32[np.ndarray, "b 4"]:
        """Return the best box of each map; an empty box where there is none."""
        from pipeline.ops.tensors import to_numpy

        best = []
        for n, (label, values) in enumerate(zip(classes.tolist(), to_numpy(maps), strict=True)):
            # Rounded to float16 as stage explain stores maps, so that boxes are the same.
            saliency = SaliencyMap.of(given.ids[n], label, label, 1.0, values, given.sizes[n])
            boxes = self.segment(given.positions[n], saliency)
            if isinstance(boxes, SkippedImage) or not len(boxes.boxes):
                best.append(np.zeros(4, np.float32))
            else:
                best.append(boxes.boxes[0])
        return np.stack(best)


@dataclass(frozen=True, kw_only=True)
class SplitBatches:
    """Builds batches from the images of a split, and the classes that the run explains in them.

    Args:
        builder: Builds the batches.
        trained: The network, with the normalization of its input.
        targets: `explain.target`; the first class of each image is explained. Where an image may
            have several classes, each that the first target selects.
        negatives: classes without an object, which no rule of `targets` selects.
        has_sets: whether an image may have several labels.
        least_logit: where classes do not exclude each other, of a class that is predicted.
    """

    builder: BatchBuilder
    trained: TrainedNetwork
    targets: Sequence[str]
    negatives: Collection[int]
    has_sets: bool = False
    least_logit: float | None = None

    @property
    def is_of_pairs(self) -> bool:
        """Whether each number is of a pair of an image and one of its classes."""
        return self.has_sets or self.least_logit is not None

    def build(self, examples: shards.PositionedExamples, shown: int) -> Iterator[AuditBatch]:
        """Build the batches of some images: one, or one for each of the classes of an image.

        Args:
            examples: The images with their positions.
            shown: How many of the images, from the first on, are kept for a picture, each with its
                first class.

        Yields:
            Batches of at most as many rows as there are images: of the first class of each image,
            then of the second of those that have two, and so on.
        """
        pixels = shards.stack_pixels(examples)
        images = self.trained.tensor(pixels)
        given = ImageBatch(
            ids=[example.id for _, example in examples],
            positions=[position for position, _ in examples],
            pixels=pixels,
            sizes=[example.size for _, example in examples],
            images=images,
        )
        if not self.is_of_pairs:
            labels = shards.stack_labels(examples, images.device)
            select = class_selector(self.targets, self.trained.classes, labels, self.negatives)
            yield self.builder.build(given, select, shown)
            return
        for rows, classes in self._list_columns(given, examples):
            yield self.builder.build_of(given.take(rows), classes, shown)
            shown = 0

    def _list_columns(
        self, given: ImageBatch, examples: shards.PositionedExamples
    ) -> Iterator[tuple[list[int], Int[Tensor, "m"]]]:
        """Yield the images that have a first class, a second, ..., by their rows, and the class."""
        network, device = self.trained.network, given.images.device
        labels = (
            shards.stack_label_sets(examples, len(self.trained.classes), device)
            if self.has_sets
            else shards.stack_labels(examples, device)
        )
        select = class_selector(
            self.targets[:1], self.trained.classes, labels, self.negatives, self.least_logit
        )
        chosen = select(_compute_logits(network, given.images))
        distinct = [[*dict.fromkeys(row)] for row in chosen.tolist()]
        for column in range(max(map(len, distinct))):
            rows = [n for n, row in enumerate(distinct) if column < len(row)]
            yield rows, chosen.new_tensor([distinct[n][column] for n in rows])


def _compute_logits(network: Network, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b C"]:
    import torch

    with torch.no_grad():
        return network(images).logits.float()
