"""What tests of views share: a tiny network, a few images in memory, what a view may ask for."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.engine.checkpoint import Checkpoint
from pipeline.errors import SkippedImage
from pipeline.model.classifier import Classifier, MeanLinear
from pipeline.model.small import Small
from pipeline.saliency.gradcam import GradCAM
from pipeline.types import CocoIds, Example, Size, Split, ViewSubject

CLASSES = ("robin", "wren", "a/b")
SIZE = (24, 32)


def small_network(classes: tuple[str, ...] = CLASSES) -> Classifier:
    """A network with random weights, as sure of itself as a trained network."""
    torch.manual_seed(0)
    model = Small(width=4)
    body, channels = model.body()
    head = MeanLinear(channels, len(classes))
    with torch.no_grad():
        head.linear.weight *= 50
    network = Classifier(body, head, classes, model.last, model.below)
    return network.eval().requires_grad_(False)


class Noise:
    """A data set of random images, the second of which cannot be read."""

    classes = CLASSES
    size = SIZE

    def __init__(self, count: int = 6) -> None:
        self.count = count

    def ids(self, split: Split) -> Sequence[str]:
        return [f"{split}/{n}.png" for n in range(self.count)]

    def labels(self, split: Split) -> np.ndarray:
        return np.arange(self.count) % len(CLASSES)

    def example(
        self, split: Split, position: int, *, at: Size | None = None, at_least: Size | None = None
    ) -> Example:
        if position == 1:
            raise SkippedImage(f"{split}/1.png: no image")
        height, width = at or (48, 64)
        pixels = np.random.default_rng(position).integers(0, 255, (height, width, 3), np.uint8)
        label = position % len(CLASSES)
        return Example(f"{split}/{position}.png", pixels, label, (48, 64))

    def coco_names(self, split: Split) -> CocoIds:
        raise NotImplementedError

    def fingerprint(self, split: Split) -> str:
        return "noise"

    def notes(self) -> list[str]:
        return []


def subject_of(network: Classifier, **changes: Any) -> ViewSubject:
    """A subject whose images are noise and whose maps are Grad-CAM's."""
    data = Noise()
    trained = Checkpoint(network, SIZE, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), {})
    kept: dict[Hashable, Any] = {}

    def map_batches(
        title: str,
        positions: Sequence[int],
        work: Callable[[Sequence[int], Tensor], dict[str, np.ndarray]],
    ) -> Iterator[dict[str, np.ndarray]]:
        good = [position for position in positions if position != 1]
        for start in range(0, len(good), 2):
            batch = good[start : start + 2]
            pixels = np.stack([data.example("val", n, at=SIZE).image for n in batch])
            yield work(batch, trained.tensor(pixels))

    def compute_once(key: Hashable, compute: Callable[[], Any]) -> Any:
        if key not in kept:
            kept[key] = compute()
        return kept[key]

    parts: dict[str, Any] = {
        "trained": trained,
        "network_name": "small",
        "device": torch.device("cpu"),
        "size": SIZE,
        "seed": 0,
        "data": data,
        "split": "val",
        "method": "gradcam",
        "explain": lambda images, choose: GradCAM()(network, images, choose),
        "batch_size": 2,
        "map_batches": map_batches,
        "show_progress": lambda title, count, unit: nullcontext(lambda n: None),
        "compute_once": compute_once,
    }
    return ViewSubject(**{**parts, **changes})
