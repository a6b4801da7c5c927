"""Object class: the classes learned once more, by what is on the object that refine localized.

    seen   each training image as it is, and ZOOMS random crops: every side somewhere between the
           image's and the found box's, mirrored or not
    kept   where it names unseen images better than the same regression on means alone, two-fold
           over training images; and names the held-back images no worse than the classifier's head
           does, by more than a standard error

Birds differ in patterns that a mean over the image loses (model/second_order.py). What is seen is
described once and lies in shards, so a killed run goes on; then learning takes seconds. Labels
alone take part, and the held-back images are those that train judges its epochs on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.engine import shards
from pipeline.engine.checkpoint import Checkpoint
from pipeline.engine.compute import Compute
from pipeline.engine.images import SplitImages
from pipeline.engine.store import Store
from pipeline.formats.arrays import read_arrays
from pipeline.results.shards import list_shards
from pipeline.saliency.zoom import crop_to_boxes, find_foreground_boxes
from pipeline.stages.refine.pseudo_labels import PseudoLabels, choose_evenly

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from pipeline.model.classifier import Classifier
    from pipeline.model.second_order import SecondOrderHead

ZOOMS = 3  # random crops of each training image
DECAY, STEPS = 1e-4, 60
MIN_HELD_BACK = 20  # images that can tell whether it is as good as the classifier's head
MAX_STANDARDIZED = 200  # images whose features set the head's axes


@dataclass(frozen=True)
class FittedClasses:
    """A second-order head and its top-1 on images that nothing compared here has learned from."""

    head: SecondOrderHead
    two_fold: float  # of training images, each by what learned from the other half
    two_fold_by_means: float  # the same, of means alone
    by_object: float  # of held-back images
    by_head: float  # of these by the classifier's head
    error: float  # the standard error of the difference of these two
    held_back: int

    @property
    def kept(self) -> bool:
        """Whether nothing measured speaks against this head."""
        return (
            self.held_back >= MIN_HELD_BACK
            and self.two_fold >= self.two_fold_by_means
            and self.by_object >= self.by_head - self.error
        )

    def describe(self) -> str:
        """Return what there is to say of it, in one line."""
        if self.held_back < MIN_HELD_BACK:
            return f"classes of the object: {self.held_back} held-back images are too few to judge"
        return (
            f"top-1 by the object {self.by_object:.3f}, by the head {self.by_head:.3f} "
            f"({self.held_back} held-back images); two-fold {self.two_fold:.3f}, by means alone "
            f"{self.two_fold_by_means:.3f}: the {'object' if self.kept else 'head'} is asked"
        )

    def record(self) -> dict[str, Any]:
        """Return the numbers as the checkpoint's card holds them."""
        numbers = {name: value for name, value in vars(self).items() if name != "head"}
        return {"kept": self.kept} | {name: round(value, 5) for name, value in numbers.items()}


@dataclass(frozen=True, kw_only=True)
class ClassFitter:
    """Fits a second-order head to a network that has the branch `foreground`.

    Args:
        trained: the classifier with its localization head.
        images, held_back: what is learned from, and what judges.
        compute: device, precision, threads.
        seed: of the random crops.
        max_images: of a split at most, each class in its share.
        store: where the described views are kept.
        cache_key: all that can change them, but the images.
    """

    trained: Checkpoint
    images: SplitImages
    held_back: SplitImages
    compute: Compute
    seed: int
    max_images: int
    store: Store
    cache_key: Mapping[str, Any]

    def fit(self, labels: PseudoLabels) -> FittedClasses:
        """Return the head; `labels` set its axes."""
        head = self._new_head(labels)
        head.to(self.compute.device)
        described = self._describe_split(head, self.images)
        held_back = self._describe_split(head, self.held_back)
        views = [np.concatenate([part[f"seen{n}"] for part in described]) for n in range(1 + ZOOMS)]
        classes = np.concatenate([part["labels"] for part in described])
        head.cpu()  # where the views are: an accelerator has nothing to win on a matrix this small
        two_fold = _two_fold(head, views, classes)
        by_means = _two_fold(head, views, classes, means_alone=True)
        _fit(head, views, classes)
        fitted = FittedClasses(head.eval(), two_fold, by_means, *_judge(head, held_back))
        head.to(self.compute.device)
        return fitted

    def _new_head(self, labels: PseudoLabels) -> SecondOrderHead:
        from pipeline.model.second_order import SecondOrderHead

        network = self.trained.network
        foreground: Any = network.branches["foreground"]
        reads, channels = list(foreground.reads), list(foreground.node["channels"])
        layer = max(0, len(reads) - 2)
        names = ("last", reads[layer], "foreground")
        head = SecondOrderHead(names, channels[-1], channels[layer], len(network.classes))
        few = np.linspace(0, len(labels) - 1, min(len(labels), MAX_STANDARDIZED)).astype(int)
        head.fit_axes(labels.features(few, mirrored=False)[layer])
        return head

    def _describe_split(
        self, head: SecondOrderHead, images: SplitImages
    ) -> Sequence[shards.Arrays]:
        """Return what the head reads of the images: `seen0` as they are, then random crops of
        training images."""
        key = {**self.cache_key, "data": images.fingerprint(), "zooms": ZOOMS}
        folder, _ = self.store.get_or_create(
            "object_views", key, lambda folder: self._write_views(folder, head, images)
        )
        parts = [read_arrays(path)[0] for path in list_shards(folder)]
        return [part for part in parts if part]

    def _write_views(self, folder: Path, head: SecondOrderHead, images: SplitImages) -> None:
        positions = choose_evenly(images.labels, self.max_images)
        with_crops = images.split == self.images.split

        def work(batch: shards.PositionedExamples) -> shards.Arrays:
            return self._views_of_batch(head, batch, with_crops)

        shards.write_image_shards(images, self.compute, folder, "object views", work, positions)

    def _views_of_batch(
        self, head: SecondOrderHead, batch: shards.PositionedExamples, with_crops: bool
    ) -> shards.Arrays:
        import torch

        network = self.trained.network
        images = self.trained.tensor(shards.stack_pixels(batch))
        with torch.inference_mode():
            first, foreground, logits = _describe(network, head, images)
            views = {"seen0": first}
            boxes = find_foreground_boxes(foreground).cpu()
            for n in range(1, ZOOMS + 1) if with_crops else ():
                crops, mirrored = _draw_crops(boxes, shards.stack_positions(batch), self.seed, n)
                view = crop_to_boxes(images, crops.to(images.device))
                flags = mirrored.to(images.device)[:, None, None, None]
                views[f"seen{n}"] = _describe(
                    network, head, torch.where(flags, view.flip(3), view)
                )[0]
        labels = np.array([example.label for _, example in batch], np.int64)
        arrays = {name: values.half().cpu().numpy() for name, values in views.items()}
        return {**arrays, "logits": logits.float().cpu().numpy(), "labels": labels}


def _fit(head: SecondOrderHead, views: Sequence[np.ndarray], labels: np.ndarray) -> None:
    import torch

    described = torch.from_numpy(np.concatenate(views)).float()
    head.fit(described, torch.from_numpy(np.tile(labels, len(views))), DECAY, STEPS)


def _two_fold(
    head: SecondOrderHead,
    views: Sequence[np.ndarray],
    labels: np.ndarray,
    means_alone: bool = False,
) -> float:
    """Return the top-1 of images as they are, every second by what learned from the others."""
    import torch

    if means_alone:
        views = [view.copy() for view in views]
        for view in views:
            view[:, head.node["last"] :] = 0
    right, odd = 0, np.arange(len(labels)) % 2 == 1
    for half in (odd, ~odd):
        if half.all() or not half.any():
            return 0.0
        _fit(head, [view[~half] for view in views], labels[~half])
        with torch.no_grad():
            named = head.classify(torch.from_numpy(views[0][half]).float()).argmax(1).numpy()
        right += int((named == labels[half]).sum())
    return right / len(labels)


def _judge(head: SecondOrderHead, held: Sequence[shards.Arrays]) -> tuple[float, float, float, int]:
    """Return, of held-back images, the top-1 by this head and by the classifier's, the standard
    error of the difference, and how many they are."""
    import torch

    by_object, by_head = [], []
    for part in held:
        with torch.no_grad():
            logits = head.classify(torch.from_numpy(part["seen0"]).float()).numpy()
        by_object += (logits.argmax(1) == part["labels"]).tolist()
        by_head += (part["logits"].argmax(1) == part["labels"]).tolist()
    if not by_head:
        return 0.0, 0.0, 0.0, 0
    differ = np.array(by_object, float) - np.array(by_head, float)
    error = float(differ.std() / np.sqrt(len(differ)))
    return float(np.mean(by_object)), float(np.mean(by_head)), error, len(differ)


def _describe(
    network: Classifier, head: SecondOrderHead, images: Float[Tensor, "b 3 H W"]
) -> tuple[Tensor, Tensor, Tensor]:
    answer = network(images, at=head.reads)
    read = [answer.activations[name] for name in head.reads]
    return head.describe(*read), read[-1], answer.logits


def _draw_crops(
    boxes: Float[Tensor, "b 4"], positions: np.ndarray, seed: int, number: int
) -> tuple[Float[Tensor, "b 4"], Tensor]:
    """Return a random crop of each image and whether to mirror it, by the image's position."""
    import torch

    draws = np.stack(
        [np.random.default_rng((seed, int(position), number)).random(5) for position in positions]
    )
    part = torch.from_numpy(draws[:, :4]).to(boxes)
    whole = torch.tensor([0.0, 0.0, 1.0, 1.0]).to(boxes)
    return whole + (boxes - whole) * part, torch.from_numpy(draws[:, 4] < 0.5)
