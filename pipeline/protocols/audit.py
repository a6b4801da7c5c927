"""What an audit test must have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    import numpy as np
    from PIL import Image

    from pipeline.types import AuditBatch, AuditNumber, AuditSubject, PartValues


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
        """Return why the test cannot be done on this network; empty where it can.

        Args:
            subject: the network and the method.
        """

    def __call__(self, subject: AuditSubject, batch: AuditBatch) -> dict[str, np.ndarray]:
        """Test the maps of a batch.

        Args:
            subject: the network and the method.
            batch: the images, their maps and the classes that the maps explain.

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
            arrays: those of all images, by name.
        """

    def draw(self, subject: AuditSubject, arrays: Mapping[str, np.ndarray]) -> Image.Image:
        """Draw the picture of the test from the arrays of all images.

        Args:
            subject: the network and the method.
            arrays: those of all images, by name.
        """
