"""Contact sheets of images with their boxes, in the order in which a person best reviews them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from pipeline.ops.maps import frame_size
from pipeline.plotting.boxes import PALETTE, draw_box
from pipeline.plotting.sheet import FAINT, INK, MARGIN, PAPER, SMALL, load_font, shorten_to_width
from pipeline.types import ImageBoxes

COLUMNS, ROWS, CELL, GAP = 6, 5, 216, 10
PER_SHEET = COLUMNS * ROWS
LINES = 2 * (SMALL + 4)  # of text below an image
HEAD = MARGIN + SMALL + 12


@dataclass(frozen=True)
class Cell:
    """An image of a sheet.

    Attributes:
        pixels: the image, uint8 RGB, at most `CELL` pixels on its longer side.
        image: its boxes.
        rank: its place in the order of review.
        is_random: whether it belongs to the random sample.
        label: the class of the best box, or of the image.
    """

    pixels: np.ndarray
    image: ImageBoxes
    rank: int
    is_random: bool
    label: str


def cell_frame(size: tuple[int, int]) -> tuple[int, int]:
    """Return the (height, width) at which an image is drawn.

    Args:
        size: height and width of the image.
    """
    return frame_size(size, CELL)


def draw_sheet(cells: Sequence[Cell], title: str) -> np.ndarray:
    """Draw a sheet, uint8 RGB.

    Args:
        cells: at most `PER_SHEET`.
        title: the line above them.
    """
    rows = -(-len(cells) // COLUMNS)
    width = 2 * MARGIN + COLUMNS * (CELL + GAP) - GAP
    sheet = Image.new("RGB", (width, HEAD + rows * (CELL + LINES + GAP) + MARGIN), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN, MARGIN), title, INK, load_font(SMALL), "lt")
    for n, cell in enumerate(cells):
        x = MARGIN + (n % COLUMNS) * (CELL + GAP)
        y = HEAD + (n // COLUMNS) * (CELL + LINES + GAP)
        _draw_cell(sheet, pen, cell, x, y)
    return np.asarray(sheet)


def _draw_cell(sheet: Image.Image, pen: ImageDraw.ImageDraw, cell: Cell, x: int, y: int) -> None:
    canvas = np.array(cell.pixels)
    scale = len(canvas) / cell.image.size[0]
    for found in cell.image.boxes:
        draw_box(canvas, np.array(found.box) * scale, PALETTE[found.label % len(PALETTE)], 2)
    height, width = canvas.shape[:2]
    sheet.paste(Image.fromarray(canvas), (x + (CELL - width) // 2, y + (CELL - height) // 2))
    marks = [f"{cell.rank}"]
    confidences = [box.confidence for box in cell.image.boxes if box.confidence is not None]
    if cell.image.is_human:
        marks.append("reviewed")
    elif not cell.image.boxes:
        marks.append("no box")
    elif confidences:
        marks.append(f"confidence {max(confidences):.2f}")
    if cell.is_random:
        marks.append("random")
    for line, (text, ink) in enumerate(((" · ".join(marks), INK), (_name(cell), FAINT))):
        top = y + CELL + 3 + line * (SMALL + 3)
        pen.text((x, top), shorten_to_width(text, SMALL, CELL), ink, load_font(SMALL), "lt")


def _name(cell: Cell) -> str:
    return f"{cell.label}: {cell.image.id.rsplit('/', 1)[-1]}"
