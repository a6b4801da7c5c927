"""Object class: classify again, by features of the object that refine has localized.

    views  each training image as it is, and ZOOMS random crops, mirrored or not: each side of a
           crop lies between the image's side and that of the predicted box
    kept   if it classifies unseen images at least as well as the same regression on means alone, in
           two-fold cross-validation over training images; and if its accuracy on held-back images
           is not below that of the classifier's head by more than a standard error

Birds differ in patterns that a mean over the image loses (model/second_order.py). The features of
all views are computed once and kept in shards, so a killed run resumes; training takes seconds.
Labels alone are read, and the held-back images are those that choose train's best epoch.
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
MIN_HELD_BACK = 20  # images; with fewer the head is not kept
MAX_STANDARDIZED = 200  # images whose features set the head's axes


@dataclass(frozen=True)
class FittedClasses:
    """A second-order head, and top-1 accuracies on images that were not trained on."""

    head: SecondOrderHead
    two_fold: float  # of training images, each by a head trained on the other half
    two_fold_by_means: float  # the same, by means alone
    by_object: float  # of held-back images
    by_head: float  # of these by the classifier's head
    error: float  # the standard error of the difference of these two
    held_back: int

    @property
    def kept(self) -> bool:
        """Whether the head is as good as the regression on means and the classifier's head."""
        return (
            self.held_back >= MIN_HELD_BACK
            and self.two_fold >= self.two_fold_by_means
            and self.by_object >= self.by_head - self.error
        )

    def describe(self) -> str:
        """Return a summary in one line."""
        if self.held_back < MIN_HELD_BACK:
            return f"classes of the object: {self.held_back} held-back images are too few to judge"
        return (
            f"top-1 by the object {self.by_object:.3f}, by the head {self.by_head:.3f} "
            f"({self.held_back} held-back images); two-fold {self.two_fold:.3f}, by means alone "
            f"{self.two_fold_by_means:.3f}: classes are predicted by the "
            f"{'object' if self.kept else 'head'}"
        )

    def record(self) -> dict[str, Any]:
        """Return the numbers for the checkpoint's card."""
        numbers = {name: value for name, value in vars(self).items() if name != "head"}
        return {"kept": self.kept} | {name: round(value, 5) for name, value in numbers.items()}


@dataclass(frozen=True, kw_only=True)
class ClassFitter:
    """Fits a second-order head to a network that has the branch `foreground`.

    Args:
        trained: the classifier with its localization head.
        images, held_back: the images to train on, and those to evaluate on.
        compute: device, precision, threads.
        seed: of the random crops.
        max_images: of a split at most, evenly of all classes.
        store: where the features of the views are kept.
        cache_key: everything that can change them, but the images.
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
        """Train and evaluate a head; the features of `labels` set its axes."""
        head = self._new_head(labels)
        head.to(self.compute.device)
        described = self._describe_split(head, self.images)
        held_back = self._describe_split(head, self.held_back)
        views = [np.concatenate([part[f"seen{n}"] for part in described]) for n in range(1 + ZOOMS)]
        classes = np.concatenate([part["labels"] for part in described])
        head.cpu()  # where the views are: an accelerator does not pay for a matrix this small
        two_fold = _two_fold(head, views, classes)
        by_means = _two_fold(head, views, classes, means_alone=True)
        _fit(head, views, classes)
        fitted = FittedClasses(head.eval(), two_fold, by_means, *_judge(head, held_back))
        head.to(self.compute.device)
        return fitted

    def _new_head(self, labels: PseudoLabels) -> SecondOrderHead:
        """Return an untrained head, whose axes follow from the features of some images."""
        from pipeline.model.second_order import SecondOrderHead

        network = self.trained.network
        foreground: Any = network.branches["foreground"]
        reads, channels = list(foreground.reads), list(foreground.node["channels"])
        layer = max(0, len(reads) - 2)
        names = ("last", reads[layer], "foreground")
        head = SecondOrderHead(names, channels[-1], channels[layer], len(network.classes))
        few = np.linspace(0, len(labels) - 1, min(len(labels), MAX_STANDARDIZED)).astype(int)
        head.fit_axes(labels.features(few)[layer])
        return head

    def _describe_split(
        self, head: SecondOrderHead, images: SplitImages
    ) -> Sequence[shards.Arrays]:
        """Return the features of all views: `seen0` of the images, then those of random crops.

        Images that are not of the training split have no crops.
        """
        key = {**self.cache_key, "data": images.fingerprint(), "zooms": ZOOMS}
        folder, _ = self.store.get_or_create(
            "object_views", key, lambda folder: self._write_views(folder, head, images)
        )
        parts = [read_arrays(path)[0] for path in list_shards(folder)]
        return [part for part in parts if part]

    def _write_views(self, folder: Path, head: SecondOrderHead, images: SplitImages) -> None:
        """Write the features of all views as shards."""
        positions = choose_evenly(images.labels, self.max_images)
        with_crops = images.split == self.images.split

        def work(batch: shards.PositionedExamples) -> shards.Arrays:
            return self._views_of_batch(head, batch, with_crops)

        shards.write_image_shards(images, self.compute, folder, "object views", work, positions)

    def _views_of_batch(
        self, head: SecondOrderHead, batch: shards.PositionedExamples, with_crops: bool
    ) -> shards.Arrays:
        """Compute the features of all views of a batch, its logits and its labels."""
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
    """Train a head on all views of some images."""
    import torch

    described = torch.from_numpy(np.concatenate(views)).float()
    head.fit(described, torch.from_numpy(np.tile(labels, len(views))), DECAY, STEPS)


def _two_fold(
    head: SecondOrderHead,
    views: Sequence[np.ndarray],
    labels: np.ndarray,
    means_alone: bool = False,
) -> float:
    """Return the top-1 of uncropped images in two-fold cross-validation.

    Args:
        head: Trained anew for each half.
        views: The features of each view, [n, d] each.
        labels: Of the images [n].
        means_alone: Whether all features but the means are set to 0.
    """
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
            predicted = head.classify(torch.from_numpy(views[0][half]).float()).argmax(1).numpy()
        right += int((predicted == labels[half]).sum())
    return right / len(labels)


def _judge(head: SecondOrderHead, held: Sequence[shards.Arrays]) -> tuple[float, float, float, int]:
    """Evaluate a head on held-back images.

    Returns:
        Its top-1, that of the classifier's head, the standard error of their difference, and the
        number of images.
    """
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
    """Return the features that the head reads, the foreground map, and the classifier's logits."""
    answer = network(images, at=head.reads)
    read = [answer.activations[name] for name in head.reads]
    return head.describe(*read), read[-1], answer.logits


def _draw_crops(
    boxes: Float[Tensor, "b 4"], positions: np.ndarray, seed: int, number: int
) -> tuple[Float[Tensor, "b 4"], Tensor]:
    """Draw a crop of each image, and whether to mirror it.

    Args:
        boxes: Of the objects, xyxy from 0 to 1 of the image.
        positions: Of the images in their split: the draws depend on them, not on the batch.
        seed: Of the run.
        number: Of the view.
    """
    import torch

    draws = np.stack(
        [np.random.default_rng((seed, int(position), number)).random(5) for position in positions]
    )
    part = torch.from_numpy(draws[:, :4]).to(boxes)
    full = torch.tensor([0.0, 0.0, 1.0, 1.0]).to(boxes)
    return full + (boxes - full) * part, torch.from_numpy(draws[:, 4] < 0.5)
