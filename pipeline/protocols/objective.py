"""What an objective of training must have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jaxtyping import Float
    from torch import Tensor

    from pipeline.types import NetworkOutput


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
        labels: Any,
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "b C"]]:
        """Compute the loss to minimize, and the logits.

        Args:
            network: from inputs to logits and activations.
            inputs: images [b, 3, H, W], or features where `needs_images` is False.
            labels: the class of each, [b]; of an objective for several labels, 1 where it has a
                class and 0 where not, [b, C].

        Returns:
            The loss, and the logits of the network without what the objective adds to them.
        """


@runtime_checkable
class LearnsLabelSets(Protocol):
    """An objective that learns each class for itself, as an image may have several."""

    def with_shares(self, shares: Sequence[float]) -> Objective:
        """Return the objective for a data set.

        Args:
            shares: the share of the training images that have each class.
        """


@runtime_checkable
class WrappingObjective(Protocol):
    """An objective that changes the network before training, and when a checkpoint is loaded."""

    def wrap(self, network: Any) -> Any:
        """Add to the network what the objective needs, with random weights, and return it.

        Args:
            network: the classifier, a torch.nn.Module.

        Raises:
            UserError: the network cannot be changed in this way.
        """
