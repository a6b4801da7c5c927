"""Examples, maps, boxes, annotations: what passes between stages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float, Float16, Float32, Int, UInt8
    from torch import Tensor


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


@dataclass(frozen=True, kw_only=True)
class FoundBoxes:
    """All boxes found in the images of a split, as an exporter writes them: of any number, for
    they are streamed.

    Args:
        boxes: gives a stream of boxes with the positions of their images, anew at each call.
        sizes: the same for the size of each image that was explained.
        ids: the name of each image, by position.
        classes: names of classes.
        coco: the numbers and file names that a COCO file knows images and classes by.
    """

    boxes: Callable[[], Iterator[tuple[int, Boxes]]]
    sizes: Callable[[], Iterator[tuple[int, Size]]]
    ids: Sequence[str]
    classes: Sequence[str]
    coco: CocoIds


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
