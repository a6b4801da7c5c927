"""Lessons: what refine's student learns from. Training images, their labels, never a box.

Of each image the features that the student reads, as it is and mirrored; the teacher's map, and
that map refined by the segmenter, `mask`, both from 0 to 1. An image in which the segmenter fell
back to the map alone, for colours and map do not agree, teaches nothing. Lessons are kept in
shards, so a killed run goes on, and a student with other settings begins at once; they are read
through the memory map.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from pipeline.engine import checkpoint, runtime, shards, store
from pipeline.engine.choices import instantiate
from pipeline.engine.methods import prepare_method
from pipeline.engine.run import Run
from pipeline.errors import UserError
from pipeline.formats.arrays import map_arrays
from pipeline.ops.maps import upsample
from pipeline.protocols import RefiningSegmenter
from pipeline.results.shards import list_shards
from pipeline.types import Example, SaliencyMap, Size

if TYPE_CHECKING:
    from jaxtyping import Float32, Int
    from torch import Tensor

FINE = 56  # pixels of the longer side of a target: twice as fine as features of stride 8


def cache_key(run: Run) -> dict[str, Any]:
    teacher = run.for_teacher()
    return {
        "source": run.sources(__name__, "data", "refine.teacher", "refine.cut"),
        "checkpoint": checkpoint.fingerprint(run.classifier),
        "teacher": run.config["refine"]["teacher"],
        "fitted_on": teacher.cache_key("explain")["fitted_on"],
        "cut": run.config["refine"]["cut"],
        "images": run.config["refine"]["images"],
        "data": run.data.fingerprint("train"),
        "size": run.size,
        "precision": run.precision,
    }


def cutter(run: Run) -> RefiningSegmenter:
    """The segmenter that makes targets. Raises UserError where it cannot refine a map."""
    cut = instantiate("refine.cut", run.config["refine"]["cut"])
    if not isinstance(cut, RefiningSegmenter):
        raise UserError(
            "segmenter@refine.cut: a segmenter is needed that makes a better map of a map and its "
            "image, as grabcut"
        )
    return cut


def chosen(labels: Int[np.ndarray, n], most: int) -> Int[np.ndarray, m]:
    """Positions of at most so many images, as many of each class as there are, evenly in order."""
    if len(labels) <= most:
        return np.arange(len(labels))
    of_class = [np.flatnonzero(labels == c) for c in np.unique(labels)]
    share, kept = most / len(labels), []
    for own in of_class:
        count = max(1, round(share * len(own)))
        kept.append(own[np.linspace(0, len(own) - 1, count).round().astype(int)])
    return np.sort(np.concatenate(kept))


def get_or_create(run: Run, trained: checkpoint.Checkpoint, reads: Sequence[str]) -> Lessons:
    """The lessons, made now unless they are there."""
    folder, _ = store.Store(run.outputs).get_or_create(
        "lessons", {**cache_key(run), "reads": list(reads)}, lambda f: _make(run, f, trained, reads)
    )
    return Lessons.read(folder, len(reads))


def _make(run: Run, folder: Path, trained: checkpoint.Checkpoint, reads: Sequence[str]) -> None:
    teacher, cut = prepare_method(run.for_teacher(), trained), cutter(run)
    positions = chosen(run.data.labels("train"), run.config["refine"]["images"])
    # On a CPU every batch has a worker of its own; an accelerator's are all cut from one thread.
    threads = 0 if run.device.type == "cpu" else run.workers

    def cutting(item: tuple[tuple[int, Example], np.ndarray]) -> tuple[np.ndarray, np.ndarray, Any]:
        (_, example), values = item
        return refined(cut, example, values)

    def work(batch: shards.PositionedExamples) -> shards.Arrays:
        import torch

        images = trained.tensor(shards.stack_pixels(batch))
        labels = shards.stack_labels(batch, images.device)
        maps = teacher(trained.network, images, lambda _: labels[:, None]).maps[:, 0]
        with torch.no_grad():
            plain = trained.network(images, at=reads).activations
            mirrored = trained.network(images.flip(3), at=reads).activations
        values = maps.detach().float().cpu().numpy()
        found = list(runtime.map_in_threads(cutting, zip(batch, values, strict=True), threads))
        return {
            "map": np.stack([one for one, _, _ in found]).astype(np.float16),
            "mask": np.stack([one for _, one, _ in found]).astype(np.float16),
            "sure": np.array([why is None for _, _, why in found]),
            **{f"plain{n}": _half(plain[name]) for n, name in enumerate(reads)},
            **{f"mirrored{n}": _half(mirrored[name]) for n, name in enumerate(reads)},
        }

    shards.write_image_shards(run, folder, "lessons", "train", work, positions)


def _half(features: Tensor) -> np.ndarray:
    # What float16 cannot hold is as large as it can.
    most = float(np.finfo(np.float16).max)
    return features.detach().float().clamp(-most, most).half().cpu().numpy()


def refined(
    cut: RefiningSegmenter, example: Example, values: Float32[np.ndarray, "h w"]
) -> tuple[Float32[np.ndarray, "H W"], Float32[np.ndarray, "H W"], str | None]:
    """The map of one image in [0, 1] and the refined one, in the frame of the network's input; and
    why the refined one is the map as it was, where it is."""
    size = (example.image.shape[0], example.image.shape[1])
    saliency = SaliencyMap.of(example.id, example.label, example.label, 1.0, values, size)
    whole = Example(example.id, example.image, example.label, size)
    found, why = cut.refined(saliency, whole)
    small = cv2.resize(found, fine(size)[::-1], interpolation=cv2.INTER_AREA)
    return upsample(saliency.raw(), fine(size)), small, why


def fine(size: Size) -> Size:
    """The size of targets, of images of a size."""
    scale = FINE / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


@dataclass(frozen=True)
class Lessons:
    """All lessons, read through the memory map, a batch at a time."""

    shards: Sequence[Mapping[str, np.ndarray]]
    where: Int[np.ndarray, "n 2"]  # the shard of each lesson, and its place there
    layers: int
    of: int  # how many there were, with those that teach nothing

    @classmethod
    def read(cls, folder: Path, layers: int) -> Lessons:
        found = [map_arrays(path) for path in list_shards(folder)]
        found = [arrays for arrays in found if arrays]
        where = [(n, row) for n, one in enumerate(found) for row in np.flatnonzero(one["sure"])]
        count = sum(len(one["sure"]) for one in found)
        return cls(found, np.array(where, np.int64).reshape(-1, 2), layers, count)

    def __len__(self) -> int:
        return len(self.where)

    def take(self, name: str, chosen: Int[np.ndarray, b]) -> np.ndarray:
        """Rows of one array, in the order of `chosen`."""
        return np.stack([self.shards[n][name][row] for n, row in self.where[chosen]])

    def target(self, chosen: Int[np.ndarray, b], share: float) -> Float32[np.ndarray, "b H W"]:
        """share map + (1 - share) mask, from 0 to 1."""
        mask = self.take("mask", chosen).astype(np.float32)
        if share == 0:
            return mask
        mixed = share * self.take("map", chosen).astype(np.float32) + (1 - share) * mask
        return np.asarray(mixed / mixed.max((1, 2), keepdims=True).clip(1e-6))

    def features(self, chosen: Int[np.ndarray, b], mirrored: bool) -> list[Tensor]:
        """What the student reads of some lessons, finest layer first."""
        import torch

        view = "mirrored" if mirrored else "plain"
        found = [self.take(f"{view}{n}", chosen) for n in range(self.layers)]
        return [torch.from_numpy(one).float() for one in found]
