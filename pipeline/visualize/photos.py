"""Read a few images of the split for a view."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import SkippedImage, UserError
from pipeline.ops.sampling import spread_evenly
from pipeline.types import Example, Size, ViewSubject

if TYPE_CHECKING:
    from jaxtyping import UInt8


def read_photos(subject: ViewSubject, count: int) -> tuple[list[int], UInt8[np.ndarray, "b H W 3"]]:
    """Read some images, evenly over the split, at the network's size.

    Args:
        subject: The images.
        count: How many at most.

    Returns:
        Positions in the split and pixels of those that can be read.

    Raises:
        UserError: No image can be read.
    """
    examples = read_examples(subject, count, subject.size)
    pixels = np.stack([example.image for _, example in examples])
    return [position for position, _ in examples], pixels


def read_examples(subject: ViewSubject, count: int, size: Size | None) -> list[tuple[int, Example]]:
    """Read some images, evenly over the split.

    Args:
        subject: The images.
        count: How many at most.
        size: Height and width to read them at; None: their size.

    Returns:
        Position in the split and image of those that can be read.

    Raises:
        UserError: No image can be read.
    """
    examples = []
    for position in spread_evenly(len(subject.data.ids(subject.split)), count):
        try:
            example = subject.data.example(subject.split, position, at=size)
        except SkippedImage as problem:
            subject.skipped[position] = str(problem)
            continue
        examples.append((position, example))
    if not examples:
        raise no_image_error(subject)
    return examples


def no_image_error(subject: ViewSubject) -> UserError:
    """Return the error for a split of which no image can be read."""
    return UserError(f"inspect: no image of {subject.split} could be read")
