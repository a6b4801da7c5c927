"""Boxes from Python: load a checkpoint, give an image, get boxes.

    import pipeline
    predict = pipeline.load("outputs/latest")
    predictions = predict("photo.jpg")

It calls the functions that the stages explain and localize call, without files between them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from pipeline.engine import checkpoint, runtime
from pipeline.engine.choices import fill_defaults, instantiate, read_choice
from pipeline.engine.completion import read_run_config
from pipeline.engine.methods import average_over_views
from pipeline.errors import UserError
from pipeline.formats import photo
from pipeline.ops.maps import frame_size
from pipeline.protocols import RefiningSegmenter, SaliencyMethod, Segmenter
from pipeline.results.thresholds import (
    USED_IOU,
    find_thresholds,
    load_thresholds,
    select_thresholds,
)
from pipeline.saliency.targets import class_selector, top_count
from pipeline.types import Boxes, Example, SaliencyMap

if TYPE_CHECKING:
    from jaxtyping import Float32, UInt8


@dataclass(frozen=True)
class Prediction:
    """A class in an image, and its boxes.

    Attributes:
        label: the name of the class.
        probability: that the network gives the class.
        boxes: xyxy in pixels of the upright image, half-open, best score first.
        scores: the score of each box.
        masks: the mask of each box as COCO RLE, where the segmenter makes masks.
        map: the map that the boxes were segmented from.
    """

    label: str
    probability: float
    boxes: Float32[np.ndarray, "N 4"]
    scores: Float32[np.ndarray, N]
    masks: Sequence[Mapping[str, Any]] | None
    map: SaliencyMap


class Predictor:
    """A trained network with a saliency method and a segmenter, to be called with an image.

    Args:
        trained: the network, in eval mode.
        saliency: the method that computes maps.
        segmenter: turns a map into boxes.
        precision: what the network runs in.
    """

    def __init__(
        self,
        trained: checkpoint.Checkpoint,
        saliency: SaliencyMethod,
        segmenter: Segmenter,
        precision: runtime.Precision,
    ) -> None:
        self.trained, self.saliency, self.segmenter = trained, saliency, segmenter
        self.precision = precision

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the network's classes."""
        return self.trained.classes

    def __call__(
        self, image: str | os.PathLike[str] | UInt8[np.ndarray, "H W 3"], target: str = "predicted"
    ) -> list[Prediction]:
        """Compute the boxes of some classes in an image.

        Args:
            image: a path, or RGB pixels.
            target: which classes: `predicted`, `topK` as in `top5`, or the name of a class.

        Returns:
            A prediction for each class; of `topK`, the most likely class first.

        Raises:
            SkippedImage: the image cannot be used.
            UserError: `target` names no class of this network.
            ValueError: the array is not uint8 [H, W, 3].
        """
        if target != "predicted" and target not in self.classes and not top_count(target):
            raise UserError(
                f"target={target!r}: expected predicted, topK or a class of this network"
            )
        example, network_input = self._read(image)
        tensor = self.trained.tensor(network_input[None])
        import torch

        labels = torch.full((1,), -1, device=tensor.device)
        choose = class_selector([target], self.classes, labels)
        with runtime.autocast(tensor.device, self.precision):
            explained = self.saliency(self.trained.network, tensor, choose)
        probabilities = explained.logits.detach().float().softmax(1)[0].cpu().numpy()
        maps = explained.maps.detach().float().cpu().numpy()[0]
        return [
            self._segment(values, int(label), probabilities, example)
            for values, label in zip(maps, explained.classes[0].tolist(), strict=True)
        ]

    def _read(self, image: Any) -> tuple[Example, UInt8[np.ndarray, "h w 3"]]:
        """Return the image for the segmenter, and the image at the network's input size."""
        if isinstance(image, np.ndarray):
            example = Example("array", image, -1, (image.shape[0], image.shape[1]))
            from PIL import Image as Pillow

            height, width = self.trained.size
            scaled = Pillow.fromarray(image).resize((width, height), Pillow.Resampling.BILINEAR)
            return example, np.array(scaled)
        ranges = self.trained.intensity
        network_input, size = photo.read(Path(image), at=self.trained.size, ranges=ranges)
        side = self.segmenter.needs_image
        frame = frame_size(size, side)
        pixels = photo.read(Path(image), at=frame, ranges=ranges)[0] if side else network_input
        return Example(str(image), pixels, -1, size), network_input

    def _segment(
        self, values: np.ndarray, label: int, probabilities: np.ndarray, example: Example
    ) -> Prediction:
        saliency = SaliencyMap.of(
            example.id, label, int(probabilities.argmax()), float(probabilities[label]), values,
            example.size,
        )  # fmt: skip
        boxes: Boxes = self.segmenter(saliency, example if self.segmenter.needs_image else None)
        return Prediction(self.classes[label], float(probabilities[label]), boxes.boxes,
                          boxes.scores, boxes.masks, saliency)  # fmt: skip


def load(
    where: str | os.PathLike[str],
    saliency: str | None = None,
    segmenter: str | None = None,
    device: str = "auto",
) -> Predictor:
    """Return a predictor that uses the network of a run or of a checkpoint.

    Maps are averaged over the run's views (explain.flips, explain.scales). With
    segmenter.threshold=validation the threshold is the one that the run chose.

    Args:
        where: the folder of a run, as `outputs/latest`, or of a checkpoint.
        saliency: a choice of conf/saliency/; None: the run's method, or cam where there is no run.
        segmenter: a choice of conf/segmenter/; None: the run's segmenter, or threshold where there
            is no run or `saliency` is given (the run's threshold was chosen for the run's maps).
        device: auto, cpu, cuda, cuda:N or mps.

    Raises:
        UserError: there is no checkpoint or no such choice, or the run chose no threshold.
    """
    folder = Path(where)
    torch_device = runtime.select_device(device)
    trained = checkpoint.load(checkpoint.find(folder), torch_device)
    config = read_run_config(folder)
    method = config.get("saliency") if saliency is None else read_choice("saliency", saliency)
    method = method or read_choice("saliency", "cam")
    run_segmenter = config.get("segmenter") if saliency is None and segmenter is None else None
    node = run_segmenter or read_choice("segmenter", segmenter or "threshold")
    if node.get("threshold") == "validation":
        views = [config["explain"][name] for name in ("flips", "scales")]
        node = {**node, "threshold": _load_validation_threshold(folder, method, views, node)}
    # A run's config.yaml is a file: it may only name classes of this project.
    built = cast(SaliencyMethod, instantiate("saliency", method, within="pipeline.saliency."))
    if saliency is None and config:  # a method that is named here is used as it is
        views = config["explain"]
        built = average_over_views(built, views["flips"], views["scales"])
    return Predictor(
        trained,
        built,
        cast(Segmenter, instantiate("segmenter", node, within="pipeline.segmenter.")),
        runtime.select_precision("auto", torch_device),
    )


def _load_validation_threshold(
    run: Path, saliency: Mapping[str, Any], views: Sequence[Any], segmenter: Mapping[str, Any]
) -> float:
    """Return the threshold that a run's stage calibrate chose for images that it has not seen."""
    refines = isinstance(
        instantiate("segmenter", segmenter, within="pipeline.segmenter."), RefiningSegmenter
    )
    method = fill_defaults("saliency", saliency)
    folder = find_thresholds(run, method, views, segmenter if refines else None)
    return float(select_thresholds(load_thresholds(folder), refines)["elsewhere"][f"{USED_IOU:g}"])
