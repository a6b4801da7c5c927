"""The review page: images with their boxes, which a person marks: right, wrong, to be corrected.

    review/index.html, page-0002.html ...     PER_PAGE images each, in the order of review

A page holds all that it shows and loads nothing, so that it can be sent to somebody. Marks stay in
the browser until "Save marks" gives them as a file, which stage ingest takes
(pipeline/formats/corrections/marks.py). Each page is saved by itself.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.formats.corrections import marks
from pipeline.formats.files import write_text
from pipeline.ops.maps import frame_size
from pipeline.plotting.boxes import class_colour, draw_outline, encode_jpeg
from pipeline.types import ImageBoxes, Review

PER_PAGE = 400
SIDE = 320  # pixels of a picture's longer side
QUALITY = 85
OUTLINE = 2  # pixels


@dataclass(frozen=True)
class Entry:
    """An image of the page.

    Attributes:
        picture: a JPEG of the image, with the outlines of its masks.
        image: its boxes.
        rank: its place in the order of review.
        is_random: whether it belongs to the random sample.
        class_name: of the image; of its best box where it has no label.
    """

    picture: bytes
    image: ImageBoxes
    rank: int
    is_random: bool
    class_name: str


@dataclass(frozen=True)
class Order:
    """What a page says of the whole order of review.

    Attributes:
        count: of images that have a rank.
        sample: of these, those that were drawn at random.
        listed: of these, those that are shown on the pages.
        is_calibrated: whether confidences are probabilities of these images.
    """

    count: int
    sample: int
    listed: int
    is_calibrated: bool

    @classmethod
    def of(cls, review: Review, listed: int) -> Order:
        """Describe an order of review.

        Args:
            review: the order.
            listed: how many images are shown.
        """
        return cls(
            count=int((review.ranks > 0).sum()),
            sample=int(review.sampled.sum()),
            listed=listed,
            is_calibrated=review.confidence_kind == "calibrated",
        )


def picture_frame(size: tuple[int, int]) -> tuple[int, int]:
    """Return the (height, width) at which an image is shown.

    Args:
        size: height and width of the image.
    """
    return frame_size(size, SIDE)


def draw_picture(pixels: np.ndarray, image: ImageBoxes) -> bytes:
    """Return an image as a JPEG, with the outlines of the masks of its boxes.

    Args:
        pixels: uint8 RGB, of `picture_frame`.
        image: its boxes.
    """
    canvas = np.array(pixels)
    for box in image.boxes:
        if box.mask is not None:
            draw_outline(canvas, box.mask, class_colour(box.label), OUTLINE)
    return encode_jpeg(canvas, QUALITY)


@dataclass
class PageWriter:
    """Writes pages as their images come.

    Args:
        folder: that they are written into.
        classes: the names of the classes of boxes.
        order: of review.
        template: of a page, for Jinja.
        script: that keeps and saves the marks.
    """

    folder: Path
    classes: Sequence[str]
    order: Order
    template: str
    script: str
    _entries: list[Entry] = field(default_factory=list)
    _seen: int = 0

    def add(self, entry: Entry | None) -> None:
        """Add an image, or None for one that could not be read; write the page that it completes.

        Args:
            entry: the next image in the order of review.
        """
        self._seen += 1
        if entry is not None:
            self._entries.append(entry)
        if self._seen % PER_PAGE == 0 or self._seen == self.order.listed:
            self._write()

    def _write(self) -> None:
        import jinja2

        number, last = -(-self._seen // PER_PAGE), -(-self.order.listed // PER_PAGE)
        environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
        template = environment.from_string(self.template)
        page = template.render(
            entries=[self._describe(entry) for entry in self._entries],
            data={
                "key": marks.KEY,
                "version": marks.VERSION,
                "file": "reviewed.json" if number == 1 else f"reviewed-{number}.json",
                "images": [self._record(entry) for entry in self._entries],
            },
            script=self.script,
            order=self.order,
            before=page_name(number - 1) if number > 1 else None,
            after=page_name(number + 1) if number < last else None,
        )
        write_text(self.folder / page_name(number), page)
        self._entries = []

    def _record(self, entry: Entry) -> dict[str, Any]:
        """Return an image as the page's script takes it, and as it is written with a mark."""
        shown = marks.describe_image(entry.image, self.classes)
        return {
            "shown": shown,
            "stored_as": marks.name_in_browser(shown),
            "is_random": entry.is_random,
        }

    def _describe(self, entry: Entry) -> dict[str, Any]:
        """Return an image as the page's template takes it."""
        return {
            "picture": "data:image/jpeg;base64," + base64.b64encode(entry.picture).decode("ascii"),
            "id": entry.image.id,
            "height": entry.image.size[0],
            "width": entry.image.size[1],
            "rank": entry.rank,
            "is_random": entry.is_random,
            "is_human": entry.image.is_human,
            "class_name": entry.class_name,
            "boxes": [
                {
                    "class_name": self.classes[box.label],
                    "colour": "#{:02x}{:02x}{:02x}".format(*class_colour(box.label)),
                    "corners": marks.round_box(box),
                    "confidence": box.confidence,
                }
                for box in entry.image.boxes
            ],
        }


def page_name(number: int) -> str:
    """Return the name of the file of a page.

    Args:
        number: from 1.
    """
    return "index.html" if number == 1 else f"page-{number:04d}.html"
