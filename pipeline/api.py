"""Boxes from Python: load a checkpoint, give an image, get boxes.

    import pipeline
    predict = pipeline.load("outputs/latest")
    found = predict("photo.jpg")

The same functions as stages explain and localize, without files between them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import yaml

from pipeline.engine import checkpoint, runtime
from pipeline.engine.choices import fill_defaults, instantiate, read_choice
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
from pipeline.saliency.targets import class_selector
from pipeline.types import Boxes, Example, SaliencyMap

if TYPE_CHECKING:
    from jaxtyping import Float32, UInt8


@dataclass(frozen=True)
class Found:
    """One class in one image: `label` by name, its probability, boxes `xyxy` in pixels of the
    upright image, best first, with their scores, masks (COCO RLE) where the segmenter makes them,
    and the map that they were cut from."""

    label: str
    probability: float
    boxes: Float32[np.ndarray, "N 4"]
    scores: Float32[np.ndarray, N]
    masks: Sequence[Mapping[str, Any]] | None
    map: SaliencyMap


class Predictor:
    """A checkpoint with a saliency method and a segmenter, ready to be called."""

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
        return self.trained.classes

    def __call__(
        self, image: str | os.PathLike[str] | UInt8[np.ndarray, "H W 3"], target: str = "predicted"
    ) -> list[Found]:
        """Boxes of the classes that `target` names: predicted, topK or a class.

        `image`: a path, or uint8 RGB [H, W, 3]. Raises SkippedImage for an image that cannot be
        used, UserError for a target that is none.
        """
        if target != "predicted" and target not in self.classes and not _is_top(target):
            raise UserError(
                f"target={target!r}: expected predicted, topK or a class of this network"
            )
        example, at_input = self._read(image)
        tensor = self.trained.tensor(at_input[None])
        import torch

        labels = torch.full((1,), -1, device=tensor.device)
        choose = class_selector([target], self.classes, labels)
        with runtime.autocast(tensor.device, self.precision):
            explained = self.saliency(self.trained.network, tensor, choose)
        probabilities = explained.logits.detach().float().softmax(1)[0].cpu().numpy()
        maps = explained.maps.detach().float().cpu().numpy()[0]
        return [
            self._cut(values, int(label), probabilities, example)
            for values, label in zip(maps, explained.classes[0].tolist(), strict=True)
        ]

    def _read(self, image: Any) -> tuple[Example, UInt8[np.ndarray, "h w 3"]]:
        """The image itself, and scaled to the network's input."""
        if isinstance(image, np.ndarray):
            example = Example("array", image, -1, (image.shape[0], image.shape[1]))
            from PIL import Image as Pillow

            height, width = self.trained.size
            scaled = Pillow.fromarray(image).resize((width, height), Pillow.Resampling.BILINEAR)
            return example, np.array(scaled)
        at_input, size = photo.read(Path(image), at=self.trained.size)
        side = self.segmenter.needs_image
        shown = photo.read(Path(image), at=frame_size(size, side))[0] if side else at_input
        return Example(str(image), shown, -1, size), at_input

    def _cut(
        self, values: np.ndarray, label: int, probabilities: np.ndarray, example: Example
    ) -> Found:
        saliency = SaliencyMap.of(
            example.id, label, int(probabilities.argmax()), float(probabilities[label]), values,
            example.size,
        )  # fmt: skip
        boxes: Boxes = self.segmenter(saliency, example if self.segmenter.needs_image else None)
        return Found(self.classes[label], float(probabilities[label]), boxes.boxes, boxes.scores,
                     boxes.masks, saliency)  # fmt: skip


def load(
    where: str | os.PathLike[str],
    saliency: str | None = None,
    segmenter: str | None = None,
    device: str = "auto",
) -> Predictor:
    """A Predictor from a run (`outputs/latest`) or a checkpoint folder.

    `saliency` and `segmenter` name choices of conf/; by default those of the run, else cam and
    threshold (for other maps than the run's, its cut means nothing); with
    segmenter.threshold=validation the one that the run chose. Raises UserError where there is no
    checkpoint, no such threshold, or a choice is unknown.
    """
    given = Path(where)
    place = runtime.select_device(device)
    trained = checkpoint.load(checkpoint.find(given), place)
    own: dict[str, Any] = {}
    if (given / "config.yaml").is_file():
        own = yaml.safe_load((given / "config.yaml").read_text(encoding="utf-8"))
    method = own.get("saliency") if saliency is None else read_choice("saliency", saliency)
    method = method or read_choice("saliency", "cam")
    own_cut = own.get("segmenter") if saliency is None and segmenter is None else None
    cut = own_cut or read_choice("segmenter", segmenter or "threshold")
    if cut.get("threshold") == "validation":
        views = [own["explain"][name] for name in ("flips", "scales")]
        cut = {**cut, "threshold": _validation(given, method, views, cut)}
    # What stands in a run's config.yaml may name this project's own classes alone.
    return Predictor(
        trained,
        cast(SaliencyMethod, instantiate("saliency", method, within="pipeline.saliency.")),
        cast(Segmenter, instantiate("segmenter", cut, within="pipeline.segmenter.")),
        runtime.select_precision("auto", place),
    )


def _validation(
    run: Path, saliency: Mapping[str, Any], views: Sequence[Any], segmenter: Mapping[str, Any]
) -> float:
    """The threshold that a run's stage calibrate chose, for images that it has not seen."""
    refines = isinstance(
        instantiate("segmenter", segmenter, within="pipeline.segmenter."), RefiningSegmenter
    )
    method = fill_defaults("saliency", saliency)
    place = find_thresholds(run, method, views, segmenter if refines else None)
    return float(select_thresholds(load_thresholds(place), refines)["elsewhere"][f"{USED_IOU:g}"])


def _is_top(target: str) -> bool:
    return target.startswith("top") and target[3:].isdecimal() and int(target[3:]) > 0
