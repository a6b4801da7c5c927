"""A contact sheet: pictures side by side in rows, each row and column with its name.

Pure functions from pictures and words to one picture, uint8 RGB.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from jaxtyping import UInt8

PAPER, INK, FAINT = (255, 255, 255), (26, 26, 26), (105, 105, 105)
MARGIN, GAP = 24, 8
TITLE, ROW, SMALL = 23, 18, 15  # sizes of letters, in pixels
NARROWEST = 132  # a cell at least, so that the names above the columns can be read


@dataclass(frozen=True)
class Row:
    """Pictures of one row, its name, and what more is to be said of it."""

    name: str
    note: str
    panels: Sequence[UInt8[np.ndarray, "h w 3"]]


@dataclass(frozen=True)
class Scale:
    """A bar of colours for the legend, and what its ends mean."""

    bar: UInt8[np.ndarray, "h w 3"]
    low: str
    high: str


def contact(
    title: str,
    note: str,
    columns: Sequence[str],
    rows: Sequence[Row],
    width: int,
    legend: Sequence[Scale],
    most: int,
) -> UInt8[np.ndarray, "H W 3"]:
    """The sheet, pictures in columns of `width`; at most `most` of them side by side: a longer row
    goes on below itself."""
    width = max(width, NARROWEST)
    heights = [max(len(panel) for panel in row.panels) for row in rows]
    across = min(most, len(columns))
    lines = [range(n, min(n + across, len(columns))) for n in range(0, len(columns), across)]
    # Names stand above the first row alone where columns go through all of them.
    named = [n for n in range(len(rows)) if n == 0 or len(lines) > 1]
    head = MARGIN + TITLE + 10 + (SMALL + 8 if note else 0)
    of_rows = [ROW + 22 + len(lines) * (height + GAP) for height in heights]
    foot = (2 * SMALL + 8 if legend else 0) + MARGIN
    total = head + sum(of_rows) + len(named) * len(lines) * (SMALL + 8) + foot
    sheet = Image.new("RGB", (2 * MARGIN + across * (width + GAP) - GAP, total), PAPER)
    pen = ImageDraw.Draw(sheet)
    room = sheet.width - 2 * MARGIN
    pen.text((MARGIN, MARGIN), fitted(title, TITLE, room), INK, font(TITLE), "lt")
    pen.text((MARGIN, MARGIN + TITLE + 10), fitted(note, SMALL, room), FAINT, font(SMALL), "lt")
    y = head
    for n, row in enumerate(rows):
        y += 12
        name = fitted(row.name, ROW, room)
        pen.text((MARGIN, y + ROW), name, INK, font(ROW), "ls")
        x = MARGIN + font(ROW).getlength(name) + 12
        rest = fitted(row.note, SMALL, room + MARGIN - x)
        pen.text((x, y + ROW), rest, FAINT, font(SMALL), "ls")
        y += ROW + 10
        for line in lines:
            if n in named:
                for place, column in enumerate(line):
                    where = (MARGIN + place * (width + GAP), y + SMALL)
                    text = fitted(columns[column], SMALL, width)
                    pen.text(where, text, FAINT, font(SMALL), "ls")
                y += SMALL + 8
            for place, column in enumerate(line):
                panel = Image.fromarray(row.panels[column])
                sheet.paste(panel, (MARGIN + place * (width + GAP), y))
            y += heights[n] + GAP
    _legend(sheet, pen, legend, y + SMALL + 4)
    return np.asarray(sheet)


def _legend(sheet: Image.Image, pen: ImageDraw.ImageDraw, legend: Sequence[Scale], y: int) -> None:
    x: float = MARGIN
    for scale in legend:
        for part in (scale.low, scale.bar, scale.high):
            if isinstance(part, str):
                pen.text((x, y), part, FAINT, font(SMALL), "lm")
                x += font(SMALL).getlength(part) + GAP
            else:
                bar = Image.fromarray(part).resize((120, 12), Image.Resampling.NEAREST)
                sheet.paste(bar, (round(x), y - 6))
                pen.rectangle((round(x), y - 6, round(x) + 119, y + 5), outline=(190, 190, 190))
                x += 120 + GAP
        x += 3 * GAP


def fitted(text: str, size: int, width: float) -> str:
    """The text, or as much of both its ends as fits: names often differ in their last letters."""
    if font(size).getlength(text) <= width:
        return text
    for kept in range(len(text) - 1, 1, -1):
        short = f"{text[: (kept + 1) // 2]}…{text[len(text) - kept // 2 :]}"
        if font(size).getlength(short) <= width:
            return short
    return ""


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    found = ImageFont.load_default(size)
    assert isinstance(found, ImageFont.FreeTypeFont)
    return found
