"""Pseudo-labels: the targets of refine's localization head, from training images and their labels.

A pseudo-label has the features that the head reads, of the image, of its mirror image and of a crop
around the object (windows.py); the teacher's map; and `mask`, that map refined by the segmenter,
and its crop; all are from 0 to 1. Images in which the segmenter fell back to the map, because
colours and map disagree, are left out. Pseudo-labels are kept in shards, so a killed run resumes,
and a head with other settings needs no new ones; they are memory-mapped. No box is read.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np

from pipeline.engine import runtime, shards
from pipeline.engine.checkpoint import Checkpoint
from pipeline.engine.compute import Compute
from pipeline.engine.images import SplitImages
from pipeline.engine.passes import limit_batch
from pipeline.formats.arrays import map_arrays
from pipeline.ops.maps import upsample
from pipeline.protocols import RefiningSegmenter, SaliencyMethod
from pipeline.results.shards import list_shards
from pipeline.types import Example, SaliencyMap, Size

if TYPE_CHECKING:
    from jaxtyping import Float32, Int
    from torch import Tensor

View = Literal["plain", "mirrored", "cropped"]
TARGET_SIDE = 56  # pixels of the longer side: twice as fine as features of stride 8


def choose_evenly(labels: Int[np.ndarray, n], most: int) -> Int[np.ndarray, m]:
    """Choose images evenly: each class in proportion, evenly in the order of positions.

    Args:
        labels: The class of each image.
        most: Images at most; a class has one image at least.

    Returns:
        Positions in increasing order.
    """
    if len(labels) <= most:
        return np.arange(len(labels))
    by_class = [np.flatnonzero(labels == c) for c in np.unique(labels)]
    share, kept = most / len(labels), []
    for members in by_class:
        count = max(1, round(share * len(members)))
        kept.append(members[np.linspace(0, len(members) - 1, count).round().astype(int)])
    return np.sort(np.concatenate(kept))


@dataclass(frozen=True, kw_only=True)
class PseudoLabeler:
    """Makes pseudo-labels.

    Args:
        trained: the classifier.
        images: the training images; their labels take part, their boxes never.
        compute: device, precision, threads.
        teacher: the method whose maps of the labels are refined.
        segmenter: refines these maps.
        reads: the layers that the localization head reads, finest first.
        negatives: classes without an object: their images have no pseudo-label.
    """

    trained: Checkpoint
    images: SplitImages
    compute: Compute
    teacher: SaliencyMethod
    segmenter: RefiningSegmenter
    reads: Sequence[str]
    negatives: Collection[int] = ()

    def write(self, folder: Path, max_images: int) -> None:
        """Write the pseudo-labels of at most `max_images` images as shards."""
        labels = self.images.labels
        objects = np.flatnonzero(~np.isin(labels, sorted(self.negatives)))
        positions = objects[choose_evenly(labels[objects], max_images)]
        compute = limit_batch(self.compute, self.teacher, self.trained, self.images)
        shards.write_image_shards(
            self.images, compute, folder, "pseudo-labels", self._label_batch, positions
        )

    def _label_batch(self, batch: shards.PositionedExamples) -> shards.Arrays:
        """Compute the pseudo-labels of a batch."""
        import torch

        from pipeline.saliency.zoom import crop_to_boxes
        from pipeline.stages.refine.windows import crop_masks, draw_window

        network, reads = self.trained.network, self.reads
        images = self.trained.tensor(shards.stack_pixels(batch))
        labels = shards.stack_labels(batch, images.device)
        maps = self.teacher(network, images, lambda _: labels[:, None]).maps[:, 0]
        values = maps.detach().float().cpu().numpy()
        # On a CPU each batch has a worker already; on an accelerator the threads are free here.
        threads = 0 if self.compute.is_cpu else self.compute.workers
        examples = ((example, raw) for (_, example), raw in zip(batch, values, strict=True))
        targets = list(runtime.map_in_threads(self._refine, examples, threads))
        masks = np.stack([target.mask for target in targets])
        named = zip(masks, batch, strict=True)
        windows = np.stack([draw_window(mask >= 0.5, example.id) for mask, (_, example) in named])
        views: dict[View, Tensor] = {
            "plain": images,
            "mirrored": images.flip(3),
            "cropped": crop_to_boxes(images, torch.from_numpy(windows)),
        }
        features: shards.Arrays = {}
        for view, seen in views.items():
            with torch.no_grad():
                maps_of = network(seen, at=reads).activations
            features |= {f"{view}{n}": _half(maps_of[name]) for n, name in enumerate(reads)}
        return {
            "map": np.stack([target.map for target in targets]).astype(np.float16),
            "mask": masks.astype(np.float16),
            "cropped_mask": crop_masks(masks, windows).astype(np.float16),
            "sure": np.array([target.is_sure for target in targets]),
            **features,
        }

    def _refine(self, item: tuple[Example, Float32[np.ndarray, "h w"]]) -> Target:
        return refine_target(self.segmenter, *item)


@dataclass(frozen=True)
class Target:
    """The map of an image and the refined map, both from 0 to 1, at the size of targets."""

    map: Float32[np.ndarray, "H W"]
    mask: Float32[np.ndarray, "H W"]
    is_sure: bool  # not where the segmenter fell back to the map alone


def _half(features: Tensor) -> np.ndarray:
    """Convert features to float16, clipped to its range."""
    largest = float(np.finfo(np.float16).max)
    return features.detach().float().clamp(-largest, largest).half().cpu().numpy()


def refine_target(
    segmenter: RefiningSegmenter, example: Example, values: Float32[np.ndarray, "h w"]
) -> Target:
    """Refine the map of an image, and shrink both to the size of targets.

    Args:
        segmenter: Refines the map.
        example: The image at the network's size.
        values: The raw map.
    """
    size = (example.image.shape[0], example.image.shape[1])
    saliency = SaliencyMap.of(example.id, example.label, example.label, 1.0, values, size)
    # The image at the network's size stands for the original: its size is that of the map.
    scaled = Example(example.id, example.image, example.label, size)
    refined, fell_back = segmenter.refined(saliency, scaled)
    frame = target_size(size)
    small = cv2.resize(refined, frame[::-1], interpolation=cv2.INTER_AREA)
    return Target(upsample(saliency.raw(), frame), small, fell_back is None)


def target_size(size: Size) -> Size:
    """Return (height, width) of the targets of images of a size."""
    scale = TARGET_SIDE / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


@dataclass(frozen=True)
class PseudoLabels:
    """All pseudo-labels, memory-mapped and read a batch at a time."""

    shards: Sequence[Mapping[str, np.ndarray]]
    where: Int[np.ndarray, "n 2"]  # the shard of each, and its row there
    layers: int
    image_count: int  # including those whose target is not sure

    @classmethod
    def read(cls, folder: Path, layers: int) -> PseudoLabels:
        """Open the shards of a folder; `layers`: how many layers the head reads."""
        opened = [map_arrays(path) for path in list_shards(folder)]
        filled = [arrays for arrays in opened if arrays]
        where = [(n, row) for n, a in enumerate(filled) for row in np.flatnonzero(a["sure"])]
        count = sum(len(arrays["sure"]) for arrays in filled)
        return cls(filled, np.array(where, np.int64).reshape(-1, 2), layers, count)

    def __len__(self) -> int:
        return len(self.where)

    def take(self, name: str, chosen: Int[np.ndarray, b]) -> np.ndarray:
        """Return the rows of an array, in the order of `chosen`."""
        return np.stack([self.shards[n][name][row] for n, row in self.where[chosen]])

    def target(
        self, chosen: Int[np.ndarray, b], share: float, view: View = "plain"
    ) -> Float32[np.ndarray, "b H W"]:
        """Return the targets share * map + (1 - share) * mask of a view, from 0 to 1.

        Args:
            chosen: the indices of pseudo-labels.
            share: of the map; 0 for the view `cropped`.
            view: of the images.
        """
        if view == "cropped":
            return self.take("cropped_mask", chosen).astype(np.float32)
        flip = slice(None, None, -1 if view == "mirrored" else 1)
        return self._mix(chosen, share)[:, :, flip].copy()

    def _mix(self, chosen: Int[np.ndarray, b], share: float) -> Float32[np.ndarray, "b H W"]:
        """Return share * map + (1 - share) * mask of images."""
        mask = self.take("mask", chosen).astype(np.float32)
        if share == 0:
            return mask
        mixed = share * self.take("map", chosen).astype(np.float32) + (1 - share) * mask
        return np.asarray(mixed / mixed.max((1, 2), keepdims=True).clip(1e-6))

    def features(self, chosen: Int[np.ndarray, b], view: View = "plain") -> list[Tensor]:
        """Return the features of a view of some images, finest layer first."""
        import torch

        rows = [self.take(f"{view}{n}", chosen) for n in range(self.layers)]
        return [torch.from_numpy(values).float() for values in rows]
