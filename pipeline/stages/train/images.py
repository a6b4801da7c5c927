"""Training and held-back images.

They are decoded once where memory allows, cropped and flipped in each epoch; each rank loads its
part of each batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.engine import checkpoint, ranks, runtime
from pipeline.engine.compute import Compute
from pipeline.engine.images import SplitImages
from pipeline.engine.progress import show_progress
from pipeline.engine.shards import single_threaded_torch
from pipeline.errors import SkippedImage, UserError
from pipeline.ops.average_precision import mean_average_precision
from pipeline.ops.label_sets import pack_label_sets
from pipeline.stages.train.reading import Reading
from pipeline.stages.train.recipe import Settings, draw_order, print_skipped
from pipeline.types import Example, Size

if TYPE_CHECKING:
    from jaxtyping import Bool, Float32, UInt8

    from pipeline.model.classifier import Classifier

CACHE_BYTES = 2 << 30  # of decoded images kept in memory; more are decoded in each epoch


@dataclass(frozen=True)
class Part:
    """A process's part of a batch."""

    images: UInt8[np.ndarray, "b H W 3"]
    labels: np.ndarray  # the class of each [b], or its classes [b, C]
    share: float  # of the step's loss, times the number of ranks, which gradients are averaged over


class TrainingImages:
    """Batches of augmented training images.

    Args:
        images: of the split train.
        settings: of the training: batch size, crop, flip, seed.
        workers: threads that decode and augment.
        learns_sets: whether an image has the set of its classes as label, and not its only class.
    """

    def __init__(
        self, images: SplitImages, settings: Settings, workers: int, learns_sets: bool = False
    ) -> None:
        self.images, self.settings, self.workers = images, settings, workers
        self.size = images.size
        self.reading = Reading()
        # A crop is enlarged to the network's size: more pixels than that are kept.
        margin = 8 / 7 if settings.crop < 1 else 1.0
        self.stored: Size = (round(self.size[0] * margin), round(self.size[1] * margin))
        count = len(images)
        fits = count * self.stored[0] * self.stored[1] * 3 <= cache_budget()
        self.kept: dict[int, np.ndarray] | None = {} if fits else None
        positions, labels = [], []
        if self.kept is not None:
            with show_progress("read", count) as advance:
                for n, example in enumerate(
                    runtime.map_in_threads(self._read, range(count), workers)
                ):
                    advance(1)
                    if isinstance(example, Example):
                        self.kept[n] = example.image
                        positions.append(n)
                        labels.append(example.label)
            print_skipped(self.reading.reasons, images.split)
        else:
            positions, labels = list(range(count)), images.labels.tolist()
        self.positions, self.labels = np.array(positions, int), np.array(labels, np.int64)
        if learns_sets:
            self.labels = images.label_sets[self.positions]

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def steps(self) -> int:
        """Steps of an epoch. The last short batch is dropped: batch norm would be unstable."""
        return len(self) // self.settings.images_a_step or 1

    @property
    def learns_grey(self) -> bool:
        """Whether images that cannot be read are grey images, and not left out."""
        return self.kept is None

    def _read(self, position: int) -> Example | SkippedImage:
        image = self.images.read(position, self.stored)
        self.reading.add(position, image)
        return image

    def iterate_steps(self, epoch: int, first: int) -> Iterator[list[Part]]:
        """Yield the steps of an epoch: for each, this rank's parts of `accumulate` batches.

        Args:
            epoch: Counted from 0.
            first: The first step to yield, where a killed training resumes.

        Raises:
            UserError: There are fewer images in a batch than processes.
        """
        order = draw_order(self.labels, self.settings, epoch)
        size, batch, world = (
            self.settings.images_a_step,
            self.settings.batch,
            ranks.current_world().size,
        )
        steps = []
        for step in range(first, self.steps):
            places = np.arange(step * size, min((step + 1) * size, len(order)))
            batches = [places[n : n + batch] for n in range(0, len(places), batch)]
            # Each rank gets a part of each batch; only a step of all images has a shorter batch.
            steps.append([batch_places for batch_places in batches if len(batch_places) >= world])
        if any(not batches for batches in steps):
            raise UserError(
                f"train: {len(self)} images to learn from and train.batch={batch} are fewer than "
                f"{world} processes; use fewer of these"
            )
        chosen = (
            (epoch, int(place), int(order[place]))
            for batches in steps
            for batch_places in batches
            for place in ranks.shard_for_rank(batch_places)
        )
        ahead = 4 * max(1, batch // world)
        augmented = runtime.map_in_threads(self._augment, chosen, self.workers, ahead)
        for batches in steps:
            count = sum(map(len, batches))
            yield [self._take_part(augmented, len(places), count) for places in batches]

    def _take_part(
        self, augmented: Iterator[tuple[np.ndarray, Any]], size: int, count: int
    ) -> Part:
        """Return this rank's part of a batch of `size`, in a step of `count` images."""
        items = list(islice(augmented, len(ranks.shard_for_rank(range(size)))))
        return Part(
            np.stack([image for image, _ in items]),
            np.array([label for _, label in items]),
            len(items) * ranks.current_world().size / count,
        )

    def _augment(self, item: tuple[int, int, int]) -> tuple[np.ndarray, Any]:
        """Return an image, cropped and flipped, and its label.

        `item`: the epoch, the image's place in the epoch, its index among the labels.
        """
        import torch
        from torchvision.transforms.v2 import functional

        epoch, place, n = item
        position, label = int(self.positions[n]), self.labels[n]
        if self.kept is not None:
            image = self.kept[position]
        else:
            example = self._read(position)
            # An unreadable image becomes grey, so that batches and their order stay the same.
            if isinstance(example, SkippedImage):
                if len(self.reading.skipped) == len(self):
                    raise UserError(f"train: no image could be read; {example}")
                image = np.full((*self.stored, 3), 127, np.uint8)
            else:
                image = example.image
        # With balanced classes an image may be drawn several times in an epoch: crops differ.
        again = (place,) if self.settings.balanced else ()
        random = np.random.default_rng((self.settings.seed, epoch, position, *again))
        top, left, height, width = draw_crop(random, self.stored, self.settings.crop)
        pixels = torch.from_numpy(image).permute(2, 0, 1)
        pixels = functional.resized_crop(
            pixels, top, left, height, width, list(self.size), antialias=True
        )
        if self.settings.flip and random.random() < 0.5:
            pixels = functional.horizontal_flip(pixels)
        return pixels.permute(1, 2, 0).numpy(), label


def cache_budget() -> int:
    """Return the bytes for decoded images in each of the processes on this machine."""
    return CACHE_BYTES // ranks.current_world().local_size


def draw_crop(
    random: np.random.Generator, size: Size, smallest: float
) -> tuple[int, int, int, int]:
    """Draw a random crop (Szegedy et al. 2015).

    Args:
        random: The generator.
        size: Height and width of the image.
        smallest: The crop's smallest share of the area; 1: the crop is the image.

    Returns:
        Top, left, height, width. The aspect ratio is 3/4 to 4/3 of the image's.
    """
    if smallest >= 1:
        return 0, 0, *size
    area = random.uniform(smallest, 1)
    aspect = np.exp(random.uniform(np.log(3 / 4), np.log(4 / 3)))
    height = min(size[0], max(1, round(size[0] * float(np.sqrt(area / aspect)))))
    width = min(size[1], max(1, round(size[1] * float(np.sqrt(area * aspect)))))
    top = int(random.integers(0, size[0] - height + 1))
    left = int(random.integers(0, size[1] - width + 1))
    return top, left, height, width


class HeldBackImages:
    """The held-back images, which evaluate an epoch; each rank evaluates a part of them."""

    def __init__(self, images: SplitImages, compute: Compute) -> None:
        self.images, self.compute = images, compute
        self.positions = ranks.shard_for_rank(range(len(images)))
        height, width = images.size
        self.fits = len(self.positions) * height * width * 3 <= cache_budget()
        self.kept: list[Example] | None = None
        self.reading = Reading()

    def _examples(self) -> Iterator[Example]:
        examples = runtime.map_in_threads(self._read, self.positions, self.compute.workers)
        return (example for example in examples if isinstance(example, Example))

    def _read(self, position: int) -> Example | SkippedImage:
        image = self.images.read(position, self.images.size)
        self.reading.add(position, image)
        return image

    def mean_ap(self, network: Classifier, mean: Sequence[float], std: Sequence[float]) -> float:
        """Return the mean average precision over the images of all ranks, from 0 to 1.

        Args:
            network: In eval mode afterwards.
            mean: Of red, green and blue, on the scale of pixels from 0 to 1.
            std: As `mean`.
        """
        none = np.zeros((0, len(network.classes)))
        scores, sets = [none], [none.astype(bool)]
        for batch, logits in self._classify(network, mean, std):
            scores.append(logits)
            sets.append(np.stack([_pack_labels(e, len(network.classes)) for e in batch]))
        parts = ranks.all_gather((np.concatenate(scores), np.concatenate(sets)))
        all_scores, all_sets = (np.concatenate(each) for each in zip(*parts, strict=True))
        return mean_average_precision(all_scores, all_sets)

    def top1(self, network: Classifier, mean: Sequence[float], std: Sequence[float]) -> float:
        """Return the classification accuracy over the images of all ranks, from 0 to 1.

        Args:
            network: In eval mode afterwards.
            mean: Of red, green and blue, on the scale of pixels from 0 to 1.
            std: As `mean`.
        """
        right = count = 0
        for batch, logits in self._classify(network, mean, std):
            right += int((logits.argmax(1) == np.array([e.label for e in batch])).sum())
            count += len(batch)
        all_right, all_count = ranks.all_reduce_sum([right, count])
        return all_right / all_count if all_count else 0.0

    def _classify(
        self, network: Classifier, mean: Sequence[float], std: Sequence[float]
    ) -> Iterator[tuple[Sequence[Example], Float32[np.ndarray, "b C"]]]:
        """Yield batches of this rank's images with their logits; arguments as of `top1`."""
        import torch

        if self.fits and self.kept is None:
            self.kept = list(self._examples())
        network.eval()
        compute = self.compute

        def classify(batch: Sequence[Example]) -> tuple[Sequence[Example], np.ndarray]:
            pixels = np.stack([example.image for example in batch])
            with torch.inference_mode(), compute.autocast():
                inputs = checkpoint.to_tensor(pixels, mean, std, compute.device)
                return batch, network(inputs).logits.float().cpu().numpy()

        batches = runtime.split_into_batches(self.kept or self._examples(), compute.batch)
        if not compute.is_cpu:
            yield from map(classify, batches)
            return
        with single_threaded_torch():  # each thread computes its batches
            yield from runtime.map_in_threads(
                classify, batches, compute.workers, compute.workers + 2
            )


def _pack_labels(example: Example, classes: int) -> Bool[np.ndarray, "C"]:
    return np.asarray(pack_label_sets([example.label], [example.other_labels], classes)[0])
