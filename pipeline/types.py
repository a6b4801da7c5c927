"""What passes between stages: frozen, checked when made, shapes in the annotations.

Boxes are float32 `xyxy`, half-open, in pixels of the original upright image, everywhere: a box
covers the pixels x0 <= x < x1, y0 <= y < y1, so its width is x1 - x0. Other conventions live only
inside the file that speaks their format. Sizes are always (height, width).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float, Float16, Float32, Float64, Int, UInt8
    from PIL import Image
    from torch import Tensor

    from pipeline.protocols import DataSet, Network, TrainedNetwork

Size = tuple[int, int]
Split = Literal["train", "held_back", "calibration", "val", "all"]
"""`train` is learned from; `held_back`, a part of it set apart by hash, selects the best epoch;
`calibration`, which few data sets have, only chooses a threshold on its boxes; `val` is scored and
never selects anything; `all` is everything, for whoever wants boxes."""

ThresholdKind = Literal["fixed", "validation", "auto", "oracle"]
Rle = dict[str, Any]
"""A COCO run-length mask: {"size": [height, width], "counts": str}."""


@dataclass(frozen=True)
class Example:
    """An image and the class it is labelled with. No boxes: weak supervision is in the type."""

    id: str
    image: UInt8[np.ndarray, "H W 3"]
    label: int  # -1 where the image has none
    size: Size  # of the original upright image, which `image` may be a scaled copy of

    def __post_init__(self) -> None:
        if self.image.dtype != np.uint8 or self.image.ndim != 3 or self.image.shape[2] != 3:
            raise ValueError(
                f"image {self.id!r}: expected uint8 [H, W, 3] RGB, "
                f"got {self.image.dtype} {list(self.image.shape)}"
            )
        check_size(self.size, self.id)


@dataclass(frozen=True)
class Crowds:
    """Regions of an image that hold objects nobody counted: what is found there is neither right
    nor wrong (COCO's `iscrowd`)."""

    boxes: Float32[np.ndarray, "K 4"]
    classes: Int[np.ndarray, K] | None = None  # None: all are of the image's own class
    masks: Sequence[Rle | None] = ()  # as many as boxes


@dataclass(frozen=True)
class GroundTruth:
    """Annotated boxes of an image: read by `evaluate` and `calibrate` alone."""

    id: str
    label: int
    size: Size
    boxes: Float32[np.ndarray, "M 4"]
    classes: Int[np.ndarray, M] | None = None  # of each box; None: all are of `label`
    masks: Sequence[Rle] | None = None
    crowds: Crowds | None = None

    def __post_init__(self) -> None:
        check_size(self.size, self.id)
        check_boxes(self.boxes, self.id)
        for name, values in (("classes", self.classes), ("masks", self.masks)):
            if values is not None and len(values) != len(self.boxes):
                raise ValueError(
                    f"ground truth of {self.id!r}: {len(self.boxes)} boxes but {len(values)} {name}"
                )

    def of_label(self) -> Float32[np.ndarray, "m 4"]:
        """The boxes of the image's own class, which localization is measured on."""
        return self.boxes if self.classes is None else self.boxes[self.classes == self.label]


@dataclass(frozen=True)
class SaliencyMap:
    """Where a classifier looked for one class in one image, at the method's own resolution.

    `values * scale` are the raw values. The map covers the whole image, so going back to pixels is
    one scaling: `pipeline.ops.maps` owns it.
    """

    id: str
    explained: int
    predicted: int
    score: float  # probability that the network gives the explained class
    values: Float16[np.ndarray, "h w"]
    scale: float
    size: Size

    def __post_init__(self) -> None:
        check_size(self.size, self.id)
        if self.values.ndim != 2 or 0 in self.values.shape:
            raise ValueError(f"map of {self.id!r}: expected [h, w], got {list(self.values.shape)}")

    @classmethod
    def of(
        cls,
        id: str,
        explained: int,
        predicted: int,
        score: float,
        raw: Float32[np.ndarray, "h w"],
        size: Size,
    ) -> SaliencyMap:
        """A map of raw values as stage explain keeps it: the greatest finite magnitude is 1."""
        scale = float(np.abs(np.where(np.isfinite(raw), raw, 0)).max()) or 1.0
        stored = (raw / scale).astype(np.float16)
        return cls(id, explained, predicted, score, stored, scale, size)

    def raw(self) -> Float32[np.ndarray, "h w"]:
        return self.values.astype(np.float32) * np.float32(self.scale)


@dataclass(frozen=True)
class Boxes:
    """Boxes found for one class in one image, best score first."""

    id: str
    label: int  # the class they are of
    boxes: Float32[np.ndarray, "N 4"]
    scores: Float32[np.ndarray, N]
    size: Size
    masks: Sequence[Rle] | None = None
    fell_back: str | None = None  # why a segmenter left its way for a simpler one, where it did

    def __post_init__(self) -> None:
        check_size(self.size, self.id)
        check_boxes(self.boxes, self.id)
        if self.scores.shape != (len(self.boxes),):
            raise ValueError(
                f"boxes of {self.id!r}: {len(self.boxes)} boxes, scores {list(self.scores.shape)}"
            )


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


@dataclass(frozen=True)
class NetworkOutput:
    """A network's answer: logits and the activations that were asked for, by layer name."""

    logits: Float[Tensor, "b C"]
    activations: Mapping[str, Float[Tensor, "b K h w"]] = field(default_factory=dict)


ClassSelector = Callable[["Float[Tensor, 'b C']"], "Int[Tensor, 'b t']"]
"""From the logits to the classes to explain, t of them for each image."""


@dataclass(frozen=True)
class Explanation:
    """What a saliency method gives for a batch: raw maps of the classes that were chosen."""

    maps: Float[Tensor, "b t h w"]
    classes: Int[Tensor, "b t"]
    logits: Float[Tensor, "b C"]
    colour: Float[Tensor, "b t 3 H W"] | None = None  # before a method put R, G and B together


@dataclass(frozen=True)
class CocoIds:
    """The numbers and names that a COCO file knows images and classes by."""

    image_ids: Sequence[int]
    file_names: Sequence[str]
    category_ids: Sequence[int]


@dataclass(frozen=True)
class AuditNumber:
    """A number that a test of maps gives for each image, as the table of stage audit shows it."""

    name: str
    title: str
    good: Literal["low", "high", ""]  # "" where neither is good: how alike two maps are


PartValues = tuple[AuditNumber, str, "Float[np.ndarray, 'n']"]
"""A number of a part of a network that a test of maps looked at alone: the number, the part's name,
the values of the images."""


@dataclass(frozen=True, kw_only=True)
class AuditSubject:
    """One saliency method on one trained network: whose maps a test looks at.

    Args:
        trained: The network, with its input size, mean and std.
        network_name: The network's name in titles.
        method: The method's name in titles.
        seed: The seed of the run.
    """

    trained: TrainedNetwork
    network_name: str
    method: str
    seed: int


@dataclass(frozen=True, kw_only=True)
class AuditBatch:
    """Images that go through a test of maps together, and how they are explained.

    Args:
        positions: The position of each image in its split.
        pixels: The images, RGB, at the size of the network's input.
        sizes: Height and width of each original image.
        images: The same images as the network reads them.
        classes: The class that is explained of each image.
        seeds: A seed for whatever is drawn for each image, so that no result depends on which
            images go together.
        shown: How many of these images, the first, are kept for the test's picture.
        maps_of: From a network and images [b, 3, H, W] to the maps [b, h, w] of `classes`, computed
            in float32, at the method's own resolution.
        logits_of: From a network and images to the logits [b, C] as float32, without gradients.
        best_boxes: From maps [b, h, w] to the best box of each, float32 [b, 4] xyxy in pixels of
            the original image; all zeros where there is none.
    """

    positions: Sequence[int]
    pixels: UInt8[np.ndarray, "b H W 3"]
    sizes: Sequence[Size]
    images: Float[Tensor, "b 3 H W"]
    classes: Int[Tensor, "b"]
    seeds: Sequence[int]
    shown: int
    maps_of: Callable[[Network, Tensor], Tensor]
    logits_of: Callable[[Network, Tensor], Tensor]
    best_boxes: Callable[[Tensor], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class ViewSubject:
    """One trained network, which a view of stage inspect looks into, and what it may ask for.

    Args:
        trained: The network, with its classes, mean and std.
        network_name: The network's name in titles.
        device: The device of the network.
        size: Height and width that images are scaled to for the network.
        seed: The seed of the run.
        data: The images and their labels. A view that does not read them declares that.
        split: The split that images are taken from.
        method: The saliency method's name in titles.
        explain: From images [b, 3, H, W] and a selector of classes to maps of the run's saliency
            method, computed in the run's precision. A view that calls it declares that.
        batch_size: How many images are computed together.
        map_batches: From the title of a progress bar, positions of images in the split and a
            function to the arrays that the function returns of each batch, in order. The function
            is given the positions of a batch and its images as the network reads them; several
            threads may call it. Images that cannot be read are left out.
        show_progress: From the title of a progress bar, a count and a unit to a context that gives
            a function to advance by.
        compute_once: From a key and a function to what the function returns; computed once for all
            views that ask with the same key.
    """

    trained: TrainedNetwork
    network_name: str
    device: torch.device
    size: Size
    seed: int
    data: DataSet
    split: Split
    method: str
    explain: Callable[[Tensor, ClassSelector], Explanation]
    batch_size: int
    map_batches: Callable[
        [str, Sequence[int], Callable[[Sequence[int], Tensor], dict[str, np.ndarray]]],
        Iterator[Mapping[str, np.ndarray]],
    ]
    show_progress: Callable[[str, int, str], AbstractContextManager[Callable[[int], None]]]
    compute_once: Callable[[Hashable, Callable[[], Any]], Any]


@dataclass(frozen=True, kw_only=True)
class ViewResult:
    """What a view gives to be written.

    Args:
        sheets: Pictures by what follows the view's name: "" is `<view>.png`, "rise" is
            `<view>_rise.png`. Arrays are uint8 RGB.
        numbers: The content of `<view>.json`; None: there is no such file.
        pictures: Single pictures by name: `<view>/<name>.png`.
        notes: What could not be shown, a line each.
    """

    sheets: Mapping[str, Image.Image | UInt8[np.ndarray, "H W 3"]] = field(default_factory=dict)
    numbers: Mapping[str, Any] | None = None
    pictures: Mapping[str, UInt8[np.ndarray, "H W 3"]] = field(default_factory=dict)
    notes: Sequence[str] = ()


def check_size(size: Size, where: str) -> None:
    height, width = size
    if height < 1 or width < 1:
        raise ValueError(f"{where!r}: an image is at least 1x1, got height {height} width {width}")


def check_boxes(boxes: np.ndarray, where: str) -> None:
    if boxes.dtype != np.float32 or boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(
            f"boxes of {where!r}: expected float32 [N, 4] xyxy, got {boxes.dtype} "
            f"{list(boxes.shape)}"
        )
    if len(boxes) and not (np.isfinite(boxes).all() and (boxes[:, 2:] > boxes[:, :2]).all()):
        bad = boxes[~(np.isfinite(boxes).all(1) & (boxes[:, 2:] > boxes[:, :2]).all(1))][0]
        raise ValueError(f"boxes of {where!r}: empty, reversed or not finite: {bad.tolist()}")


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
