"""Boxes with their names and outlines of masks, drawn on an image."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw

from pipeline.formats.files import atomic_write
from pipeline.plotting.fonts import draw_text, text_width
from pipeline.types import Rle

PALETTE = ((255, 64, 96), (64, 160, 255), (60, 190, 110), (255, 170, 40), (170, 110, 255))  # RGB

JPEG_QUALITY = 90

Rectangle = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels of a canvas, half-open."""


def class_colour(label: int) -> tuple[int, int, int]:
    """Return the RGB colour of the boxes of a class.

    Args:
        label: the number of the class.
    """
    return PALETTE[label % len(PALETTE)]


def write_jpeg(path: Path, picture: np.ndarray) -> None:
    """Write a picture by an atomic write.

    Args:
        path: the file.
        picture: uint8 RGB [H, W, 3].
    """
    with atomic_write(path) as temporary:
        temporary.write_bytes(encode_jpeg(picture))


def encode_jpeg(picture: np.ndarray, quality: int = JPEG_QUALITY) -> bytes:
    """Return a picture as the content of a JPEG file.

    Args:
        picture: uint8 RGB [H, W, 3].
        quality: from 0 to 100.
    """
    encoded, data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert encoded
    return data.tobytes()


def draw_outline(
    canvas: np.ndarray, mask: Rle, colour: tuple[int, int, int], thickness: int
) -> None:
    """Draw the outline of a mask on a canvas, in place.

    Args:
        canvas: uint8 RGB [H, W, 3], the image at any size.
        mask: RLE of a mask over the whole image, at the size of the original image.
        colour: RGB of the line; it has a dark edge.
        thickness: of the line, in pixels of the canvas.
    """
    from pycocotools import mask as coco_mask

    inside = cv2.resize(coco_mask.decode(mask), canvas.shape[1::-1], interpolation=cv2.INTER_AREA)
    borders, _ = cv2.findContours(inside, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(canvas, borders, -1, (24, 24, 24), thickness + 2)
    cv2.drawContours(canvas, borders, -1, colour, thickness)


def draw_box(
    canvas: np.ndarray, box: np.ndarray, colour: tuple[int, int, int], thickness: int
) -> tuple[int, int]:
    """Draw a box on a canvas, in place; return its upper left pixel (x, y).

    Args:
        canvas: uint8 RGB [H, W, 3].
        box: xyxy, half-open, in pixels of the canvas.
        colour: RGB of the lines; they have a dark edge.
        thickness: of the lines, in pixels of the canvas.
    """
    x0, y0, x1, y1 = (round(float(v)) for v in box)
    corners = (max(0, x0), max(0, y0)), (min(canvas.shape[1], x1) - 1, min(canvas.shape[0], y1) - 1)
    cv2.rectangle(canvas, *corners, (24, 24, 24), thickness + 2)
    cv2.rectangle(canvas, *corners, colour, thickness)
    return corners[0]


def draw_labelled_box(
    canvas: np.ndarray, box: np.ndarray, colour: tuple[int, int, int], thickness: int, text: str,
    taken: list[Rectangle] | None = None,
) -> None:  # fmt: skip
    """Draw a box with its name in its upper left corner, in place.

    Args:
        canvas: uint8 RGB [H, W, 3].
        box: xyxy, half-open, in pixels of the canvas.
        colour: RGB of the box and of the name's background.
        thickness: of the lines, in pixels of the canvas.
        text: the name, in white.
        taken: where the names of other boxes stand: the name is moved down until it covers none of
            them, and added. None: it covers what is there.
    """
    left, upper = draw_box(canvas, box, colour, thickness)
    if not text.isascii():
        _draw_name(canvas, (left, upper), colour, text, taken)
        return
    size = max(canvas.shape[:2]) / 1200 + 0.2
    (wide, high), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, max(1, thickness // 2))
    left, top = _place_name(canvas, (left, max(0, upper - high - 6)), (wide + 6, high + 6), taken)
    cv2.rectangle(canvas, (left, top), (left + wide + 6, top + high + 6), colour, -1)
    cv2.putText(canvas, text, (left + 3, top + high + 2), cv2.FONT_HERSHEY_SIMPLEX, size,
                (255, 255, 255), max(1, thickness // 2), cv2.LINE_AA)  # fmt: skip


def _draw_name(
    canvas: np.ndarray, corner: tuple[int, int], colour: tuple[int, int, int], text: str,
    taken: list[Rectangle] | None,
) -> None:  # fmt: skip
    """Draw a name with letters that the fonts of OpenCV have not, in place."""
    left, upper = corner
    size = round(max(canvas.shape[:2]) / 40 + 6)
    wide = round(text_width(text, size))
    left, top = _place_name(canvas, (left, max(0, upper - size - 6)), (wide + 6, size + 6), taken)
    cv2.rectangle(canvas, (left, top), (left + wide + 6, top + size + 6), colour, -1)
    picture = Image.fromarray(canvas)
    draw_text(ImageDraw.Draw(picture), (left + 3, top + 3), text, (255, 255, 255), size, "lt")
    canvas[:] = np.asarray(picture)


def _place_name(
    canvas: np.ndarray, corner: tuple[int, int], size: tuple[int, int],
    taken: list[Rectangle] | None,
) -> tuple[int, int]:  # fmt: skip
    """Return the upper left corner (x, y) of a name of a size (width, height), and take its place.

    It is moved within the canvas and down below names that it would cover, as far as there is room.
    """
    if taken is None:
        return corner
    (left, top), (wide, high) = corner, size
    left = max(0, min(left, canvas.shape[1] - wide - 1))
    for x0, y0, x1, y1 in sorted(taken, key=lambda other: other[1]):
        is_covered = x0 < left + wide and left < x1 and y0 < top + high and top < y1
        if is_covered and y1 + 1 + high < canvas.shape[0]:
            top = y1 + 1
    taken.append((left, top, left + wide, top + high))
    return left, top
