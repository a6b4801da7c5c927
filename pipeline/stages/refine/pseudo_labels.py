"""Pseudo-labels: the targets of refine's localization head, from training images and their labels.

A pseudo-label has the features that the head reads, of the image, of its mirror image and of a crop
around the object (windows.py); the teacher's map; and `mask`, that map refined by the segmenter,
and its crop; all are from 0 to 1. Images in which the segmenter fell back to the map, because
colours and map disagree, are left out. Pseudo-labels are kept in shards, so a killed run resumes,
and a head with other settings needs no new ones; they are memory-mapped. No box is read.

    image, window    the position of the image, and its crop

Where images may have several labels there is a pseudo-label for each class of each, with its number
in `class`: the teacher's map is of that class, and so are the mask and the crop.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np

from pipeline.engine import runtime, shards
from pipeline.engine.backends import compiled
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
    from jaxtyping import Bool, Float32, Int
    from torch import Tensor

View = Literal["plain", "mirrored", "cropped"]
MIN_PASSES = 4  # of an image: the teacher's, the image, its mirror image, its crop
TARGET_SIDE = 56  # pixels of the longer side: twice as fine as features of stride 8


def choose_evenly(labels: np.ndarray, most: int) -> Int[np.ndarray, m]:
    """Choose images evenly: each class in proportion, evenly in the order of positions.

    Args:
        labels: The class of each image [n], or its classes [n, C].
        most: Images at most; a class has one image at least.

    Returns:
        Positions in increasing order.
    """
    if len(labels) <= most:
        return np.arange(len(labels))
    if labels.ndim == 2:
        by_class = [np.flatnonzero(of_class) for of_class in labels.T if of_class.any()]
    else:
        by_class = [np.flatnonzero(labels == c) for c in np.unique(labels)]
    share, kept = most / sum(map(len, by_class)), []
    for members in by_class:
        count = max(1, round(share * len(members)))
        kept.append(members[np.linspace(0, len(members) - 1, count).round().astype(int)])
    return np.unique(np.concatenate(kept))


def choose_positions(
    labels: np.ndarray, negatives: Collection[int], most: int
) -> Int[np.ndarray, m]:
    """Choose the images that get pseudo-labels, evenly of all classes.

    Args:
        labels: The class of each image [n], or its classes [n, C].
        negatives: Classes without an object: their images have no pseudo-label.
        most: Images at most; a class has one image at least.
    """
    if labels.ndim == 2:
        objects = np.flatnonzero(np.delete(labels, sorted(negatives), 1).any(1))
    else:
        objects = np.flatnonzero(~np.isin(labels, sorted(negatives)))
    return np.asarray(objects[choose_evenly(labels[objects], most)])


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
        negatives: classes without an object.
    """

    trained: Checkpoint
    images: SplitImages
    compute: Compute
    teacher: SaliencyMethod
    segmenter: RefiningSegmenter
    reads: Sequence[str]
    negatives: Collection[int] = ()

    def write(self, folder: Path, positions: Int[np.ndarray, m]) -> None:
        """Write the pseudo-labels of the images at some positions as shards."""
        compute = limit_batch(self.compute, self.teacher, self.trained, self.images)
        passes, size = MIN_PASSES * len(positions), self.images.size
        with compiled([self.trained.network], self.compute, passes, size, folder):
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
        several = self.images.is_multi_label
        labels = self._list_classes(batch)
        rows = [n for n, each in enumerate(labels) for _ in each]
        classes = [label for each in labels for label in each]
        shown = images[rows] if several else images  # an image for each class
        values = self._teach(shown, classes, len(batch))
        # On a CPU each batch has a worker already; on an accelerator the threads are free here.
        threads = 0 if self.compute.is_cpu else self.compute.workers
        of_row = [batch[n] for n in rows]
        examples = ((example, raw) for (_, example), raw in zip(of_row, values, strict=True))
        targets = list(runtime.map_in_threads(self._refine, examples, threads))
        masks = np.stack([target.mask for target in targets])
        named = zip(masks, of_row, strict=True)
        windows = np.stack([draw_window(mask >= 0.5, example.id) for mask, (_, example) in named])
        views: dict[View, Tensor] = {
            "plain": images,
            "mirrored": images.flip(3),
            "cropped": crop_to_boxes(shown, torch.from_numpy(windows)),
        }
        features: shards.Arrays = {}
        for view, seen in views.items():
            with torch.no_grad():
                maps_of = network(seen, at=reads).activations
            for n, name in enumerate(reads):
                of_images = _half(maps_of[name])
                is_of_rows = view == "cropped" or not several
                features[f"{view}{n}"] = of_images if is_of_rows else of_images[rows]
        return {
            "image": shards.stack_positions(of_row),
            **({"class": np.array(classes, np.int32)} if several else {}),
            "window": windows,
            "map": np.stack([target.map for target in targets]).astype(np.float16),
            "mask": masks.astype(np.float16),
            "cropped_mask": crop_masks(masks, windows).astype(np.float16),
            "sure": np.array([target.is_sure for target in targets]),
            **features,
        }

    def _list_classes(self, batch: shards.PositionedExamples) -> list[tuple[int, ...]]:
        """List the classes of each image that get a pseudo-label: its only one, or all."""
        if not self.images.is_multi_label:
            return [(example.label,) for _, example in batch]
        return [
            tuple(label for label in example.labels if label not in self.negatives)
            for _, example in batch
        ]

    def _teach(
        self, images: Tensor, classes: Sequence[int], size: int
    ) -> Float32[np.ndarray, "n h w"]:
        """Compute the teacher's map of a class of each image, so many images at a time."""
        import torch

        wanted = torch.tensor(classes, device=images.device)[:, None]

        def explain(part: slice) -> Float32[np.ndarray, "b h w"]:
            answer = self.teacher(self.trained.network, images[part], lambda _: wanted[part])
            return np.asarray(answer.maps[:, 0].detach().float().cpu().numpy())

        starts = range(0, len(images), size)
        return np.concatenate([explain(slice(start, start + size)) for start in starts])

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
class ReplacedTarget:
    """A target in place of map and mask, from 0 to 1, and its crop."""

    plain: Float32[np.ndarray, "H W"]
    cropped: Float32[np.ndarray, "H W"]


@dataclass(frozen=True)
class PseudoLabels:
    """All pseudo-labels, memory-mapped and read a batch at a time."""

    shards: Sequence[Mapping[str, np.ndarray]]
    where: Int[np.ndarray, "n 2"]  # the shard of each, and its row there
    layers: int
    image_count: int  # including those whose target is not sure
    replaced: Mapping[int, ReplacedTarget] = field(default_factory=dict)  # by index

    @classmethod
    def read(cls, folders: Sequence[Path], layers: int) -> PseudoLabels:
        """Open the shards of some folders; `layers`: how many layers the head reads."""
        opened = [map_arrays(path) for folder in folders for path in list_shards(folder)]
        filled = [arrays for arrays in opened if arrays]
        where = [(n, row) for n, a in enumerate(filled) for row in np.flatnonzero(a["sure"])]
        count = sum(len(arrays["sure"]) for arrays in filled)
        return cls(filled, np.array(where, np.int64).reshape(-1, 2), layers, count)

    def __len__(self) -> int:
        return len(self.where)

    @property
    def positions(self) -> Int[np.ndarray, n]:
        """The position of each image in the training images."""
        return self.take("image", np.arange(len(self)))

    def take_classes(self, chosen: Int[np.ndarray, b]) -> Int[np.ndarray, b]:
        """Return the class of each pseudo-label; 0 where all classes have the same head.

        Args:
            chosen: the indices of pseudo-labels.
        """
        if not self.shards or "class" not in self.shards[0]:
            return np.zeros(len(chosen), np.int64)
        return self.take("class", chosen).astype(np.int64)

    @property
    def replaced_positions(self) -> list[int]:
        """The positions of the images whose targets were replaced."""
        return [int(n) for n in self.positions[sorted(self.replaced)]]

    def select(self, chosen: Bool[np.ndarray, n]) -> PseudoLabels:
        """Return some of the pseudo-labels.

        Args:
            chosen: whether each stays.
        """
        kept = np.flatnonzero(chosen)
        replaced = {n: self.replaced[i] for n, i in enumerate(kept.tolist()) if i in self.replaced}
        return replace(self, where=self.where[kept], replaced=replaced)

    def with_targets(
        self, targets: Mapping[int, Float32[np.ndarray, "H W"] | None]
    ) -> PseudoLabels:
        """Return the pseudo-labels with other targets for some images, whose own may be unsure.

        Args:
            targets: by the position of the image, from 0 to 1; None: the image is left out.
        """
        from pipeline.stages.refine.windows import crop_masks

        where: list[tuple[int, int]] = []
        replaced: dict[int, ReplacedTarget] = {}
        for n, arrays in enumerate(self.shards):
            for row in np.flatnonzero(arrays["sure"] | np.isin(arrays["image"], list(targets))):
                position = int(arrays["image"][row])
                target = targets.get(position)
                if target is None and position in targets:
                    continue
                if target is not None:
                    cropped = crop_masks(target[None], arrays["window"][row : row + 1].copy())[0]
                    replaced[len(where)] = ReplacedTarget(target, cropped)
                where.append((n, int(row)))
        return replace(self, where=np.array(where, np.int64).reshape(-1, 2), replaced=replaced)

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
            targets = self.take("cropped_mask", chosen).astype(np.float32)
        else:
            targets = self._mix(chosen, share)
        for n, index in enumerate(chosen.tolist()):
            if index in self.replaced:
                other = self.replaced[index]
                targets[n] = other.cropped if view == "cropped" else other.plain
        flip = slice(None, None, -1 if view == "mirrored" else 1)
        return targets[:, :, flip].copy()

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
