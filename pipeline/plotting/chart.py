"""A chart of lines with their bands, and words around pictures: what stage audit draws with.

Drawn by OpenCV, whose lines are smooth, and lettered by Pillow; text is collected and set last, for
the two do not share a canvas.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image, ImageDraw

from pipeline.plotting.sheet import FAINT, INK, PAPER, font

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8

# Okabe and Ito's colours, which also people who are colour-blind tell apart. RGB.
BLUE, RED, GREEN, PURPLE = (0, 114, 178), (213, 94, 0), (0, 158, 115), (170, 80, 140)
GRID, AXIS = (228, 228, 228), (120, 120, 120)
FINE = 8  # OpenCV takes places in 1/256 of a pixel
Colour = tuple[int, int, int]
Box = tuple[int, int, int, int]
"""x0, y0, x1, y1 on the sheet."""


@dataclass(frozen=True)
class Line:
    name: str
    x: Float[np.ndarray, n]
    y: Float[np.ndarray, n]
    band: tuple[Float[np.ndarray, n], Float[np.ndarray, n]] | None
    colour: Colour
    dashed: bool = False
    dots: bool = False


@dataclass
class Sheet:
    """White paper to draw on."""

    width: int
    height: int
    texts: list[tuple[float, float, str, int, Colour, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pixels: UInt8[np.ndarray, "H W 3"] = np.full(
            (self.height, self.width, 3), 255, np.uint8
        )

    def text(
        self, x: float, y: float, text: str, size: int = 18, colour: Colour = INK, at: str = "la"
    ) -> None:
        """`at` as Pillow's anchor; v: upright."""
        self.texts.append((x, y, text, size, colour, at))

    def paste(self, x: int, y: int, picture: UInt8[np.ndarray, "h w 3"]) -> None:
        height, width = picture.shape[:2]
        self.pixels[y : y + height, x : x + width] = picture
        cv2.rectangle(self.pixels, (x - 1, y - 1), (x + width, y + height), (200, 200, 200), 1)

    def line(self, points: np.ndarray, colour: Colour, thick: int, dashed: bool = False) -> None:
        pieces = _dashes(points) if dashed else [points]
        whole = [np.round(one * 2**FINE).astype(np.int32) for one in pieces]
        cv2.polylines(self.pixels, whole, False, colour, thick, cv2.LINE_AA, FINE)

    def image(self) -> Image.Image:
        """The sheet with its letters."""
        made = Image.fromarray(self.pixels)
        pen = ImageDraw.Draw(made)
        for x, y, text, size, colour, at in self.texts:
            if at.startswith("v"):  # upright, read from below; the place is its middle
                width, height = round(font(size).getlength(text)) + 2, size + 6
                strip = Image.new("RGB", (width, height), PAPER)
                ImageDraw.Draw(strip).text((0, 0), text, colour, font(size), "lt")
                made.paste(strip.rotate(90, expand=True), (round(x), round(y - width / 2)))
            else:
                pen.text((x, y), text, colour, font(size), at)
        return made


@dataclass(frozen=True)
class _Frame:
    """Where values lie on the sheet: `box` holds [left, right] across and [low, high] up."""

    box: Box
    left: float
    right: float
    low: float
    high: float

    def place(self, x: np.ndarray, y: np.ndarray) -> Float[np.ndarray, "n 2"]:
        """Return the places on the sheet of points, y clipped to the range of the axis."""
        x0, y0, x1, y1 = self.box
        across = x0 + (np.asarray(x) - self.left) / (self.right - self.left) * (x1 - x0)
        down = y1 - (np.clip(y, self.low, self.high) - self.low) / (self.high - self.low) * (
            y1 - y0
        )
        return np.stack([across, down], -1)


def chart(
    sheet: Sheet,
    box: Box,
    lines: Sequence[Line],
    title: str,
    across: str,
    up: str,
    ticks: Sequence[tuple[float, str]],
    low: float = 0.0,
    high: float = 1.0,
    step: float | None = None,
) -> None:
    """Draw axes, a grid, bands and lines, and the names of the lines below.

    Args:
        sheet: What to draw on.
        box: Where the axes lie on the sheet.
        lines: The lines, the last one on top.
        title: What stands above the axes.
        across: The name of the horizontal axis.
        up: The name of the vertical axis.
        ticks: Values of the horizontal axis and what stands there.
        low: The lowest value of the vertical axis.
        high: The highest value of the vertical axis.
        step: The distance of the lines of the grid, for values that are not between 0 and 1.
    """
    x0, y0, _, y1 = box
    xs = [at for at, _ in ticks]
    frame = _Frame(box, min(xs), max(xs), low, high)
    sheet.text(x0, y0 - 34, title, 21)
    _draw_grid(sheet, frame, step)
    _draw_ticks(sheet, frame, ticks)
    for line in lines:
        _draw_band(sheet, frame, line)
    for line in lines:
        _draw_line(sheet, frame, line)
    rows = 1 + max(name.count("\n") for _, name in ticks)
    sheet.text(x0 - 62, (y0 + y1) / 2, up, 17, INK, "v")
    _write_legend(sheet, box, lines, across, y1 + 14 + 19 * rows)


def _draw_grid(sheet: Sheet, frame: _Frame, step: float | None) -> None:
    form = "z.1f" if step is None else "z.4g"
    low, high = frame.low, frame.high
    step = step or (0.2 if high - low <= 1.2 else 0.5)
    for value in np.arange(np.ceil(low / step - 1e-9) * step, high + 1e-9, step):
        ends = frame.place(np.array([frame.left, frame.right]), np.array([value, value]))
        sheet.line(ends, AXIS if abs(value) < 1e-9 else GRID, 1)
        sheet.text(frame.box[0] - 9, ends[0, 1], f"{value:{form}}", 16, FAINT, "rm")


def _draw_ticks(sheet: Sheet, frame: _Frame, ticks: Sequence[tuple[float, str]]) -> None:
    """Draw the ticks of the horizontal axis, and both axes."""
    x0, y0, x1, y1 = frame.box
    for at, name in ticks:
        (x, _), _ = frame.place(np.array([at, at]), np.array([frame.low, frame.high]))
        sheet.line(np.array([[x, y1], [x, y1 + 5]]), AXIS, 1)
        for n, part in enumerate(name.split("\n")):
            sheet.text(x, y1 + 10 + 18 * n, part, 16 if len(ticks) < 8 else 15, FAINT, "ma")
    sheet.line(np.array([[x0, y0], [x0, y1], [x1, y1]], float), AXIS, 1)


def _draw_band(sheet: Sheet, frame: _Frame, line: Line) -> None:
    """Draw the band of a line, if it has any, in its colour over what is there."""
    if line.band is None:
        return
    lower, upper = (frame.place(line.x, edge) for edge in line.band)
    outline = np.round(np.concatenate([lower, upper[::-1]]) * 2**FINE).astype(np.int32)
    filled = sheet.pixels.copy()
    cv2.fillPoly(filled, [outline], line.colour, cv2.LINE_AA, FINE)
    cv2.addWeighted(filled, 0.16, sheet.pixels, 0.84, 0, sheet.pixels)


def _draw_line(sheet: Sheet, frame: _Frame, line: Line) -> None:
    points = frame.place(line.x, line.y)
    sheet.line(points, line.colour, 3, line.dashed)
    if line.dots:
        for x, y in np.round(points * 2**FINE).astype(int).tolist():
            cv2.circle(sheet.pixels, (x, y), 5 << FINE, line.colour, -1, cv2.LINE_AA, FINE)


def _write_legend(sheet: Sheet, box: Box, lines: Sequence[Line], across: str, below: int) -> None:
    """Write the name of the horizontal axis at height `below`, and under it those of the lines."""
    x0, _, x1, _ = box
    sheet.text((x0 + x1) / 2, below, across, 17, INK, "ma")
    for n, line in enumerate(lines):
        y = below + 34 + 25 * n
        sheet.line(np.array([[x0, y + 8], [x0 + 38, y + 8]], float), line.colour, 3, line.dashed)
        sheet.text(x0 + 48, y, line.name, 17)


def _dashes(points: np.ndarray, dash: float = 9, gap: float = 7) -> list[np.ndarray]:
    """A line cut into pieces of one length along itself."""
    lengths = np.hypot(*np.diff(points, axis=0).T)
    along = np.concatenate([[0], np.cumsum(lengths)])
    pieces = []
    for start in np.arange(0, along[-1], dash + gap):
        end = min(start + dash, along[-1])
        inner = [at for at in along if start < at < end]
        where = [start, *inner, end]
        pieces.append(np.stack([np.interp(where, along, points[:, n]) for n in (0, 1)], -1))
    return pieces
