"""A few images of the split that a view shows one by one."""

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

    Returns:
        Positions in the split and pixels of those that can be read.

    Raises:
        UserError: None can be read.
    """
    examples = read_examples(subject, count, subject.size)
    pixels = np.stack([example.image for _, example in examples])
    return [position for position, _ in examples], pixels


def read_examples(subject: ViewSubject, count: int, size: Size | None) -> list[tuple[int, Example]]:
    """Read some images, evenly over the split, scaled to `size` or as they are.

    Returns:
        Position in the split and image of those that can be read.

    Raises:
        UserError: None can be read.
    """
    examples = []
    for position in spread_evenly(len(subject.data.ids(subject.split)), count):
        try:
            example = subject.data.example(subject.split, position, at=size)
        except SkippedImage:
            continue
        examples.append((position, example))
    if not examples:
        raise no_image(subject)
    return examples


def no_image(subject: ViewSubject) -> UserError:
    """Return the error of a split of which no image can be read."""
    return UserError(f"inspect: no image of {subject.split} could be read")
