"""Any network that gives logits, as a `pipeline.protocols.Network`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.model.classifier import BELOW, LAST, Classifier
from pipeline.model.evaluation import evaluation_mode
from pipeline.model.forms import default_form
from pipeline.types import NetworkOutput

if TYPE_CHECKING:
    from jaxtyping import Float

    from pipeline.model.discovery import Layers


class Wrapped(Classifier):
    """A module of anybody's as a network; it keeps its weights, its mode and its layers' names.

    Args:
        module: gives logits, or what `read_logits` reads them from.
        classes: the names of the classes.
        layers: where its feature maps and its class weights are.
        read_logits: from the module's output to the logits [b, C].
    """

    def __init__(
        self,
        module: nn.Module,
        classes: Sequence[str],
        layers: Layers,
        read_logits: Callable[[Any], Tensor],
    ) -> None:
        super().__init__(module, _Reader(read_logits), classes, layers.last, layers.below)
        self.layers = layers
        self._form = default_form(module)
        self.training = False  # itself; the module's mode is the caller's

    @property
    def class_weights(self) -> Float[Tensor, "C K"]:
        """The class weights of the GAP head.

        Raises:
            UserError: The head is another.
        """
        if self.layers.head is None:
            raise UserError(
                f"the network's head, which reads {self.last!r}, is no global average pooling with "
                "one linear layer: it has no class weights, which CAM reads. Methods that need "
                "none: gradcam, layercam, gradient and all others"
            )
        return self.layers.head.class_weights(self.body)

    def forward(self, images: Float[Tensor, "b 3 H W"], at: Sequence[str] = ()) -> NetworkOutput:
        """Compute logits and activations in evaluation mode, as `Classifier.forward` does."""
        with evaluation_mode(self.body):
            return super().forward(images, at)

    def behind(
        self, layer: str, features: Float[Tensor, "n K h w"], image: Float[Tensor, "m 3 H W"]
    ) -> Float[Tensor, "n C"]:
        """Compute the logits that follow if the layer's output is replaced."""
        with evaluation_mode(self.body):
            return super().behind(layer, features, image)

    def resolve_path(self, name: str) -> str:
        """Return a layer's path within the module.

        Args:
            name: of the layer.

        Raises:
            UserError: It is `last` or `below`, and which layer that is was not recognised.
        """
        if name in (LAST, BELOW) and self.layers.problem is not None:
            raise UserError(self.layers.problem)
        if name == BELOW and not self.below:
            raise UserError(
                "layer 'below': which layer the last block reads was not recognised; name it: "
                "below=NAME of wrap(model, below=NAME), or layer=NAME of explain"
            )
        return super().resolve_path(name)

    def _read_maps(self, name: str, maps: Tensor) -> Tensor:
        """Return the last feature maps as the head reads them: perhaps their ReLU."""
        head = self.layers.head
        reads = head is not None and head.relu and self.resolve_path(name) == head.last
        return maps.relu() if reads else maps


class _Reader(nn.Module):
    """The head of a wrapped network: it reads the logits from what the module gave."""

    def __init__(self, read_logits: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.read_logits = read_logits

    def forward(self, output: Any) -> Tensor:
        """Return the logits [b, C]."""
        return self.read_logits(output)
