"""What a choice of each family must satisfy: networks, methods, segmenters, objectives, data
sets, metrics, tests of maps, views."""

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
    """A choice of `model=`: builds a network's body and heads. pipeline/model/builder.py has the
    defaults of one without weights."""

    @property
    def weights(self) -> str | None:
        """What the weights are: a name or a file; None: random."""
        ...

    @property
    def weight_file(self) -> Path | None: ...

    @property
    def pretrained(self) -> bool: ...

    @property
    def known(self) -> tuple[str, ...]:
        """The classes that the pretrained head tells apart; empty where there is none."""
        ...

    @property
    def has_own_head(self) -> bool: ...

    @property
    def own_head_from_scratch(self) -> bool: ...

    @property
    def mean(self) -> Sequence[float]:
        """Of red, green and blue from 0 to 1, subtracted from every image."""
        ...

    @property
    def std(self) -> Sequence[float]: ...

    @property
    def last(self) -> str:
        """The layer of the last feature maps; empty: the body's output."""
        ...

    @property
    def below(self) -> str:
        """The layer of the feature maps below the last; empty where none is known."""
        ...

    def body(self) -> tuple[nn.Module, int]:
        """Return the part that makes feature maps, with random weights, and its channels."""
        ...

    def own(self, classes: int) -> tuple[nn.Module, nn.Module]:
        """Return body and the network's own head, with random weights."""
        ...

    def load(self) -> tuple[nn.Module, nn.Module | None, tuple[str, ...]]:
        """Return the body with its weights, the head that came with them, and its classes."""
        ...

    def at_trained_stride(self) -> NetworkBuilder:
        """Return the network with the stride that it was trained at."""
        ...


class Network(Protocol):
    """A classifier that answers with its activations.

    The graph is cut at the earliest layer named in `at`: what lies before runs without gradients,
    what lies after can be differentiated. `last` names the feature maps that the head reads,
    `input` the images, which no gradient reaches otherwise, `foreground` what a network that was
    trained to localize takes for the object: [b, 1 or C, h, w] from 0 to 1.
    """

    classes: tuple[str, ...]

    def __call__(
        self, images: Float[Tensor, "b 3 H W"], at: Sequence[str] = ()
    ) -> NetworkOutput: ...

    def behind(
        self, layer: str, features: Float[Tensor, "n K h w"], image: Float[Tensor, "m 3 H W"]
    ) -> Float[Tensor, "n C"]:
        """Logits of one image, or of n, if `layer` answered with each of `features`, which may be
        written over, instead of its own. What comes before the layer is not run n times where it
        can be helped."""
        ...

    @property
    def class_weights(self) -> Float[Tensor, "C K"]:
        """The weights of the GAP head. Raises UserError where the head is another."""
        ...

    @property
    def stands_alone(self) -> bool:
        """Whether `foreground` is better alone than in the mean with its teacher's map."""
        ...

    @property
    def tells_objects(self) -> bool:
        """Whether it answers at `object_class`: logits [b, C] by what is foreground alone."""
        ...


class SaliencyMethod(Protocol):
    def __call__(
        self, network: Network, images: Float[Tensor, "b 3 H W"], choose: ClassSelector
    ) -> Explanation: ...


@runtime_checkable
class FittableMethod(Protocol):
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
    def threshold_info(self) -> Mapping[str, Any]:
        """The threshold as metrics.json names it: {"kind": ThresholdKind, "value": float}."""
        ...

    def __call__(self, saliency: SaliencyMap, example: Example | None) -> Boxes: ...

    def with_threshold(self, threshold: float) -> Segmenter:
        """Return the same segmenter with a number for its threshold."""
        ...


@runtime_checkable
class RefiningSegmenter(Segmenter, Protocol):
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
        network: Callable[[Float[Tensor, "b ..."]], NetworkOutput],
        inputs: Float[Tensor, "b ..."],
        labels: Int[Tensor, "b"],
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "b C"]]:
        """The loss to go down on, and the logits."""
        ...


@runtime_checkable
class WrappingObjective(Protocol):
    """An objective that changes the network: before it is trained, and as it is built again."""

    def wrap(self, network: Any) -> Any:
        """The network, changed: with branches that answer by name, say. Draws the weights that it
        adds. Raises UserError where the network cannot be changed so."""
        ...


class DataSet(Protocol):
    """Images and their labels: all that training, maps and boxes may see."""

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
        as its format allows; or as it is. Raises SkippedImage where it cannot be read."""
        ...

    def coco_names(self, split: Split) -> CocoIds: ...

    def fingerprint(self, split: Split) -> str:
        """Changes when an image or a label of the split does; never holds an absolute path."""
        ...

    def notes(self) -> list[str]:
        """What was odd about the images' files and folders, a line each."""
        ...


@runtime_checkable
class AnnotatedDataSet(DataSet, Protocol):
    """A data set with annotated boxes, which only those who measure see: the stages evaluate and
    calibrate import this type, and a test refuses it elsewhere."""

    def truth(self, split: Split) -> Mapping[str, GroundTruth]:
        """Annotations by image id; of images without any there is none."""
        ...

    def truth_fingerprint(self, split: Split) -> str:
        """Changes when an annotation of the split does."""
        ...

    def truth_notes(self) -> list[str]:
        """What was odd about the annotations but could be mended, a line each."""
        ...


@runtime_checkable
class ReadsDrawnBoxes(Protocol):
    """A data set that reads a file of boxes which somebody drew on a few of its images."""

    def drawn(self, file: Path) -> Mapping[str, GroundTruth]:
        """Return these boxes by image id. Raises UserError where the file cannot be read."""
        ...


class TrainedNetwork(Protocol):
    """A network with what its input looks like, as a checkpoint holds it."""

    @property
    def network(self) -> Network:
        """The network in eval mode, its weights frozen; it is a torch.nn.Module."""
        ...

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def size(self) -> Size:
        """Height and width of the images that the network was trained on."""
        ...

    @property
    def mean(self) -> tuple[float, float, float]:
        """The mean of red, green and blue, for pixels from 0 to 1."""
        ...

    @property
    def std(self) -> tuple[float, float, float]:
        """The standard deviation of red, green and blue, for pixels from 0 to 1."""
        ...

    def tensor(self, images: UInt8[np.ndarray, "b H W 3"]) -> Float[Tensor, "b 3 H W"]:
        """Return images of one size as the network reads them, on the network's device."""
        ...


class AuditTest(Protocol):
    """A test of whether the maps of a method on a network can be trusted."""

    @property
    def numbers(self) -> Sequence[AuditNumber]:
        """The numbers of the table. The values of each are among the arrays, under its name."""
        ...

    @property
    def is_costly(self) -> bool:
        """Whether it takes tens of passes an image: it then sees `audit.few` images alone."""
        ...

    @property
    def picture_arrays(self) -> Collection[str]:
        """Names of the arrays that `draw` alone reads: images.json leaves them out."""
        ...

    def refusal(self, subject: AuditSubject) -> str:
        """Return why the test cannot be done on this network; empty where it can."""
        ...

    def __call__(self, subject: AuditSubject, batch: AuditBatch) -> dict[str, np.ndarray]:
        """Test the maps of a batch.

        Returns:
            Arrays by name. Each has a row for each image, those of `picture_arrays` perhaps for
            fewer. `image` and `class` are the stage's own names.
        """
        ...

    def part_values(
        self, subject: AuditSubject, arrays: Mapping[str, np.ndarray]
    ) -> Sequence[PartValues]:
        """Return the numbers of parts of the network, where the test looks at parts.

        They stand in audit.json, not in the table. `arrays` are those of all images.
        """
        ...

    def draw(self, subject: AuditSubject, arrays: Mapping[str, np.ndarray]) -> Image.Image:
        """Draw the picture of the test from the arrays of all images."""
        ...


class View(Protocol):
    """A view of stage inspect: pictures of what a network looks for."""

    @property
    def reads_data(self) -> bool:
        """Whether it reads images of the split: they are part of the cache key then."""
        ...

    @property
    def reads_maps(self) -> bool:
        """Whether it asks for maps of the run's saliency method: the method and what it is fitted
        on are part of the cache key then."""
        ...

    def __call__(self, subject: ViewSubject) -> ViewResult:
        """Look into the network, which stays as it is.

        Raises:
            UserError: There is nothing to show: no image could be read, or the network cannot do
                what the view asks for.
        """
        ...


class Exporter(Protocol):
    """Writes boxes as the files that a tool opens."""

    def __call__(self, found: FoundBoxes, folder: Path) -> None:
        """Write the files into a folder, each whole or not at all.

        Raises:
            UserError: Something found cannot be said in this format.
        """
        ...


class Metric(Protocol):
    """What is computed from evidence about images, and how it is shown and compared.

    A choice of conf/metric/ is built without data; `with_settings` gives an accumulator of it.
    `pipeline.metric.base.MetricBase` has what most metrics need no other way.
    """

    numbers: ClassVar[Sequence[MetricNumber]]
    """All numbers that it can compute; several metrics may compute a number, each at another
    threshold, and then say the same of it."""
    needs: ClassVar[frozenset[EvidenceKind]]
    """It gets the evidence that holds all of these."""
    order: ClassVar[int]
    """Place of its records in metrics.json among those of metrics with the same needs."""
    row_names: ClassVar[Sequence[str]]
    """The arrays of `rows` without which `pairs` gives nothing."""

    def with_settings(self, settings: EvaluationSettings) -> Metric:
        """Return an empty accumulator with these settings."""
        ...

    def update(self, evidence: Evidence) -> None:
        """Add evidence, which holds what the metric needs."""
        ...

    def compute(
        self, select: Bool[np.ndarray, n] | None = None, label: str | None = None
    ) -> list[Score]:
        """Compute the numbers over the selected evidence, in the order of `update`; None: all.

        `label` names the selection in the scores. Without evidence there is no number.
        """
        ...

    def compute_classes(self) -> list[Score]:
        """Compute numbers of classes that are not those of a selection of images."""
        ...

    def rows(self) -> Mapping[str, np.ndarray]:
        """Return arrays by name with a row for each piece of evidence, for a paired comparison."""
        ...

    def pairs(self, rows: Mapping[str, np.ndarray]) -> Iterable[PairedRows]:
        """Return what is compared, from such arrays."""
        ...

    def curve(self) -> Sequence[Mapping[str, Any]]:
        """Return lines over the threshold for the report, each with `iou` and `points`."""
        ...

    def notes(self) -> list[str]:
        """Return what is to be said about numbers that could not be computed."""
        ...
