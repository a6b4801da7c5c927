"""What a saliency method must have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jaxtyping import Float
    from torch import Tensor

    from pipeline.protocols.network import Network
    from pipeline.types import ClassSelector, Explanation


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
        self, network: Network, images: Float[Tensor, "b 3 H W"], labels: Tensor
    ) -> Mapping[str, Tensor]:
        """Compute sums over a batch, by name; the caller adds up those of all batches.

        Args:
            network: the classifier.
            images: training images, normalized by mean and std.
            labels: the class of each, int [b]; or where an image may have several, which it has,
                bool [b, C].
        """

    def fitted(self, statistics: Mapping[str, Tensor]) -> SaliencyMethod:
        """Return the method, fitted.

        Args:
            statistics: the sums over all batches, by name.
        """
