"""What a choice of each family must satisfy, from data sets and networks to views."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from pipeline.types import (
    AuditBatch,
    AuditNumber,
    AuditSubject,
    Boxes,
    ClassSelector,
    CocoIds,
    EvaluationSettings,
    Evidence,
    EvidenceKind,
    Example,
    Explanation,
    FoundBoxes,
    GroundTruth,
    MetricNumber,
    NetworkOutput,
    PairedRows,
    PartValues,
    SaliencyMap,
    Score,
    Size,
    Split,
    ViewResult,
    ViewSubject,
)

if TYPE_CHECKING:
    from pathlib import Path

    from jaxtyping import Bool, Float, Float32, Int, UInt8
    from PIL import Image
    from torch import Tensor, nn


class NetworkBuilder(Protocol):
    """A choice of `model=`, which builds a network's body and heads.

    pipeline/model/builder.py has the defaults of a builder without weights.
    """

    @property
    def weights(self) -> str | None:
        """The weights: a name or a file; None: random."""

    @property
    def weight_file(self) -> Path | None:
        """The file of the weights; None where they are random or come by name."""

    @property
    def pretrained(self) -> bool:
        """Whether the body starts from trained weights."""

    @property
    def known(self) -> tuple[str, ...]:
        """The classes that the pretrained head tells apart; empty where there is none."""

    @property
    def has_own_head(self) -> bool:
        """Whether `own` gives the architecture's head, not a new GAP head."""

    @property
    def own_head_from_scratch(self) -> bool:
        """Whether the architecture's head needs no weights to start from."""

    @property
    def mean(self) -> Sequence[float]:
        """The mean of red, green and blue, for pixels from 0 to 1."""

    @property
    def std(self) -> Sequence[float]:
        """The standard deviation of red, green and blue, for pixels from 0 to 1."""

    @property
    def last(self) -> str:
        """The layer of the last feature maps; empty: the body's output."""

    @property
    def below(self) -> str:
        """The layer of the feature maps below the last; empty where none is known."""

    def body(self) -> tuple[nn.Module, int]:
        """Return the part that computes feature maps, with random weights, and its channels."""

    def own(self, classes: int) -> tuple[nn.Module, nn.Module]:
        """Return the body and the architecture's head for so many classes, with random weights."""

    def load(self) -> tuple[nn.Module, nn.Module | None, tuple[str, ...]]:
        """Return the body with its weights, the head that came with them, and its classes."""

    def at_trained_stride(self) -> NetworkBuilder:
        """Return the network with the stride that it was trained at."""


class Network(Protocol):
    """A classifier that answers with its activations."""

    classes: tuple[str, ...]

    def __call__(self, images: Float[Tensor, "b 3 H W"], at: Sequence[str] = ()) -> NetworkOutput:
        """Compute the logits and the activations of the layers named in `at`.

        The layers before the earliest of these run without gradients; what lies after it can be
        differentiated.

        Args:
            images: normalized by mean and std.
            at: names of layers. `last` are the feature maps that the head reads; `input` the
                images, which no gradient reaches otherwise; `foreground` what a network that was
                trained to localize takes for the object, [b, 1 or C, h, w] from 0 to 1.

        Raises:
            UserError: the network has no such layer.
        """

    def behind(
        self, layer: str, features: Float[Tensor, "n K h w"], image: Float[Tensor, "m 3 H W"]
    ) -> Float[Tensor, "n C"]:
        """Compute the logits that follow if the output of `layer` is replaced by `features`.

        Layers before `layer` are not run n times where this can be avoided.

        Args:
            layer: a name as in `at`.
            features: outputs of the layer, which may be overwritten.
            image: a single image for all of them, or an image for each (m = 1 or n).
        """

    @property
    def class_weights(self) -> Float[Tensor, "C K"]:
        """The weights of the GAP head. Raises UserError where the network has another head."""

    @property
    def stands_alone(self) -> bool:
        """Whether `foreground` is used without averaging it with its teacher's map."""

    @property
    def tells_objects(self) -> bool:
        """Whether it has the layer `object_class`: logits [b, C] of the foreground alone."""


@runtime_checkable
class RebuildableBranch(Protocol):
    """A branch of a network that a checkpoint's card can build again, from its configuration."""

    node: dict[str, Any]


class SaliencyMethod(Protocol):
    """A choice of `saliency=`: computes where a classifier looked."""

    def __call__(
        self, network: Network, images: Float[Tensor, "b 3 H W"], choose: ClassSelector
    ) -> Explanation:
        """Compute the maps of the classes that `choose` selects from the logits.

        Args:
            network: the classifier, whose weights, gradients and mode stay as they are.
            images: normalized by mean and std.
            choose: from the logits [b, C] to the classes to explain, [b, t].

        Returns:
            Raw maps [b, t, h, w] at the method's resolution, not normalized, with the classes and
            the logits.

        Raises:
            UserError: the method cannot explain such a network.
        """


@runtime_checkable
class FittableMethod(Protocol):
    """A saliency method that is fitted to the training images and their labels, never to boxes.

    It is called only as what `fitted` returns.
    """

    def statistics(
        self, network: Network, images: Float[Tensor, "b 3 H W"], labels: Int[Tensor, "b"]
    ) -> Mapping[str, Tensor]:
        """Compute sums over a batch, by name; the caller adds up those of all batches."""

    def fitted(self, statistics: Mapping[str, Tensor]) -> SaliencyMethod:
        """Return the method, fitted: `statistics` are the sums over all batches."""


class Segmenter(Protocol):
    """A choice of `segmenter=`: turns a map into scored boxes, and masks where it has them."""

    @property
    def needs_image(self) -> int:
        """The longer side in pixels at which the image is read; 0: it is not needed."""

    @property
    def threshold_info(self) -> Mapping[str, Any]:
        """The threshold as metrics.json names it: {"kind": ThresholdKind, "value": float}."""

    def __call__(self, saliency: SaliencyMap, example: Example | None) -> Boxes:
        """Segment a map.

        Args:
            saliency: the map, at its method's resolution.
            example: its image, `needs_image` pixels on the longer side; None where that is 0.

        Returns:
            Boxes in pixels of the original image, best score first.
        """

    def with_threshold(self, threshold: float) -> Segmenter:
        """Return the same segmenter with a number for its threshold."""


@runtime_checkable
class RefiningSegmenter(Segmenter, Protocol):
    """A segmenter that refines a map by its image before it applies the threshold."""

    def refined(
        self, saliency: SaliencyMap, example: Example | None
    ) -> tuple[Float32[np.ndarray, "H W"], str | None]:
        """Return the refined map in [0, 1]; and the reason where the map was left as it was."""


class Objective(Protocol):
    """A choice of `objective=`: what a classifier is trained to do.

    Random numbers come from torch's generator, which is seeded for each step, so that a resumed
    training is the same.
    """

    @property
    def needs_images(self) -> bool:
        """Whether it changes the images or the network's inner activations.

        Then a head cannot be trained by it on features that were computed before.
        """

    def __call__(
        self,
        network: Callable[[Float[Tensor, "b ..."]], NetworkOutput],
        inputs: Float[Tensor, "b ..."],
        labels: Int[Tensor, "b"],
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "b C"]]:
        """Compute the loss to minimize, and the logits.

        Args:
            network: from inputs to logits and activations.
            inputs: images [b, 3, H, W], or features where `needs_images` is False.
            labels: the class of each.
        """


@runtime_checkable
class WrappingObjective(Protocol):
    """An objective that changes the network before training, and when a checkpoint is loaded."""

    def wrap(self, network: Any) -> Any:
        """Add to the network what the objective needs, with random weights, and return it.

        Raises:
            UserError: the network cannot be changed in this way.
        """


class DataSet(Protocol):
    """A choice of `data=`: images and labels, all that training, maps and boxes may see."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes; empty where images have no labels."""

    @property
    def size(self) -> Size:
        """Height and width that images are scaled to for the network."""

    def ids(self, split: Split) -> Sequence[str]:
        """Return the name of each image of a split; an image's index here is its position."""

    def labels(self, split: Split) -> Int[np.ndarray, n]:
        """Return the class of each image of a split; -1 where it has none."""

    def example(
        self, split: Split, position: int, *, at: Size | None = None, at_least: Size | None = None
    ) -> Example:
        """Read an image of a split.

        Args:
            split: the split.
            position: the image's index in `ids`.
            at: scale it to exactly this size.
            at_least: scale it to no less than this, aspect kept, as cheaply as its format allows.

        Raises:
            SkippedImage: it cannot be read.
        """

    def coco_names(self, split: Split) -> CocoIds:
        """Return the numbers and names that COCO files use for images and classes."""

    def fingerprint(self, split: Split) -> str:
        """Return a hash of the images and labels of a split, independent of absolute paths."""

    def notes(self) -> list[str]:
        """Return what is unusual about the images' files and folders, a line each."""


@runtime_checkable
class AnnotatedDataSet(DataSet, Protocol):
    """A data set with annotated boxes.

    Only the stages evaluate and calibrate may import this type: a test holds that.
    """

    def truth(self, split: Split) -> Mapping[str, GroundTruth]:
        """Return the annotations by image id; images without annotations are left out.

        Raises:
            UserError: the annotations cannot be read.
        """

    def truth_fingerprint(self, split: Split) -> str:
        """Return a hash of the annotations of a split."""

    def truth_notes(self) -> list[str]:
        """Return what was wrong in the annotations and could be corrected, a line each."""


@runtime_checkable
class ReadsDrawnBoxes(Protocol):
    """A data set that reads a file of boxes which a person drew on a few of its images."""

    def drawn(self, file: Path) -> Mapping[str, GroundTruth]:
        """Return the boxes of such a file by image id.

        Raises:
            UserError: the file cannot be read.
        """


class TrainedNetwork(Protocol):
    """A network with the size and normalization of its input, as a checkpoint holds it."""

    @property
    def network(self) -> Network:
        """The network in eval mode, its weights frozen; it is a torch.nn.Module."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the logits."""

    @property
    def size(self) -> Size:
        """Height and width of the images that the network was trained on."""

    @property
    def mean(self) -> tuple[float, float, float]:
        """The mean of red, green and blue, for pixels from 0 to 1."""

    @property
    def std(self) -> tuple[float, float, float]:
        """The standard deviation of red, green and blue, for pixels from 0 to 1."""

    def tensor(self, images: UInt8[np.ndarray, "b H W 3"]) -> Float[Tensor, "b 3 H W"]:
        """Normalize images of one size by mean and std, on the network's device."""


class AuditTest(Protocol):
    """A test of whether the maps of a method on a network can be trusted."""

    @property
    def numbers(self) -> Sequence[AuditNumber]:
        """The numbers of the table. The values of each are among the arrays, under its name."""

    @property
    def is_costly(self) -> bool:
        """Whether it takes tens of passes an image: it is then done on `audit.few` images only."""

    @property
    def picture_arrays(self) -> Collection[str]:
        """Names of the arrays that only `draw` reads: images.json leaves them out."""

    def refusal(self, subject: AuditSubject) -> str:
        """Return why the test cannot be done on this network; empty where it can."""

    def __call__(self, subject: AuditSubject, batch: AuditBatch) -> dict[str, np.ndarray]:
        """Test the maps of a batch.

        Returns:
            Arrays by name, each with a row for each image; those of `picture_arrays` may have
            fewer. The names `image` and `class` are reserved for the stage.
        """

    def part_values(
        self, subject: AuditSubject, arrays: Mapping[str, np.ndarray]
    ) -> Sequence[PartValues]:
        """Return numbers of parts of the network, for audit.json; the table leaves them out.

        Args:
            subject: the network and the method.
            arrays: those of all images.
        """

    def draw(self, subject: AuditSubject, arrays: Mapping[str, np.ndarray]) -> Image.Image:
        """Draw the picture of the test from the arrays of all images."""


class View(Protocol):
    """A view of stage inspect: pictures of what a network looks for."""

    @property
    def reads_data(self) -> bool:
        """Whether it reads images of the split: they are part of the cache key then."""

    @property
    def reads_maps(self) -> bool:
        """Whether it asks for maps of the run's saliency method.

        Then the method and the images that it is fitted to are part of the cache key.
        """

    def __call__(self, subject: ViewSubject) -> ViewResult:
        """Compute pictures and numbers of what the network looks for; leave it unchanged.

        Raises:
            UserError: there is nothing to show: no image could be read, or the network cannot do
                what the view asks for.
        """


class Exporter(Protocol):
    """A choice of conf/exporter/: writes boxes as the files that a tool opens."""

    def __call__(self, detections: FoundBoxes, folder: Path) -> None:
        """Write the files into a folder, each atomically.

        Raises:
            UserError: the format cannot represent some of the boxes.
        """


class Metric(Protocol):
    """What is computed from evidence about images, and how it is shown and compared.

    A choice of conf/metric/ is built without data; `with_settings` gives an accumulator of it.
    `pipeline.metric.base.MetricBase` has the methods that are the same for most metrics.
    """

    numbers: ClassVar[Sequence[MetricNumber]]
    """All numbers that it can compute. Several metrics may compute a number, each at another
    threshold; their descriptions of it are then equal."""
    needs: ClassVar[frozenset[EvidenceKind]]
    """The kinds of evidence that it needs: it gets the evidence that holds all of these."""
    order: ClassVar[int]
    """Place of its records in metrics.json among those of metrics with the same needs."""
    row_names: ClassVar[Sequence[str]]
    """The arrays of `rows` that `pairs` needs."""

    def with_settings(self, settings: EvaluationSettings) -> Metric:
        """Return an empty accumulator with these settings."""

    def update(self, evidence: Evidence) -> None:
        """Add a piece of evidence, which holds all of `needs`."""

    def compute(
        self, select: Bool[np.ndarray, n] | None = None, label: str | None = None
    ) -> list[Score]:
        """Compute the numbers over the selected evidence; without evidence, none.

        Args:
            select: which evidence, in the order of `update`; None: all.
            label: the name of the selection in the scores.

        Returns:
            The numbers; none where there is no evidence.
        """

    def compute_classes(self) -> list[Score]:
        """Compute numbers of classes that are not those of a selection of images."""

    def rows(self) -> Mapping[str, np.ndarray]:
        """Return arrays by name with a row for each piece of evidence, for a paired comparison."""

    def pairs(self, rows: Mapping[str, np.ndarray]) -> Iterable[PairedRows]:
        """Return what a paired comparison takes from the arrays of `rows`."""

    def curve(self) -> Sequence[Mapping[str, Any]]:
        """Return lines over the threshold for the report, each with `iou` and `points`."""

    def notes(self) -> list[str]:
        """Return why numbers could not be computed, a line each."""
