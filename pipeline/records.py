"""What passes between stages: frozen, checked when made, shapes in the annotations.

Boxes are float32 `xyxy`, half-open, in pixels of the original upright image, everywhere: a box
covers the pixels x0 <= x < x1, y0 <= y < y1, so its width is x1 - x0. Other conventions live only
inside the file that speaks their format. Sizes are always (height, width).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

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


class Problem(Exception):
    """What a user did or has that cannot work: what was expected, what came, where, what to do.

    Shown as one clear message without a traceback; anything else that escapes is our defect.
    """


class SetAside(Problem):
    """One image that cannot be used: it is counted and named, and the run goes on without it."""


MANY = 60  # choices; a message that lists more hides what it says


def near(name: str, choices: Iterable[str]) -> str:
    """`; did you mean ...?` where a choice is close, and the choices."""
    choices = sorted(choices)
    close = difflib.get_close_matches(name, choices, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    if len(choices) <= MANY:
        return f"{hint}choices: {', '.join(choices)}"
    like = difflib.get_close_matches(name, choices, n=8, cutoff=0.4) or choices[:8]
    return f"{hint}some of {len(choices)} choices: {', '.join(like)}"


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
    one scaling: `pipeline.segmenter.frame` owns it.
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
        }


@dataclass(frozen=True)
class Answer:
    """A network's answer: logits and the activations that were asked for, by layer name."""

    logits: Float[Tensor, "b C"]
    activations: Mapping[str, Float[Tensor, "b K h w"]] = field(default_factory=dict)


class Network(Protocol):
    """A classifier that answers with its activations.

    The graph is cut at the earliest layer named in `at`: what lies before runs without gradients,
    what lies after can be differentiated. `last` names the feature maps that the head reads,
    `input` the images, which no gradient reaches otherwise, `foreground` what a network that was
    trained to localize takes for the object: [b, 1 or C, h, w] from 0 to 1.
    """

    classes: tuple[str, ...]

    def __call__(self, images: Float[Tensor, "b 3 H W"], at: Sequence[str] = ()) -> Answer: ...

    def behind(
        self, layer: str, features: Float[Tensor, "n K h w"], image: Float[Tensor, "m 3 H W"]
    ) -> Float[Tensor, "n C"]:
        """Logits of one image, or of n, if `layer` answered with each of `features`, which may be
        written over, instead of its own. What comes before the layer is not run n times where it
        can be helped."""
        ...

    @property
    def class_weights(self) -> Float[Tensor, "C K"]:
        """The weights of the GAP head. Raises Problem where the head is another."""
        ...

    @property
    def stands_alone(self) -> bool:
        """Whether `foreground` is better alone than in the mean with its teacher's map."""
        ...

    @property
    def tells_objects(self) -> bool:
        """Whether it answers at `object_class`: logits [b, C] by what is foreground alone."""
        ...


Choose = Callable[["Float[Tensor, 'b C']"], "Int[Tensor, 'b t']"]
"""From the logits to the classes to explain, t of them for each image."""


@dataclass(frozen=True)
class Explanation:
    """What a saliency method gives for a batch: raw maps of the classes that were chosen."""

    maps: Float[Tensor, "b t h w"]
    classes: Int[Tensor, "b t"]
    logits: Float[Tensor, "b C"]
    colour: Float[Tensor, "b t 3 H W"] | None = None  # before a method put R, G and B together


class SaliencyMethod(Protocol):
    def __call__(
        self, network: Network, images: Float[Tensor, "b 3 H W"], choose: Choose
    ) -> Explanation: ...


@runtime_checkable
class Fitted(Protocol):
    """A saliency method that first looks at the training images and their labels, never at boxes.

    It is called only as what `fitted` gives.
    """

    def statistics(
        self, network: Network, images: Float[Tensor, "b 3 H W"], labels: Int[Tensor, "b"]
    ) -> Mapping[str, Tensor]:
        """Sums over a batch: those of all batches are added up, in any order."""
        ...

    def fitted(self, statistics: Mapping[str, Tensor]) -> SaliencyMethod: ...


class Segmenter(Protocol):
    @property
    def needs_image(self) -> int:
        """The longer side in pixels that the image is wanted at; 0: it is not."""
        ...

    @property
    def stands_on(self) -> Mapping[str, Any]:
        """The threshold as metrics.json names it: {"kind": ThresholdKind, "value": float}."""
        ...

    def __call__(self, saliency: SaliencyMap, example: Example | None) -> Boxes: ...


@runtime_checkable
class Refining(Protocol):
    """A segmenter that makes a better map of a map and its image, and cuts that."""

    def refined(
        self, saliency: SaliencyMap, example: Example | None
    ) -> tuple[Float32[np.ndarray, "H W"], str | None]:
        """The refined map in [0, 1]; and why it is the map as it was, where it is."""
        ...


class Objective(Protocol):
    """What a classifier is trained to do. Whatever it draws, it draws from torch's generator, which
    is seeded anew for every step, so that a resumed training is the same."""

    @property
    def needs_images(self) -> bool:
        """Whether it changes the images or what lies in the network, so that no head can be trained
        by it on features that were computed before."""
        ...

    def __call__(
        self,
        network: Callable[[Float[Tensor, "b ..."]], Answer],
        inputs: Float[Tensor, "b ..."],
        labels: Int[Tensor, "b"],
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "b C"]]:
        """The loss to go down on, and the logits."""
        ...


@runtime_checkable
class Wrapping(Protocol):
    """An objective that changes the network: before it is trained, and as it is built again."""

    def wrap(self, network: Any) -> Any:
        """The network, changed: with branches that answer by name, say. Draws the weights that it
        adds. Raises Problem where the network cannot be changed so."""
        ...


@dataclass(frozen=True)
class CocoNames:
    """The numbers and names that a COCO file knows images and classes by."""

    image_ids: Sequence[int]
    file_names: Sequence[str]
    category_ids: Sequence[int]


class DataSet(Protocol):
    """Images and labels in; ground truth apart, for `evaluate` and `calibrate` alone."""

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def size(self) -> Size:
        """What images are scaled to for the network."""
        ...

    def ids(self, split: Split) -> Sequence[str]: ...

    def labels(self, split: Split) -> Int[np.ndarray, n]: ...

    def example(
        self, split: Split, position: int, *, at: Size | None = None, at_least: Size | None = None
    ) -> Example:
        """The image scaled to exactly `at`; or no smaller than `at_least`, aspect kept, as cheap
        as its format allows; or as it is. Raises SetAside where it cannot be read."""
        ...

    def truth(self, split: Split) -> Mapping[str, GroundTruth]: ...

    def coco_names(self, split: Split) -> CocoNames: ...

    def fingerprint(self, split: Split) -> str:
        """Changes when an image or a label of the split does; never holds an absolute path."""
        ...

    def truth_fingerprint(self, split: Split) -> str: ...

    def truth_notes(self) -> list[str]:
        """What was odd about the annotations but could be mended, a line each."""
        ...

    def notes(self) -> list[str]:
        """What was odd about the images' files and folders, a line each."""
        ...


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
