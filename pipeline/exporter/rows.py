"""Boxes as rows of a table: a row a box, and a row without a box for an image that has none.

image               its name in the data set: a relative path
path                of its file, absolute; None where it has none
part                train, val or test
width, height       of the upright image
class               of the box; None in a row without a box
x0, y0, x1, y1      in pixels of the upright image, half-open
score               of the segmenter, which ranks boxes; None where a person drew the box
confidence          the probability that the IoU of the box is at least 0.5
probability         of the class
source              label2box, or human: a person drew, corrected or accepted the box, or, in a
                    row without a box, saw that there is none
review_rank         when to look at the image, from 1
review_sample       whether the image belongs to the random sample
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipeline.types import FoundBox, FoundBoxes, ImageBoxes, Rle

COLUMNS = (
    "image", "path", "part", "width", "height", "class", "x0", "y0", "x1", "y1", "score",
    "confidence", "probability", "source", "review_rank", "review_sample",
)  # fmt: skip
DIGITS = 3
"""Of coordinates behind the point: a thousandth of a pixel."""

Row = tuple[Any, ...]


def iterate_rows(detections: FoundBoxes) -> Iterator[tuple[Row, Rle | None]]:
    """Yield the rows of COLUMNS, each with the mask of its box; None where a value is not known.

    Args:
        detections: the boxes.
    """
    for image in detections.images():
        before, after = _describe_image(detections, image)
        for box in image.boxes:
            yield (*before, *_describe_box(detections, box), *after), box.mask
        if not image.boxes:
            source = "human" if image.is_human else "label2box"
            yield (*before, *[None] * 8, source, *after), None


def _describe_image(detections: FoundBoxes, image: ImageBoxes) -> tuple[Row, Row]:
    """Return the columns before those of a box, and those after them."""
    source, review, position = detections.source, detections.review, image.position
    height, width = image.size
    path = None if source is None else source.path(position)
    part = None if source is None else source.part(position)
    before = (image.id, None if path is None else str(path), part, width, height)
    if review is None:
        return before, (None, None)
    return before, (int(review.ranks[position]), bool(review.sampled[position]))


def _describe_box(detections: FoundBoxes, box: FoundBox) -> Row:
    """Return the columns of a box."""
    return (
        detections.classes[box.label],
        *(round(side, DIGITS) for side in box.box),
        None if box.is_human else round(box.score, 5),
        None if box.confidence is None else round(box.confidence, 5),
        None if box.probability is None else round(box.probability, 5),
        "human" if box.is_human else "label2box",
    )
