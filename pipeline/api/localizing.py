"""Boxes and masks of saliency maps, with their scores and confidences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from pipeline.api.images import (
    ImageInfo,
    Photograph,
    is_network_input,
    list_images,
    open_photograph,
)
from pipeline.engine.choices import instantiate, read_choice
from pipeline.errors import UserError
from pipeline.protocols import Segmenter
from pipeline.segmenter.confidence import ConfidenceModel, default_model
from pipeline.segmenter.confidence_features import measure_features
from pipeline.types import Boxes, Example, SaliencyMap

if TYPE_CHECKING:
    from jaxtyping import Float32

    from pipeline.api.explaining import Explained
    from pipeline.api.images import Images


@dataclass(frozen=True)
class Prediction:
    """A class in an image, and its boxes.

    Attributes:
        label: the name of the class.
        probability: that the network gives the class; 1 where a score of the caller's own was
            explained, which has none.
        boxes: xyxy in pixels of the upright image, half-open, best score first.
        scores: the score of each box.
        masks: the mask of each box as COCO RLE, where the segmenter makes masks.
        map: the map that the boxes were segmented from.
        confidences: the probability of each box that its IoU with the object is at least 0.5;
            where `confidence_kind` is `default`, they only rank boxes.
        confidence_kind: `calibrated`, on annotated boxes of the run, or `default`.
    """

    label: str
    probability: float
    boxes: Float32[np.ndarray, "N 4"]
    scores: Float32[np.ndarray, N]
    masks: Sequence[Mapping[str, Any]] | None
    map: SaliencyMap
    confidences: Float32[np.ndarray, N]
    confidence_kind: str


SHOWN = 3  # images whose predictions are printed


@dataclass(frozen=True, repr=False)
class Localized(Sequence[list[Prediction]]):
    """The predictions of each image, in the order of the images.

    Attributes:
        images: the name of each image.
        predictions: of each image, one for each class that was explained.
    """

    images: Sequence[str]
    predictions: Sequence[list[Prediction]]

    def __len__(self) -> int:
        return len(self.predictions)

    def __getitem__(self, place: Any) -> Any:
        return self.predictions[place]

    def __iter__(self) -> Iterator[list[Prediction]]:
        return iter(self.predictions)

    def __repr__(self) -> str:
        shown = [
            f"{name!r}: " + ", ".join(f"{p.label!r} with {_count_boxes(p)}" for p in of[:SHOWN])
            + (", ..." if len(of) > SHOWN else "")
            for name, of in zip(self.images[:SHOWN], self.predictions, strict=False)
        ]  # fmt: skip
        more = "; ..." if len(self) > SHOWN else ""
        return f"Localized({len(self)} images; {'; '.join(shown)}{more})"


def _count_boxes(prediction: Prediction) -> str:
    return "1 box" if len(prediction.boxes) == 1 else f"{len(prediction.boxes)} boxes"


def localize(
    result: Explained,
    images: Images | None = None,
    segmenter: str | Segmenter = "threshold",
    **options: Any,
) -> Localized:
    """Segment maps into boxes in pixels of the images.

    Args:
        result: what `explain` returned.
        images: the photographs, in the same order, for segmenters that read them (grabcut), and
            for the size of photographs that were explained as tensors. None: paths are read again,
            and boxes of tensors are in pixels of the tensors.
        segmenter: a choice of conf/segmenter/, or a segmenter.
        **options: of the segmenter, as its YAML file has them.

    Raises:
        UserError: there is no such segmenter or option, it needs images that are not there, or
            `images` are not those of the result.

    Examples:
        >>> import torch, torchvision, pipeline
        >>> model = torchvision.models.resnet18(num_classes=5)
        >>> result = pipeline.explain(model, torch.rand(1, 3, 96, 96), target=3)
        >>> pipeline.localize(result)[0][0].boxes.shape
        (1, 4)
    """
    segments = build_segmenter(segmenter, options)
    if images is None:
        given: Sequence[Any] = [info.name for info in result.images]
    else:
        given = list_images(images)
        if len(given) != len(result):
            raise UserError(f"images: {len(given)} for {len(result)} that were explained")
    photographs = [
        find_photograph(image, info, segments)
        for image, info in zip(given, result.images, strict=True)
    ]
    confidence = default_model("classifier", with_agreement=False)
    predictions = segment_maps(result, photographs, segments, confidence)
    return Localized([info.name for info in result.images], predictions)


def build_segmenter(segmenter: str | Segmenter, options: Mapping[str, Any]) -> Segmenter:
    """Return a segmenter by its name, with its options, or an object that is one.

    Args:
        segmenter: a choice of conf/segmenter/, or a segmenter.
        options: of the segmenter.

    Raises:
        UserError: there is no such segmenter or option.
    """
    if not isinstance(segmenter, str):
        if options:
            raise UserError(f"{', '.join(options)}: the segmenter is built already")
        return segmenter
    node = {**read_choice("segmenter", segmenter), **options}
    return cast(Segmenter, instantiate("segmenter", node, within="pipeline.segmenter."))


def find_photograph(image: Any, info: ImageInfo, segmenter: Segmenter) -> Photograph | None:
    """Return the photograph that was explained; None of a tensor, where the segmenter reads none.

    Args:
        image: a photograph, or the name of what was explained.
        info: of what was explained.
        segmenter: what the pixels are for.

    Raises:
        UserError: the segmenter reads pixels, and there are none.
    """
    if is_network_input(image):
        raise UserError("images: expected photographs; a tensor of floats is what a network reads")
    if isinstance(image, str) and image == info.name and not Path(image).is_file():
        if segmenter.needs_image:
            raise UserError(
                "images: this segmenter reads the photograph; give localize(result, images) paths, "
                "Pillow images or arrays of uint8"
            )
        return None
    return open_photograph(image, info.name)


def segment_maps(
    result: Explained,
    photographs: Sequence[Photograph | None],
    segmenter: Segmenter,
    confidence: ConfidenceModel,
) -> list[list[Prediction]]:
    """Segment the maps of each image into boxes, and compute their confidences.

    Args:
        result: of `explain`.
        photographs: of each image; None of one that was explained as a tensor.
        segmenter: makes the boxes.
        confidence: computes the confidences.
    """
    maps = result.maps if result.maps.ndim == 4 else result.maps[:, None]
    classes = (result.classes if result.classes.ndim == 2 else result.classes[:, None]).tolist()
    values = maps.cpu().numpy()
    probabilities = result.probabilities.cpu().numpy()
    predictions = []
    for n, (info, photograph) in enumerate(zip(result.images, photographs, strict=True)):
        size = info.size if photograph is None else photograph.size
        example = None if photograph is None else photograph.example(segmenter)
        of_image, predicted = [], int(probabilities[n].argmax())
        for row, label in zip(values[n], classes[n], strict=True):
            # A score of the caller's own has no probability, which would weigh its boxes.
            score = 1.0 if result.answers == "scores" else float(probabilities[n][label])
            saliency = SaliencyMap.of(info.name, label, predicted, score, row, size)
            name = result.names[label] if result.names else f"score {label}"
            has_object = name not in result.negatives
            of_image.append(segment_map(saliency, name, example, segmenter, confidence, has_object))
        predictions.append(of_image)
    return predictions


def segment_map(
    saliency: SaliencyMap,
    label: str,
    example: Example | None,
    segmenter: Segmenter,
    confidence: ConfidenceModel,
    has_object: bool = True,
) -> Prediction:
    """Segment a map into boxes, and compute their confidences.

    Args:
        saliency: the map.
        label: the name of its class.
        example: the photograph, where the segmenter reads it.
        segmenter: makes the boxes.
        confidence: computes the confidences.
        has_object: whether images of the class have an object; without one there is no box.
    """
    boxes: Boxes = segmenter(saliency, example)
    if not has_object:
        boxes = boxes.select(np.zeros(len(boxes.boxes), bool))
    confidences = confidence(measure_features(saliency, boxes)).astype(np.float32)
    return Prediction(label, saliency.score, boxes.boxes, boxes.scores, boxes.masks, saliency,
                      confidences, confidence.kind)  # fmt: skip
