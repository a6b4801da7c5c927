"""Boxes and outlines of masks drawn on an image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.engine.images import SplitImages
from pipeline.errors import SkippedImage
from pipeline.ops.maps import frame_size
from pipeline.plotting.boxes import PALETTE, Rectangle, draw_labelled_box, draw_outline
from pipeline.types import Boxes


def draw_image(
    images: SplitImages,
    position: int,
    boxes_by_class: Sequence[Boxes],
    classes: Sequence[str],
    side: int,
) -> np.ndarray | SkippedImage:
    """Return an image with its boxes, uint8 RGB [H, W, 3], or why it cannot be read.

    Args:
        images: reads the images of the split.
        position: the image's position in its split.
        boxes_by_class: the predicted boxes; each class gets a colour.
        classes: the names of all classes.
        side: the longer side of the picture at most, in pixels.
    """
    size = boxes_by_class[0].size
    scale, frame = min(1.0, side / max(size)), frame_size(size, side)
    example = images.read(position, frame)
    if isinstance(example, SkippedImage):
        return example
    canvas = np.array(example.image)
    thickness = max(2, round(max(frame) / 320))
    # Boxes of several classes often begin near one another, and each is to be told by its name.
    taken: list[Rectangle] | None = [] if images.is_multi_label else None
    for n, boxes in enumerate(boxes_by_class):
        colour = PALETTE[n % len(PALETTE)]
        for mask in boxes.masks or ():
            draw_outline(canvas, mask, colour, thickness)
        for box, score in zip(boxes.boxes, boxes.scores.tolist(), strict=True):
            text = f"{classes[boxes.label]} {score:.2f}"
            draw_labelled_box(canvas, box * scale, colour, thickness, text, taken)
    return canvas
