"""What an exporter must have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.types import FoundBoxes


class Exporter(Protocol):
    """A choice of conf/exporter/: writes boxes as the files that a tool opens."""

    def __call__(self, detections: FoundBoxes, folder: Path) -> None:
        """Write the files into a folder, each atomically.

        Args:
            detections: the boxes of all images, with the images' names and classes.
            folder: an existing folder.

        Raises:
            UserError: the format cannot represent some of the boxes.
        """
