"""Examples, maps, boxes, annotations: what passes between stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Float16, Float32, Int, UInt8
    from torch import Tensor


FEW, INFINITE = 8, float("inf")
Size = tuple[int, int]
Split = Literal["train", "held_back", "calibration", "val", "test", "all"]
"""`train` is for training; `held_back`, a part of it selected by hash, selects the best epoch;
`calibration`, which few data sets have, only serves to choose a threshold on its boxes; `val` is
evaluated and never selects anything; `test`, which few data sets have, only gets boxes: it is not
evaluated, and some of its images may have no label; `all` is all images, for predicting boxes."""

ThresholdKind = Literal["fixed", "validation", "auto", "oracle"]
Supervision = Literal["image labels", "boxes"]
"""What a network learned from: `boxes` where boxes of a person taught its localization head."""
Rle = dict[str, Any]
"""A COCO run-length mask: {"size": [height, width], "counts": str}."""


@dataclass(frozen=True)
class Example:
    """An image and the classes that it is labelled with; without boxes, as supervision is weak.

    Attributes:
        id: the name of the image.
        image: RGB pixels, upright.
        label: the class, or the first of several; -1 where the image has none.
        size: height and width of the original image, of which `image` may be a scaled copy.
        is_first_of_several: whether its file has further pages or frames, which are not used.
        has_own_range: whether it has more than 8 bits and is scaled from the range of its own
            values, unlike the other images of the data set.
        other_labels: where an image may have several classes: its others, ascending.
    """

    id: str
    image: UInt8[np.ndarray, "H W 3"]
    label: int
    size: Size
    is_first_of_several: bool = False
    has_own_range: bool = False
    other_labels: tuple[int, ...] = ()

    @property
    def labels(self) -> tuple[int, ...]:
        """All classes of the image, ascending; empty where it has none."""
        return () if self.label < 0 else (self.label, *self.other_labels)

    def __post_init__(self) -> None:
        if self.image.dtype != np.uint8 or self.image.ndim != 3 or self.image.shape[2] != 3:
            raise ValueError(
                f"image {self.id!r}: expected uint8 [H, W, 3] RGB, "
                f"got {self.image.dtype} {list(self.image.shape)}"
            )
        check_size(self.size, self.id)


@dataclass(frozen=True)
class Crowds:
    """Regions with uncounted objects (COCO's `iscrowd`): boxes there are neither right nor wrong.

    Attributes:
        boxes: xyxy in pixels.
        classes: the class of each; None: that of the image.
        masks: the mask of each.
    """

    boxes: Float32[np.ndarray, "K 4"]
    classes: Int[np.ndarray, K] | None = None
    masks: Sequence[Rle | None] = ()


@dataclass(frozen=True)
class GroundTruth:
    """Annotated boxes of an image; only the stages evaluate, calibrate and check read them.

    Attributes:
        id: the name of the image.
        label: the class of the image, or the first of several.
        size: height and width of the image.
        boxes: xyxy in pixels.
        classes: the class of each box; None: `label` for all.
        masks: the mask of each box, where there are masks.
        crowds: regions with uncounted objects.
        is_reviewed: whether the file says that a person has looked at the boxes.
        chosen_by_doubt: whether the file says that the image was annotated because its box was
            doubtful, not at random.
        void: pixels that count neither as object nor as background, of any class; None: all
            count. Numbers of boxes do not know of them.
    """

    id: str
    label: int
    size: Size
    boxes: Float32[np.ndarray, "M 4"]
    classes: Int[np.ndarray, M] | None = None
    masks: Sequence[Rle] | None = None
    crowds: Crowds | None = None
    is_reviewed: bool = False
    chosen_by_doubt: bool = False
    void: Rle | None = None

    def __post_init__(self) -> None:
        check_size(self.size, self.id)
        check_boxes(self.boxes, self.id)
        for name, values in (("classes", self.classes), ("masks", self.masks)):
            if values is not None and len(values) != len(self.boxes):
                raise ValueError(
                    f"ground truth of {self.id!r}: {len(self.boxes)} boxes but {len(values)} {name}"
                )

    def of_label(self) -> Float32[np.ndarray, "m 4"]:
        """Return the boxes of the image's class, which localization is measured on."""
        return self.of_class(self.label)

    def of_class(self, label: int) -> Float32[np.ndarray, "m 4"]:
        """Return the boxes of a class.

        Args:
            label: the class.
        """
        classes = np.full(len(self.boxes), self.label) if self.classes is None else self.classes
        return np.asarray(self.boxes[classes == label])


@dataclass(frozen=True)
class SaliencyMap:
    """Where a classifier looked for a class in an image, at the method's resolution.

    The map covers the whole image: pipeline/ops/maps.py scales it to pixels.

    Attributes:
        id: the name of the image.
        explained: the class that the map is of.
        predicted: the class that the network predicts.
        score: the probability of the explained class.
        values: the map, divided by `scale`.
        scale: `values * scale` are the raw values.
        size: height and width of the image.
    """

    id: str
    explained: int
    predicted: int
    score: float
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
        """Return the map of raw values as it is stored: the greatest finite magnitude is 1.

        Args:
            id: The id of the image.
            explained: The class of the map.
            predicted: The class that the network predicts.
            score: The probability of the explained class.
            raw: The values as the method computed them.
            size: (height, width) of the original image.
        """
        scale = float(np.abs(np.where(np.isfinite(raw), raw, 0)).max()) or 1.0
        stored = (raw / scale).astype(np.float16)
        return cls(id, explained, predicted, score, stored, scale, size)

    def raw(self) -> Float32[np.ndarray, "h w"]:
        """Return the values as the method computed them, to float16 precision."""
        return self.values.astype(np.float32) * np.float32(self.scale)


@dataclass(frozen=True)
class Boxes:
    """Boxes of a class in an image, best score first.

    Attributes:
        id: the name of the image.
        label: the class of the boxes.
        boxes: xyxy in pixels.
        scores: the score of each box.
        size: height and width of the image.
        masks: the mask of each box, where the segmenter makes masks.
        fell_back: why the segmenter used a simpler method, where it did.
        probability: that the network gives the class, where it is known.
        features: what tells right boxes from wrong ones, a row each, where it was measured.
        confidences: the probability of each box that its IoU is at least 0.5, where it is known.
        is_human: whether a person drew, corrected or accepted the boxes.
    """

    id: str
    label: int
    boxes: Float32[np.ndarray, "N 4"]
    scores: Float32[np.ndarray, N]
    size: Size
    masks: Sequence[Rle] | None = None
    fell_back: str | None = None
    probability: float | None = None
    features: Float32[np.ndarray, "N k"] | None = None
    confidences: Float32[np.ndarray, N] | None = None
    is_human: bool = False

    def __post_init__(self) -> None:
        check_size(self.size, self.id)
        check_boxes(self.boxes, self.id)
        if self.scores.shape != (len(self.boxes),):
            raise ValueError(
                f"boxes of {self.id!r}: {len(self.boxes)} boxes, scores {list(self.scores.shape)}"
            )

    def select(self, chosen: Bool[np.ndarray, N]) -> Boxes:
        """Return some of the boxes.

        Args:
            chosen: whether each box stays.
        """
        rows = np.flatnonzero(chosen).tolist()
        return replace(
            self,
            boxes=self.boxes[rows],
            scores=self.scores[rows],
            masks=None if self.masks is None else [self.masks[n] for n in rows],
            features=None if self.features is None else self.features[rows],
            confidences=None if self.confidences is None else self.confidences[rows],
        )


@dataclass(frozen=True)
class NetworkOutput:
    """A network's logits and the activations that were asked for, by layer name."""

    logits: Float[Tensor, "b C"]
    activations: Mapping[str, Float[Tensor, "b K h w"]] = field(default_factory=dict)


@dataclass(frozen=True)
class AttentionWindows:
    """Where the tokens lie between which a block has attention, as in Swin.

    Attributes:
        grid: height and width of the grid of tokens.
        places: the token of each place of each window, in raster order; -1: padding.
    """

    grid: Size
    places: Int[Tensor, "w m"]


@dataclass(frozen=True)
class Attentions:
    """What a vision transformer computed, block by block.

    Attributes:
        logits: of the network.
        matrices: the attention of each block, softmax(q k^T / sqrt(d)), a row for each query; or
            what was kept of it. Within windows: of all windows of the first image, then of the
            second, ...
        tokens: what each block gives, [b, n, K] or [b, h, w, K].
        others: how many tokens are before those of the patches: class token and registers.
        grid: height and width of the grid of patches.
        read: from tokens in the place of those that the last block gives to the logits that
            follow. All that is behind it runs on them; the blocks run on a single image.
        windows: of each block; empty: attention is between all tokens.
    """

    logits: Float[Tensor, "b C"]
    matrices: Sequence[Float[Tensor, "_ heads n n"]]
    tokens: Sequence[Float[Tensor, "b ... K"]]
    others: int
    grid: Size
    read: Callable[[Float[Tensor, "m n K"]], Float[Tensor, "m C"]]
    windows: Sequence[AttentionWindows] = ()

    def to_maps(self, values: Float[Tensor, "b t n"]) -> Float[Tensor, "b t h w"]:
        """Return the values of the patches' tokens as maps.

        Args:
            values: of all tokens, those before the patches among them.
        """
        return values[:, :, self.others :].reshape(*values.shape[:2], *self.grid)


ClassSelector = Callable[["Float[Tensor, 'b C']"], "Int[Tensor, 'b t']"]
"""From the logits to the classes to explain, t of them for each image."""


@dataclass(frozen=True)
class Explanation:
    """What a saliency method returns for a batch: raw maps of the chosen classes.

    Attributes:
        maps: at the method's resolution, not normalized.
        classes: the class of each map.
        logits: of the network.
        colour: the values of red, green and blue before the method combined them, if it did.
    """

    maps: Float[Tensor, "b t h w"]
    classes: Int[Tensor, "b t"]
    logits: Float[Tensor, "b C"]
    colour: Float[Tensor, "b t 3 H W"] | None = None


def check_size(size: Size, where: str) -> None:
    """Raise ValueError unless height and width are at least 1; `where` names the image.

    Args:
        size: (height, width) in pixels.
        where: The name of the image, for the message.
    """
    height, width = size
    if height < 1 or width < 1:
        raise ValueError(f"{where!r}: an image is at least 1x1, got height {height} width {width}")


def check_boxes(boxes: np.ndarray, where: str) -> None:
    """Raise ValueError unless boxes are float32 [N, 4], finite and of positive area.

    Args:
        boxes: xyxy in pixels, half-open.
        where: The name of the image, for the message.
    """
    if boxes.dtype != np.float32 or boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(
            f"boxes of {where!r}: expected float32 [N, 4] xyxy, got {boxes.dtype} "
            f"{list(boxes.shape)}"
        )
    if not _are_positive(boxes):
        bad = boxes[~(np.isfinite(boxes).all(1) & (boxes[:, 2:] > boxes[:, :2]).all(1))][0]
        raise ValueError(f"boxes of {where!r}: empty, reversed or not finite: {bad.tolist()}")


def _are_positive(boxes: np.ndarray) -> bool:
    """Return whether all boxes are finite and of positive area."""
    if len(boxes) > FEW:
        return bool(np.isfinite(boxes).all() and (boxes[:, 2:] > boxes[:, :2]).all())
    return all(  # a quarter of the time, as an image has few boxes
        -INFINITE < x0 < x1 < INFINITE and -INFINITE < y0 < y1 < INFINITE
        for x0, y0, x1, y1 in boxes.tolist()
    )
