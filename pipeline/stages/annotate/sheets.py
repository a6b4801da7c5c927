"""Contact sheets of images with their boxes, in the order in which a person best reviews them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw

from pipeline.ops.maps import frame_size
from pipeline.plotting.boxes import class_colour, draw_box, write_jpeg
from pipeline.plotting.fonts import draw_text
from pipeline.plotting.sheet import FAINT, INK, MARGIN, PAPER, SMALL, shorten_to_width
from pipeline.types import ImageBoxes

COLUMNS, ROWS, CELL, GAP = 6, 5, 216, 10
PER_SHEET = COLUMNS * ROWS
LINES = 2 * (SMALL + 4)  # of text below an image
HEAD = MARGIN + SMALL + 12


@dataclass(frozen=True)
class Cell:
    """An image of a sheet.

    Attributes:
        pixels: the image, uint8 RGB, as `shrink` returns it.
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


@dataclass
class SheetWriter:
    """Writes sheets as their images come.

    Args:
        folder: that they are written into.
        about: what is said of all confidences, at the end of each title; may be empty.
    """

    folder: Path
    about: str = ""
    _cells: list[Cell] = field(default_factory=list)
    _number: int = 0

    def add(self, cell: Cell) -> None:
        """Add an image; write the sheet that it completes."""
        self._cells.append(cell)
        if len(self._cells) == PER_SHEET:
            self.close()

    def close(self) -> None:
        """Write the last sheet, if it has an image."""
        if not self._cells:
            return
        self._number += 1
        ranks = f"review_rank {self._cells[0].rank} to {self._cells[-1].rank}"
        title = f"sheet {self._number}: {ranks}{' · ' * bool(self.about)}{self.about}"
        write_jpeg(self.folder / f"sheet-{self._number:04d}.jpg", draw_sheet(self._cells, title))
        self._cells = []


def shrink(pixels: np.ndarray) -> np.ndarray:
    """Shrink an image to at most `CELL` pixels on its longer side.

    Args:
        pixels: uint8 RGB.
    """
    height, width = frame_size((pixels.shape[0], pixels.shape[1]), CELL)
    return np.asarray(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA))


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
    draw_text(pen, (MARGIN, MARGIN), title, INK, SMALL, "lt")
    for n, cell in enumerate(cells):
        x = MARGIN + (n % COLUMNS) * (CELL + GAP)
        y = HEAD + (n // COLUMNS) * (CELL + LINES + GAP)
        _draw_cell(sheet, pen, cell, x, y)
    return np.asarray(sheet)


def _draw_cell(sheet: Image.Image, pen: ImageDraw.ImageDraw, cell: Cell, x: int, y: int) -> None:
    canvas = np.array(cell.pixels)
    scale = len(canvas) / cell.image.size[0]
    for found in cell.image.boxes:
        draw_box(canvas, np.array(found.box) * scale, class_colour(found.label), 2)
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
        draw_text(pen, (x, top), shorten_to_width(text, SMALL, CELL), ink, SMALL, "lt")


def _name(cell: Cell) -> str:
    return f"{cell.label}: {cell.image.id.rsplit('/', 1)[-1]}"
