"""Contact sheets: pictures side by side in rows, each row and column with its name.

Pure functions from pictures and texts to one picture, uint8 RGB.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from pipeline.plotting.fonts import draw_text, text_width

if TYPE_CHECKING:
    from jaxtyping import UInt8

PAPER, INK, FAINT = (255, 255, 255), (26, 26, 26), (105, 105, 105)
MARGIN, GAP = 24, 8
TITLE, ROW, SMALL = 23, 18, 15  # font sizes in pixels
MIN_CELL_WIDTH = 132  # so that the names above the columns can be read


@dataclass(frozen=True)
class Row:
    """Pictures of one row of a sheet, its name, and a note beside the name.

    Args:
        name: The line above the pictures.
        note: Beside the name.
        panels: The pictures.
        captions: What stands above each picture in the place of the column's name; empty: that.
    """

    name: str
    note: str
    panels: Sequence[UInt8[np.ndarray, "h w 3"]]
    captions: Sequence[str] = ()


@dataclass(frozen=True)
class Scale:
    """A colour bar of the legend, and what its ends mean."""

    bar: UInt8[np.ndarray, "h w 3"]
    low: str
    high: str


@dataclass(frozen=True, kw_only=True)
class ContactSheet:
    """Pictures in rows and columns with their names.

    Args:
        title: The first line of the sheet; empty: none.
        note: The line below the title; empty: none.
        columns: The name of each column.
        rows: The rows, each with a panel for each column.
        width: The width of a panel in pixels.
        legend: Colour bars below the pictures; empty: none.
        max_columns: Panels side by side at most; a longer row continues below itself.
    """

    title: str
    note: str
    columns: Sequence[str]
    rows: Sequence[Row]
    width: int
    legend: Sequence[Scale]
    max_columns: int

    @property
    def cell_width(self) -> int:
        """The width of a cell: wide enough for the names above the columns."""
        return max(self.width, MIN_CELL_WIDTH)

    @property
    def lines(self) -> list[range]:
        """The columns of each line that a row takes."""
        count = len(self.columns)
        across = min(self.max_columns, count)
        return [range(n, min(n + across, count)) for n in range(0, count, across)]

    @property
    def named_rows(self) -> list[int]:
        """The rows below names: the first alone where all share them and all columns fit."""
        is_long = len(self.lines) > 1
        return [n for n, row in enumerate(self.rows) if n == 0 or is_long or row.captions]

    @property
    def row_heights(self) -> list[int]:
        """The height of each row's pictures in pixels."""
        return [max(len(panel) for panel in row.panels) for row in self.rows]

    def draw(self) -> UInt8[np.ndarray, "H W 3"]:
        """Draw the sheet."""
        across = min(self.max_columns, len(self.columns))
        below_title = MARGIN + (TITLE + 10 if self.title else 0)
        head = below_title + (SMALL + 8 if self.note else 0)
        lines = len(self.lines)
        of_rows = [ROW + 22 + lines * (height + GAP) for height in self.row_heights]
        foot = (2 * SMALL + 8 if self.legend else 0) + MARGIN
        total = head + sum(of_rows) + len(self.named_rows) * lines * (SMALL + 8) + foot
        sheet = Image.new(
            "RGB", (2 * MARGIN + across * (self.cell_width + GAP) - GAP, total), PAPER
        )
        pen = ImageDraw.Draw(sheet)
        room = sheet.width - 2 * MARGIN
        title = shorten_to_width(self.title, TITLE, room)
        draw_text(pen, (MARGIN, MARGIN), title, INK, TITLE, "lt")
        note = shorten_to_width(self.note, SMALL, room)
        draw_text(pen, (MARGIN, below_title), note, FAINT, SMALL, "lt")
        y = head
        for n in range(len(self.rows)):
            y = self._draw_row(sheet, pen, n, y)
        _draw_legend(sheet, pen, self.legend, y + SMALL + 4)
        return np.asarray(sheet)

    def _draw_row(self, sheet: Image.Image, pen: ImageDraw.ImageDraw, n: int, y: int) -> int:
        """Draw row `n` below height `y`; return the height below it."""
        row, room, step = self.rows[n], sheet.width - 2 * MARGIN, self.cell_width + GAP
        y += 12
        name = shorten_to_width(row.name, ROW, room)
        draw_text(pen, (MARGIN, y + ROW), name, INK, ROW, "ls")
        x = MARGIN + text_width(name, ROW) + 12
        note = shorten_to_width(row.note, SMALL, room + MARGIN - x)
        draw_text(pen, (x, y + ROW), note, FAINT, SMALL, "ls")
        y += ROW + 10
        for line in self.lines:
            if n in self.named_rows:
                for place, column in enumerate(line):
                    called = row.captions[column] if row.captions else self.columns[column]
                    text = shorten_to_width(called, SMALL, self.cell_width)
                    position = (MARGIN + place * step, y + SMALL)
                    draw_text(pen, position, text, FAINT, SMALL, "ls")
                y += SMALL + 8
            for place, column in enumerate(line):
                panel = Image.fromarray(row.panels[column])
                sheet.paste(panel, (MARGIN + place * step, y))
            y += self.row_heights[n] + GAP
        return y


def _draw_legend(
    sheet: Image.Image, pen: ImageDraw.ImageDraw, legend: Sequence[Scale], y: int
) -> None:
    """Draw the colour bars side by side, their middle at height `y`."""
    x: float = MARGIN
    for scale in legend:
        for part in (scale.low, scale.bar, scale.high):
            if isinstance(part, str):
                draw_text(pen, (x, y), part, FAINT, SMALL, "lm")
                x += text_width(part, SMALL) + GAP
            else:
                bar = Image.fromarray(part).resize((120, 12), Image.Resampling.NEAREST)
                sheet.paste(bar, (round(x), y - 6))
                pen.rectangle((round(x), y - 6, round(x) + 119, y + 5), outline=(190, 190, 190))
                x += 120 + GAP
        x += 3 * GAP


def shorten_to_width(text: str, size: int, width: float) -> str:
    """Shorten a text in its middle until it fits: names often differ in their last letters.

    Args:
        text: What to write.
        size: The font size in pixels.
        width: The room in pixels.
    """
    if text_width(text, size) <= width:
        return text
    for kept in range(len(text) - 1, 1, -1):
        short = f"{text[: (kept + 1) // 2]}…{text[len(text) - kept // 2 :]}"
        if text_width(short, size) <= width:
            return short
    return ""
