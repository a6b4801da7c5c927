"""What an exporter must have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pipeline.types import FoundBoxes


class Exporter(Protocol):
    """A choice of conf/exporter/: writes boxes as the files that a tool opens."""

    def __call__(self, detections: FoundBoxes, folder: Path) -> Sequence[str] | None:
        """Write the files into a folder, each atomically.

        The options of stage export that a choice takes as arguments of the same name are given to
        it: `images`, `upright`, `outlines`, `image_paths`.

        `detections.images()` yields the images; with `detections.map_images(ImageWork(...))`
        workers of a runner can do what is done with each alone, such as the encoding of masks.

        Args:
            detections: the boxes of all images, with the images' names and classes.
            folder: an existing folder.

        Returns:
            Notes on what the format cannot hold and on what was replaced, a line each; None: none.

        Raises:
            UserError: the format cannot represent some of the boxes.
        """
