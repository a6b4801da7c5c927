"""Confidences of boxes: the boxes that they are fitted on, the models, and the order of review.

examples.safetensors  by stage calibrate: features of boxes, and whether each is right
ranking.safetensors   by stage rank: the confidence of each box, the rank of each image
confidence.json       by stage rank: the models, what they were fitted on, and for which maps
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.formats.arrays import read_arrays, write_arrays
from pipeline.formats.files import read_json, write_json
from pipeline.ops.hashing import to_plain
from pipeline.segmenter.confidence import ConfidenceModel
from pipeline.segmenter.confidence_features import FEATURES
from pipeline.types import Review

if TYPE_CHECKING:
    from jaxtyping import Bool, Float32, Int

EXAMPLES, RANKING, MODELS = "examples.safetensors", "ranking.safetensors", "confidence.json"


@dataclass(frozen=True)
class Examples:
    """The best-scored box of images with annotated boxes; those themselves are not kept.

    Of an image that may have several classes there is one of each class: a pair of image and class.

    Attributes:
        ids: the name of each image.
        features: of its box.
        boxes: xyxy in pixels of the image.
        right: whether its IoU with an annotated box is at least 0.5.
        source: which boxes these are: user, split, held_back or two_fold; empty: there are none.
        labels: the class of each box, where an image may have several; None: it has one.
    """

    ids: Sequence[str]
    features: Float32[np.ndarray, "n k"]
    boxes: Float32[np.ndarray, "n 4"]
    right: Bool[np.ndarray, n]
    source: str = ""
    labels: Int[np.ndarray, n] | None = None

    @property
    def keys(self) -> list[tuple[str, int]]:
        """Return image and class of each box; the class is -1 where an image has one."""
        labels = [-1] * len(self.ids) if self.labels is None else self.labels.tolist()
        return list(zip(self.ids, labels, strict=True))

    def write(self, folder: Path) -> None:
        """Write the examples into the result of stage calibrate."""
        arrays = {"features": self.features, "boxes": self.boxes, "right": self.right}
        arrays |= {} if self.labels is None else {"labels": self.labels}
        write_arrays(folder / EXAMPLES, arrays, ids=list(self.ids), source=self.source)


def no_examples() -> Examples:
    """Return no examples: there are too few annotated boxes."""
    none = np.zeros((0, 4), np.float32)
    return Examples([], np.zeros((0, len(FEATURES)), np.float32), none, np.zeros(0, bool))


def load_examples(folder: Path) -> Examples:
    """Return the examples of a result of stage calibrate."""
    arrays, notes = read_arrays(folder / EXAMPLES)
    return Examples(
        notes["ids"], arrays["features"], arrays["boxes"], arrays["right"], notes["source"],
        arrays.get("labels"),
    )  # fmt: skip


@dataclass(frozen=True)
class ConfidenceModels:
    """The models of a run, for the maps of a method.

    Attributes:
        alone: for boxes of the method without those of others.
        together: for boxes of the method beside those of the run's other methods, or of GrabCut,
            if any.
        source: the boxes that they were corrected on, as in `Examples`.
    """

    alone: ConfidenceModel
    together: ConfidenceModel | None = None
    source: str = ""

    @property
    def used(self) -> ConfidenceModel:
        """Return the model of the run's own boxes."""
        return self.alone if self.together is None else self.together

    def write(self, folder: Path, made_for: Mapping[str, Any]) -> None:
        """Write confidence.json; `made_for`: as `find_models` is given it."""
        record = {
            "confidence_kind": self.used.kind,
            "source": self.source,
            "examples": self.used.examples,
            "alone": self.alone.record(),
            "together": None if self.together is None else self.together.record(),
            "made_for": to_plain(made_for),
        }
        write_json(folder / MODELS, record, indent=1)


def find_models(run_folder: Path, made_for: Mapping[str, Any]) -> ConfidenceModels | None:
    """Return the models of a run for the same maps and segmenter; None where it has none.

    Args:
        run_folder: the folder of the run.
        made_for: the completed nodes of saliency method and segmenter, and the views.
    """
    for path in sorted(run_folder.glob(f"stages/rank*/{MODELS}")):
        record = read_json(path)
        if record["made_for"] == to_plain(made_for):
            together = record["together"]
            return ConfidenceModels(
                ConfidenceModel.from_record(record["alone"]),
                None if together is None else ConfidenceModel.from_record(together),
                record["source"],
            )
    return None


def describe_maps(
    saliency: Mapping[str, Any], views: Sequence[Any], segmenter: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what models are made for, as `find_models` takes it.

    Args:
        saliency: the completed node of the saliency method.
        views: explain.flips and explain.scales.
        segmenter: the completed node of the segmenter.
    """
    return {"saliency": dict(saliency), "views": list(views), "segmenter": dict(segmenter)}


def write_ranking(folder: Path, confidences: Float32[np.ndarray, n], review: Review) -> None:
    """Write the confidences of all boxes, in the order of stage localize, and the review order."""
    arrays = {"confidence": confidences, "rank": review.ranks, "sampled": review.sampled}
    write_arrays(folder / RANKING, arrays, confidence_kind=review.confidence_kind)


def load_ranking(folder: Path) -> tuple[Float32[np.ndarray, n], Review]:
    """Return what `write_ranking` wrote."""
    arrays, notes = read_arrays(folder / RANKING)
    review = Review(arrays["rank"], arrays["sampled"], notes["confidence_kind"])
    return arrays["confidence"], review
