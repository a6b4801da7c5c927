"""Build the batches that tests of maps are given: pixels, classes, and how they are explained."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.engine import checkpoint, shards
from pipeline.errors import SkippedImage
from pipeline.ops.hashing import hash_of
from pipeline.protocols import Network, SaliencyMethod
from pipeline.saliency.targets import class_selector
from pipeline.types import AuditBatch, Boxes, SaliencyMap

if TYPE_CHECKING:
    from jaxtyping import Float, Float32, Int
    from torch import Tensor

SegmentMap = Callable[[int, SaliencyMap], Boxes | SkippedImage]
"""From an image's position in its split and its map to boxes."""


@dataclass(frozen=True, kw_only=True)
class BatchBuilder:
    """Builds the batches for tests of a method on a network.

    Args:
        trained: The network.
        method: The saliency method, fitted if it needs fitting.
        targets: `explain.target`; the first class of each image is explained.
        negatives: classes without an object, which no rule of `targets` selects.
        segment: How maps become boxes.
        seed: The seed of the run.
    """

    trained: checkpoint.Checkpoint
    method: SaliencyMethod
    targets: Sequence[str]
    negatives: Collection[int]
    segment: SegmentMap
    seed: int

    def build(self, examples: shards.PositionedExamples, shown: int) -> AuditBatch:
        """Build the batch of some images, of which the first `shown` are kept for a picture."""
        pixels = shards.stack_pixels(examples)
        images = self.trained.tensor(pixels)
        classes = self._select_classes(examples, images)
        return AuditBatch(
            positions=[position for position, _ in examples],
            pixels=pixels,
            sizes=[example.size for _, example in examples],
            images=images,
            classes=classes,
            # A seed for each image: results do not depend on the division into batches.
            seeds=[int(hash_of([self.seed, position]), 16) for position, _ in examples],
            shown=shown,
            maps_of=lambda network, given: self._explain(network, given, classes),
            logits_of=_compute_logits,
            best_boxes=lambda maps: self._segment_best(examples, classes, maps),
        )

    def _select_classes(
        self, examples: shards.PositionedExamples, images: Float[Tensor, "b 3 H W"]
    ) -> Int[Tensor, "b"]:
        """Return the first class of `targets` for each image."""
        labels = shards.stack_labels(examples, images.device)
        select = class_selector(self.targets, self.trained.classes, labels, self.negatives)
        return select(_compute_logits(self.trained.network, images))[:, 0]

    def _explain(
        self, network: Network, images: Float[Tensor, "b 3 H W"], classes: Int[Tensor, "b"]
    ) -> Float[Tensor, "b h w"]:
        """Compute the maps of given classes in float32."""
        from pipeline.ops.precision import disable_autocast

        with disable_autocast(images):
            explanation = self.method(network, images, lambda logits: classes[:, None])
        return explanation.maps[:, 0].detach().float()

    def _segment_best(
        self,
        examples: shards.PositionedExamples,
        classes: Int[Tensor, "b"],
        maps: Float[Tensor, "b h w"],
    ) -> Float32[np.ndarray, "b 4"]:
        """Return the best box of each map; an empty box where there is none."""
        from pipeline.ops.tensors import to_numpy

        best = []
        for (position, example), label, values in zip(
            examples, classes.tolist(), to_numpy(maps), strict=True
        ):
            # Rounded to float16 as stage explain stores maps, so that boxes are the same.
            saliency = SaliencyMap.of(example.id, label, label, 1.0, values, example.size)
            boxes = self.segment(position, saliency)
            if isinstance(boxes, SkippedImage) or not len(boxes.boxes):
                best.append(np.zeros(4, np.float32))
            else:
                best.append(boxes.boxes[0])
        return np.stack(best)


def _compute_logits(network: Network, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b C"]:
    import torch

    with torch.no_grad():
        return network(images).logits.float()
