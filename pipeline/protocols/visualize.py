"""What a view of stage inspect must have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pipeline.types import ViewResult, ViewSubject


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

        Args:
            subject: the network, and the images and maps that the view reads.

        Raises:
            UserError: there is nothing to show: no image could be read, or the network cannot do
                what the view asks for.
        """
