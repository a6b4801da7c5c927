"""What was unusual about the image files that a training read, counted over all processes."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.engine import ranks
from pipeline.errors import SkippedImage
from pipeline.types import Example


@dataclass
class Reading:
    """Images of a split that could not be read, or not as the others, by their positions.

    Attributes:
        skipped: Why images could not be read.
        several: Those whose files have further pages or frames.
        own_range: Those of more than 8 bits that are scaled from a range of their own.
    """

    skipped: dict[int, str] = field(default_factory=dict)
    several: set[int] = field(default_factory=set)
    own_range: set[int] = field(default_factory=set)

    def add(self, position: int, image: Example | SkippedImage) -> None:
        """Record an image that was read, or why it was not; from any thread.

        Args:
            position: Of the image in its split.
            image: What reading it gave.
        """
        if isinstance(image, SkippedImage):
            self.skipped[position] = str(image)
            return
        if image.is_first_of_several:
            self.several.add(position)
        if image.has_own_range:
            self.own_range.add(position)

    @property
    def reasons(self) -> list[str]:
        """Why images could not be read, in the order of their positions."""
        return [reason for _, reason in sorted(self.skipped.items())]

    def gather(self) -> Reading:
        """Return what all processes recorded; wait until all have called this."""
        whole = Reading()
        for part in ranks.all_gather(self):
            whole.skipped |= part.skipped
            whole.several |= part.several
            whole.own_range |= part.own_range
        return whole
