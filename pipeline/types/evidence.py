"""The types of an evaluation: evidence about an image, descriptions of metrics, their results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from pipeline.types.records import Size

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Float32, Float64, Int


Group = Literal["class", "size", "number"]
"""The groups of images that a number is also computed for: by class, by the size or the number of
their objects."""


@dataclass(frozen=True)
class Score:
    """A number of metrics.json.

    Attributes:
        name: of the number, as in `MetricNumber`.
        value: a fraction of 1, never percent.
        n: how many images it is computed from; or pairs of an image and one of its classes.
        iou: the IoU that boxes must reach, if it depends on one.
        threshold: of the maps, {"kind": ThresholdKind, "value": float}, if it depends on one.
        label: the group of images, written as "class"; None: all images.
        interval: low and high end of the confidence interval.
        method: the saliency method.
        group: what kind of group `label` names; None: all images.
    """

    name: str
    value: float
    n: int
    iou: float | None = None
    threshold: Mapping[str, Any] | None = None
    label: str | None = None
    interval: tuple[float, float] | None = None
    method: str | None = None
    group: Group | None = None

    def record(self) -> dict[str, Any]:
        """Return the number as metrics.json has it."""
        return {
            "name": self.name,
            "value": self.value,
            "n": self.n,
            "iou": self.iou,
            "threshold": None if self.threshold is None else dict(self.threshold),
            "class": self.label,
            "interval": None if self.interval is None else list(self.interval),
            "method": self.method,
            "group": self.group,
        }


# -- evidence about an image ----------------------------------------------------------------------


@dataclass(frozen=True)
class Curves:
    """IoUs of a map's boxes at each of the 1000 thresholds 0, 0.001 ... 0.999.

    IoUs are float64: they are compared with 0.3, 0.5 and 0.7, which float32 would get wrong.

    Attributes:
        largest: IoU of the largest component with the true box that it fits best.
        any: best IoU of any component with any true box.
        boxes: the box of the largest component, xyxy half-open in pixels of the original image;
            all zeros where nothing reaches the threshold.
    """

    largest: Float64[np.ndarray, 1000]
    any: Float64[np.ndarray, 1000]
    boxes: Float32[np.ndarray, "1000 4"]


@dataclass(frozen=True)
class Ranking:
    """The classes predicted for an image, most likely first; Top-k is known for k <= `places`."""

    classes: Sequence[int]
    places: int


@dataclass(frozen=True)
class CocoRecords:
    """An image, its annotations and its detections, as records of COCO files."""

    image: Mapping[str, Any]
    annotations: Sequence[Mapping[str, Any]]
    results: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class LabelScores:
    """The probability of each class in an image that may have several, and which it has.

    Attributes:
        probabilities: of each class, independent of each other.
        present: whether the image is labelled with the class.
        ignored: whether it counts neither as present nor as absent, as where all of its objects
            are difficult (PASCAL VOC).
    """

    probabilities: Float32[np.ndarray, C]
    present: Bool[np.ndarray, C]
    ignored: Bool[np.ndarray, C]


EvidenceKind = Literal[
    "classification", "ranking", "true", "box", "cuts", "boxes", "pointing", "curves", "pyramid",
    "pixels", "pyramid_pixels", "guesses", "coco_boxes", "coco_masks", "confidence",
    "alarm", "label_scores", "difficult", "voc_boxes",
]  # fmt: skip
"""What evidence can hold and a metric can need; see the fields of Evidence."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Annotations of a class in an image, and what was measured against them.

    It carries annotated boxes, so only the metrics and stage evaluate see it. A source fills in
    what it has; the rest is None.

    Attributes:
        id: unique name of the image, or of image and class where an image can have several.
        image: the name of the image.
        label: the class; -1 where the image has none.
        size: height and width of the image.
        fold: 0 or 1, the half of the images that it is in, for two-fold thresholds.
        true: annotated boxes of the class.
        is_extra: whether this holds only predicted boxes of a class that the image is not
            annotated with.
        iou: kind `box`: IoU of the best-scored box with the true box that it fits best; 0 where
            there is no box.
        cuts: IoU of the map's largest component at each of `EvaluationSettings.cuts`.
        boxes: kind `boxes`: all predicted boxes of the class, best score first.
        scores: the score of each of `boxes`.
        confidence: kind `confidence`: the probability, estimated without the annotation, that the
            best-scored box has an IoU of at least 0.5; None where there is no box.
        ranking: the predicted classes.
        classification: the classes that a classifier predicted, most likely first.
        curves: IoUs of the map at all thresholds.
        pyramid: curves of the centred pyramid, a map that does not depend on the image.
        pointing: the distance of the map's peak from the nearest object, in pixels of the image, 0
            inside; and the share of the map's energy inside the objects.
        pixels: counts of background and object pixels by value of the map.
        missed_pixels: object pixels that are at no threshold found, of an image without a map.
        pyramid_pixels: the same counts for the centred pyramid.
        guesses: the most likely classes, each with its best-scored box, where it has one.
        alarm: kind `alarm`, of an image of a class without an object: the confidence of the
            best-scored box of the predicted class; 0 where that has no object, or no box.
        coco: kinds `coco_boxes`, `coco_masks` and `voc_boxes`: the image with all its classes;
            given once for an image.
        label_scores: of an image that may have several classes; given once for an image.
        is_difficult: kind `difficult`, where true: the objects of the class are small, and there
            are others (see pipeline/metric/pointing.py); None: not known.
    """

    id: str
    image: str
    label: int = -1
    size: Size | None = None
    fold: int = 0
    true: Float32[np.ndarray, "M 4"] | None = None
    is_extra: bool = False
    iou: float | None = None
    cuts: Sequence[float] | None = None
    boxes: Float32[np.ndarray, "N 4"] | None = None
    scores: Float[np.ndarray, N] | None = None
    confidence: float | None = None
    ranking: Ranking | None = None
    classification: Sequence[int] | None = None
    curves: Curves | None = None
    pyramid: Curves | None = None
    pointing: tuple[float, float] | None = None
    pixels: Int[np.ndarray, "2 1001"] | None = None
    missed_pixels: int = 0
    pyramid_pixels: Int[np.ndarray, "2 1001"] | None = None
    guesses: Sequence[tuple[int, Float32[np.ndarray, "4"] | None]] | None = None
    coco: CocoRecords | None = None
    alarm: float | None = None
    label_scores: LabelScores | None = None
    is_difficult: bool | None = None

    def kinds(self) -> frozenset[EvidenceKind]:
        """Return the kinds of evidence that are not None or empty."""
        fields: dict[EvidenceKind, Any] = {
            "classification": self.classification,
            "ranking": self.ranking,
            "true": self.true if self.true is not None and len(self.true) else None,
            "box": self.iou,
            "cuts": self.cuts,
            "boxes": self.boxes,
            "pointing": self.pointing,
            "curves": self.curves,
            "pyramid": self.pyramid,
            "pixels": self.pixels,
            "pyramid_pixels": self.pyramid_pixels,
            "guesses": self.guesses,
            "coco_boxes": self.coco,
            "coco_masks": self.coco,
            "confidence": self.confidence,
            "alarm": self.alarm,
            "label_scores": self.label_scores,
            "difficult": self.is_difficult or None,
            "voc_boxes": self.coco,
        }
        return frozenset(kind for kind, value in fields.items() if value is not None)


@dataclass(frozen=True)
class Cut:
    """A threshold that maps are evaluated at besides the threshold of the boxes.

    Attributes:
        info: the threshold as metrics.json describes it.
        ious: the IoUs that it is used for.
    """

    info: Mapping[str, Any]
    ious: tuple[float, ...]

    @property
    def kind(self) -> str:
        """The kind of threshold."""
        return str(self.info["kind"])


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """What all metrics of an evaluation share.

    Attributes:
        ious: the IoUs that a box must reach.
        seed: of the bootstrap.
        threshold: the threshold of the boxes, as metrics.json describes it.
        cuts: the other thresholds that maps are evaluated at; `Evidence.cuts` has an IoU for each.
        min_two_fold: from so many images with curves on, a validation threshold is chosen on each
            half of them for the other half; None: never.
        classes: the names of the classes.
        category_ids: the ids of the classes in COCO records.
        is_multi_label: whether an image may have several classes, and each piece of evidence is of
            one of them.
    """

    ious: tuple[float, ...] = (0.3, 0.5, 0.7)
    seed: int = 0
    threshold: Mapping[str, Any] | None = None
    cuts: tuple[Cut, ...] = ()
    min_two_fold: int | None = None
    classes: Sequence[str] = ()
    category_ids: Sequence[int] = ()
    is_multi_label: bool = False


@dataclass(frozen=True, kw_only=True)
class Card:
    """A number that a report shows on a card at its top.

    Attributes:
        order: its place among the cards.
        iou: the IoU that it is shown at.
        kind: the kind of threshold that it is shown at; `own`: that of the boxes.
        baseline: name and kind of the number that is shown beside it, at the same IoU.
        column: the title of its column in the table of classes; empty: no column.
        of_method: whether it differs between saliency methods on the same classifier.
    """

    order: int
    iou: float | None = None
    kind: str = "own"
    baseline: tuple[str, str] | None = None
    column: str = ""
    of_method: bool = True


@dataclass(frozen=True, kw_only=True)
class MetricNumber:
    """How a number of a metric is named, shown and compared.

    Attributes:
        name: in metrics.json.
        title: in sentences, on cards and in comparisons.
        unit: `percent`: values are fractions of 1, shown in percent; else the unit of the values.
        lower_is_better: whether the lower of two values is the better.
        order: place of its row in the table, from the top.
        row: title of its row in the table; None: as `title`.
        in_table: whether it has a row; else it is only in metrics.json.
        hidden_kinds: kinds of threshold at which it has no row.
        names_threshold: whether its row names the threshold.
        is_baseline: whether it does not depend on what is in the image.
        beside: names of numbers that are shown in the same cell, at IoU 0.5 or none.
        min_classes: with fewer classes it has no meaning, and no row.
        comparison_order: place among the differences of a comparison.
        is_headline: whether its difference is shown as a sentence.
        cards: its cards at the top of a report.
    """

    name: str
    title: str
    unit: str = "percent"
    lower_is_better: bool = False
    order: int = 1000
    row: str | None = None
    in_table: bool = True
    hidden_kinds: tuple[str, ...] = ()
    names_threshold: bool = True
    is_baseline: bool = False
    beside: tuple[str, ...] = ()
    min_classes: int = 0
    comparison_order: int = 1000
    is_headline: bool = False
    cards: tuple[Card, ...] = ()


Statistic = Callable[["Float64[np.ndarray, '*b k']"], "Float64[np.ndarray, '*b']"]
"""From means over images to a metric."""


class Rows(Protocol):
    """n rows of k numbers: an array, or an object that computes the rows of a slice on demand."""

    def __len__(self) -> int: ...

    def __getitem__(self, chosen: slice, /) -> np.ndarray: ...


@dataclass(frozen=True)
class PairedRows:
    """What a paired test of two evaluations reads from each: a row for each piece of evidence.

    Attributes:
        name: of the number.
        rows: `statistic` of their mean is the number.
        statistic: from the mean row to the number.
        iou: the IoU that boxes must reach, if the number depends on one.
        kind: `validation` or `oracle`; empty: the threshold of the boxes, or no threshold.
        threshold: the kind of threshold that the difference names.
        by_image: whether the rows of an image are added up first.
    """

    name: str
    rows: Rows
    statistic: Statistic
    iou: float | None = None
    kind: str = ""
    threshold: str = ""
    by_image: bool = False
