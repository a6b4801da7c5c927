"""What builds a network, and what a network answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import numpy as np
    from jaxtyping import Float, UInt8
    from torch import Tensor, nn

    from pipeline.types import Attentions, NetworkOutput, Size


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
        """The classes that the pretrained head tells apart; empty where there is none.

        Where nobody names the rows of the head they are `class 0`, `class 1`, ...
        """

    @property
    def has_own_head(self) -> bool:
        """Whether `own` gives the architecture's head, not a new GAP head."""

    @property
    def own_head_from_scratch(self) -> bool:
        """Whether the architecture's head needs no weights to start from."""

    @property
    def is_multi_label(self) -> bool:
        """Whether the pretrained head tells each class for itself: the sigmoid of its logit."""

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
        """Return the body and the architecture's head for so many classes, with random weights.

        Args:
            classes: the number of classes.
        """

    def load(self) -> tuple[nn.Module, nn.Module | None, tuple[str, ...]]:
        """Return the body with its weights, the head that came with them, and its classes."""

    def notes(self) -> list[str]:
        """Return what was recognised, renamed or dropped of the file of weights, a line each."""

    def at_trained_stride(self) -> NetworkBuilder:
        """Return the network with the stride that it was trained at."""


@runtime_checkable
class BuildsFeatures(Protocol):
    """A builder whose body, with the head of its own, gives the answer and not feature maps."""

    def features(self, body: nn.Module) -> nn.Module:
        """Let a body that was built with the head of its own return its last feature maps.

        Args:
            body: it is changed.
        """

    def recorded(self) -> dict[str, Any]:
        """Return arguments that were found out, which a checkpoint names besides those given."""


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

    def probabilities(self, logits: Float[Tensor, "n C"]) -> Float[Tensor, "n C"]:
        """Return the probability of each class; scores of a caller's own as they are.

        Args:
            logits: of this network, or of parts of it.
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

    def attentions(
        self, images: Float[Tensor, "b 3 H W"], reduce: Callable[[Tensor], Tensor] | None = None
    ) -> Attentions:
        """Compute the logits, and the attention and the tokens of each block of a transformer.

        Args:
            images: normalized by mean and std.
            reduce: what is kept of each block's attention [b, heads, n, n], without a graph: only
                what lies behind the last block's tokens can then be differentiated. None: all of
                it, and the graph starts at the first block's attention.

        Raises:
            UserError: the network has no self-attention between all tokens of an image, or within
                Swin's windows.
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
        """Normalize images by mean and std, on the network's device.

        Args:
            images: RGB, all of one size, which need not be `size`.
        """


@runtime_checkable
class RunsInParts(Protocol):
    """A network in training that computes the parts of a batch side by side."""

    def run_parts(
        self, function: Callable[[Any, Tensor], Sequence[Tensor]], images: Float[Tensor, "b 3 H W"]
    ) -> Sequence[Tensor]:
        """Compute tensors with a row for each image, part by part, and concatenate them.

        Args:
            function: from the network of a part and its images to the tensors.
            images: of the batch.
        """
