"""What an evaluation passes on: what a source knows of an image, what a metric says of itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from pipeline.types.records import Size

if TYPE_CHECKING:
    from jaxtyping import Float, Float32, Float64, Int


Group = Literal["class", "size", "number"]
"""What a number is also given for: images of one class, of one size or number of objects."""


@dataclass(frozen=True)
class Score:
    """One number of metrics.json. `value` is a fraction of 1, never percent."""

    name: str
    value: float
    n: int
    iou: float | None = None
    threshold: Mapping[str, Any] | None = None  # {"kind": ThresholdKind, "value": float}
    label: str | None = None  # written as "class"; None for the headline
    interval: tuple[float, float] | None = None
    method: str | None = None
    group: Group | None = None  # which group of images `label` names; None for the headline

    def record(self) -> dict[str, Any]:
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


# -- evaluation: what a source knows of an image, and what a metric says of itself ----------------


@dataclass(frozen=True)
class Curves:
    """What a map is worth at each of the 1000 thresholds 0, 0.001 ... 0.999.

    IoUs are float64: they are compared with 0.3, 0.5 and 0.7, which float32 would get wrong.
    """

    largest: Float64[np.ndarray, 1000]  # IoU of the largest component with its best true box
    any: Float64[np.ndarray, 1000]  # best IoU of any component with any true box
    boxes: Float32[np.ndarray, "1000 4"]  # of the largest: xyxy half-open, original pixels;
    # all zeros where nothing reaches the threshold


@dataclass(frozen=True)
class Ranking:
    """The classes predicted for an image, most likely first; Top-k is known for k <= `places`."""

    classes: Sequence[int]
    places: int


@dataclass(frozen=True)
class CocoRecords:
    """An image, its annotations and what was found in it, as records of COCO files."""

    image: Mapping[str, Any]
    annotations: Sequence[Mapping[str, Any]]
    results: Sequence[Mapping[str, Any]]


EvidenceKind = Literal[
    "classification", "ranking", "true", "box", "cuts", "boxes", "pointing", "curves", "pyramid",
    "pixels", "pyramid_pixels", "guesses", "coco_boxes", "coco_masks",
]  # fmt: skip
"""What evidence can hold and a metric can need; see the fields of Evidence."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What is known of a class in an image: annotations, and what was measured against them.

    It carries annotated boxes, so only the metrics and stage evaluate see it. A source fills in
    what it has; None stands for what it does not have.

    Attributes:
        id: names the image, or the image and the class, where an image can have several; unique.
        image: names the image.
        label: the class; -1 where the image has none.
        size: of the image.
        fold: 0 or 1, the half of the images that it is in, for two-fold thresholds.
        true: annotated boxes of the class.
        is_extra: whether this holds nothing but boxes found of a class that the image is not
            annotated with.
        iou: kind `box`: IoU of the best-scored box with the true box that it fits best, 0 where
            nothing was found.
        cuts: IoU of the map's largest component at each of `EvaluationSettings.cuts`.
        boxes, scores: kind `boxes`: all boxes found of the class, best score first.
        ranking: classes predicted.
        classification: the classes that a classifier answered with, most likely first.
        curves: of the map, at all thresholds.
        pyramid: curves of the centred pyramid, a map that does not depend on the image.
        pointing: how far the map's peak is from the nearest object, in pixels of the image, 0
            inside; and the share of the map's energy inside the objects.
        pixels: pixels of background and object by value of the map.
        pyramid_pixels: the same of the centred pyramid.
        guesses: the classes predicted first, each with its best-scored box, where it has one.
        coco: kinds `coco_boxes` and `coco_masks`: the image with all its classes; given once for
            an image.
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
    ranking: Ranking | None = None
    classification: Sequence[int] | None = None
    curves: Curves | None = None
    pyramid: Curves | None = None
    pointing: tuple[float, float] | None = None
    pixels: Int[np.ndarray, "2 1001"] | None = None
    pyramid_pixels: Int[np.ndarray, "2 1001"] | None = None
    guesses: Sequence[tuple[int, Float32[np.ndarray, "4"] | None]] | None = None
    coco: CocoRecords | None = None

    def kinds(self) -> frozenset[EvidenceKind]:
        """Return what this evidence holds."""
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
        }
        return frozenset(kind for kind, value in fields.items() if value is not None)


@dataclass(frozen=True)
class Cut:
    """A threshold that maps are scored at beside the one that the boxes were segmented at.

    `info` is the threshold as metrics.json names it; `ious` are the IoUs that it serves.
    """

    info: Mapping[str, Any]
    ious: tuple[float, ...]

    @property
    def kind(self) -> str:
        """Return the kind of threshold."""
        return str(self.info["kind"])


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """What all metrics of an evaluation share.

    Attributes:
        ious: the IoUs that a box must reach.
        seed: of the bootstrap.
        threshold: what the boxes were segmented at, as metrics.json names it.
        cuts: the other thresholds that maps are scored at; `Evidence.cuts` has an IoU for each.
        min_two_fold: where at least so many images have curves, a validation threshold is chosen
            on each half of them for the other half; None: nowhere.
        classes: names of the classes.
        category_ids: the numbers that COCO records know the classes by.
    """

    ious: tuple[float, ...] = (0.3, 0.5, 0.7)
    seed: int = 0
    threshold: Mapping[str, Any] | None = None
    cuts: tuple[Cut, ...] = ()
    min_two_fold: int | None = None
    classes: Sequence[str] = ()
    category_ids: Sequence[int] = ()


@dataclass(frozen=True, kw_only=True)
class Card:
    """A number among the few that a report shows first.

    Attributes:
        order: its place among the cards.
        iou: the IoU that it is shown at.
        kind: the kind of threshold that it is shown at; `own`: that of the boxes.
        baseline: name and kind of the number that is shown beside it, at the same IoU.
        column: the title of its column in the table of classes; empty: it has none.
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
    """What a metric says of a number that it computes.

    Attributes:
        name: in metrics.json.
        title: in sentences, on cards and in comparisons.
        unit: `percent`: values are fractions of 1, shown in percent; else what they are counted in.
        lower_is_better: whether the lower of two values is the better.
        order: place of its row in the table, from the top.
        row: title of its row in the table; None: as `title`.
        in_table: whether it has a row; else it is in metrics.json alone.
        hidden_kinds: kinds of threshold at which it has no row.
        names_threshold: whether its row names the threshold.
        is_baseline: whether it does not depend on what is in the image.
        beside: names of numbers that are shown in the same cell, at IoU 0.5 or none.
        min_classes: it says nothing about fewer classes, and has no row there.
        comparison_order: place among the differences of a comparison.
        is_headline: whether its difference is shown as a sentence.
        cards: where it is among the few to look at first.
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
    """n rows of k numbers: an array, or something that unpacks a slice of itself."""

    def __len__(self) -> int: ...

    def __getitem__(self, chosen: slice, /) -> np.ndarray: ...


@dataclass(frozen=True)
class PairedRows:
    """What a paired test of two measurements takes of each: a row for each unit of evidence.

    `statistic` of the mean row is the number `name` at `iou`. `kind`: empty for the threshold that
    the boxes were segmented at or where none has a part, else `validation` or `oracle`.
    `threshold`: the kind of threshold that the difference names. `by_image`: the rows of an image
    are added up first.
    """

    name: str
    rows: Rows
    statistic: Statistic
    iou: float | None = None
    kind: str = ""
    threshold: str = ""
    by_image: bool = False
