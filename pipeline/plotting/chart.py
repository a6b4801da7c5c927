"""Line charts with bands, and sheets of pictures with texts, for stages audit and inspect.

OpenCV draws, as its lines are smooth; Pillow writes the texts. The two do not share a canvas, so
texts are collected and written last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image, ImageDraw

from pipeline.plotting.fonts import draw_text, text_width
from pipeline.plotting.sheet import FAINT, INK, PAPER

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8

# Okabe and Ito's colours, which colour-blind people can tell apart. RGB.
BLUE, RED, GREEN, PURPLE = (0, 114, 178), (213, 94, 0), (0, 158, 115), (170, 80, 140)
GRID, AXIS = (228, 228, 228), (120, 120, 120)
SUBPIXEL_BITS = 8  # OpenCV takes coordinates in 1/256 of a pixel
Colour = tuple[int, int, int]
Box = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels of the sheet."""


@dataclass(frozen=True)
class Line:
    """A curve of a chart.

    Args:
        name: What the legend says.
        x, y: The points, in units of the axes.
        band: Lower and upper edge of the band around the line; None: no band.
        colour: RGB.
        dashed: Whether the line is dashed.
        dots: Whether each point has a dot.
    """

    name: str
    x: Float[np.ndarray, n]
    y: Float[np.ndarray, n]
    band: tuple[Float[np.ndarray, n], Float[np.ndarray, n]] | None
    colour: Colour
    dashed: bool = False
    dots: bool = False


@dataclass
class Sheet:
    """A white canvas, uint8 RGB, whose texts are written when it becomes an image."""

    width: int
    height: int
    texts: list[tuple[float, float, str, int, Colour, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pixels: UInt8[np.ndarray, "H W 3"] = np.full(
            (self.height, self.width, 3), 255, np.uint8
        )

    def write_text(
        self, x: float, y: float, text: str, size: int = 18, colour: Colour = INK, at: str = "la"
    ) -> None:
        """Write a text.

        Args:
            x: Position on the sheet in pixels, to the right.
            y: Position on the sheet in pixels, down.
            text: What to write.
            size: The font size in pixels.
            colour: RGB.
            at: Which part of the text lies at the position: Pillow's anchor; "v" turns the text
                by 90 degrees, with its middle at `y`.
        """
        self.texts.append((x, y, text, size, colour, at))

    def paste(self, x: int, y: int, picture: UInt8[np.ndarray, "h w 3"]) -> None:
        """Paste a picture with its upper left corner at (x, y), and draw a thin border."""
        height, width = picture.shape[:2]
        self.pixels[y : y + height, x : x + width] = picture
        cv2.rectangle(self.pixels, (x - 1, y - 1), (x + width, y + height), (200, 200, 200), 1)

    def draw_line(
        self, points: np.ndarray, colour: Colour, thickness: int, dashed: bool = False
    ) -> None:
        """Draw a line through points [n, 2] in pixels of the sheet."""
        pieces = _split_into_dashes(points) if dashed else [points]
        scaled = [np.round(piece * 2**SUBPIXEL_BITS).astype(np.int32) for piece in pieces]
        cv2.polylines(self.pixels, scaled, False, colour, thickness, cv2.LINE_AA, SUBPIXEL_BITS)

    def to_image(self) -> Image.Image:
        """Return the sheet with its texts."""
        image = Image.fromarray(self.pixels)
        pen = ImageDraw.Draw(image)
        for x, y, text, size, colour, at in self.texts:
            if at.startswith("v"):
                width, height = round(text_width(text, size)) + 2, size + 6
                strip = Image.new("RGB", (width, height), PAPER)
                draw_text(ImageDraw.Draw(strip), (0, 0), text, colour, size, "lt")
                image.paste(strip.rotate(90, expand=True), (round(x), round(y - width / 2)))
            else:
                draw_text(pen, (x, y), text, colour, size, at)
        return image


@dataclass(frozen=True, kw_only=True)
class Axes:
    """The axes of a chart.

    Args:
        box: Where they lie on the sheet.
        title: What stands above them.
        x_label: The name of the horizontal axis.
        y_label: The name of the vertical axis.
        ticks: Values of the horizontal axis, whose range they span, and their texts.
        low: The lowest value of the vertical axis.
        high: The highest value of the vertical axis.
        step: The distance of the grid's lines; None: suited to values between 0 and 1.
    """

    box: Box
    title: str
    x_label: str
    y_label: str
    ticks: Sequence[tuple[float, str]]
    low: float = 0.0
    high: float = 1.0
    step: float | None = None

    @property
    def left(self) -> float:
        """The lowest value of the horizontal axis."""
        return min(at for at, _ in self.ticks)

    @property
    def right(self) -> float:
        """The highest value of the horizontal axis."""
        return max(at for at, _ in self.ticks)

    def place(self, x: np.ndarray, y: np.ndarray) -> Float[np.ndarray, "n 2"]:
        """Return the positions on the sheet of points, y clipped to the range of the axis."""
        x0, y0, x1, y1 = self.box
        across = x0 + (np.asarray(x) - self.left) / (self.right - self.left) * (x1 - x0)
        down = y1 - (np.clip(y, self.low, self.high) - self.low) / (self.high - self.low) * (
            y1 - y0
        )
        return np.stack([across, down], -1)


def draw_chart(sheet: Sheet, axes: Axes, lines: Sequence[Line]) -> None:
    """Draw axes, a grid, bands and lines, and the names of the lines below, in place.

    Args:
        sheet: What to draw on.
        axes: The axes and their position.
        lines: The lines, the last of them on top.
    """
    x0, y0, _, y1 = axes.box
    sheet.write_text(x0, y0 - 34, axes.title, 21)
    _draw_grid(sheet, axes)
    _draw_ticks(sheet, axes)
    for line in lines:
        _draw_band(sheet, axes, line)
    for line in lines:
        _draw_line(sheet, axes, line)
    rows = 1 + max(name.count("\n") for _, name in axes.ticks)
    sheet.write_text(x0 - 62, (y0 + y1) / 2, axes.y_label, 17, INK, "v")
    _write_legend(sheet, axes, lines, y1 + 14 + 19 * rows)


def _draw_grid(sheet: Sheet, axes: Axes) -> None:
    """Draw the horizontal lines of the grid, and their values."""
    step = axes.step
    form = "z.1f" if step is None else "z.4g"
    low, high = axes.low, axes.high
    step = step or (0.2 if high - low <= 1.2 else 0.5)
    for value in np.arange(np.ceil(low / step - 1e-9) * step, high + 1e-9, step):
        ends = axes.place(np.array([axes.left, axes.right]), np.array([value, value]))
        sheet.draw_line(ends, AXIS if abs(value) < 1e-9 else GRID, 1)
        sheet.write_text(axes.box[0] - 9, ends[0, 1], f"{value:{form}}", 16, FAINT, "rm")


def _draw_ticks(sheet: Sheet, axes: Axes) -> None:
    """Draw the ticks of the horizontal axis, and both axes."""
    x0, y0, x1, y1 = axes.box
    for at, name in axes.ticks:
        (x, _), _ = axes.place(np.array([at, at]), np.array([axes.low, axes.high]))
        sheet.draw_line(np.array([[x, y1], [x, y1 + 5]]), AXIS, 1)
        for n, part in enumerate(name.split("\n")):
            sheet.write_text(
                x, y1 + 10 + 18 * n, part, 16 if len(axes.ticks) < 8 else 15, FAINT, "ma"
            )
    sheet.draw_line(np.array([[x0, y0], [x0, y1], [x1, y1]], float), AXIS, 1)


def _draw_band(sheet: Sheet, axes: Axes, line: Line) -> None:
    """Draw the band of a line, if it has any, in its colour over what is there."""
    if line.band is None:
        return
    lower, upper = (axes.place(line.x, edge) for edge in line.band)
    outline = np.round(np.concatenate([lower, upper[::-1]]) * 2**SUBPIXEL_BITS).astype(np.int32)
    filled = sheet.pixels.copy()
    cv2.fillPoly(filled, [outline], line.colour, cv2.LINE_AA, SUBPIXEL_BITS)
    cv2.addWeighted(filled, 0.16, sheet.pixels, 0.84, 0, sheet.pixels)


def _draw_line(sheet: Sheet, axes: Axes, line: Line) -> None:
    points = axes.place(line.x, line.y)
    sheet.draw_line(points, line.colour, 3, line.dashed)
    if line.dots:
        for x, y in np.round(points * 2**SUBPIXEL_BITS).astype(int).tolist():
            cv2.circle(
                sheet.pixels,
                (x, y),
                5 << SUBPIXEL_BITS,
                line.colour,
                -1,
                cv2.LINE_AA,
                SUBPIXEL_BITS,
            )


def _write_legend(sheet: Sheet, axes: Axes, lines: Sequence[Line], below: int) -> None:
    """Write the name of the horizontal axis at height `below`, and under it those of the lines."""
    x0, _, x1, _ = axes.box
    sheet.write_text((x0 + x1) / 2, below, axes.x_label, 17, INK, "ma")
    for n, line in enumerate(lines):
        y = below + 34 + 25 * n
        sheet.draw_line(
            np.array([[x0, y + 8], [x0 + 38, y + 8]], float), line.colour, 3, line.dashed
        )
        sheet.write_text(x0 + 48, y, line.name, 17)


def _split_into_dashes(points: np.ndarray, dash: float = 9, gap: float = 7) -> list[np.ndarray]:
    """Split a line into dashes of equal length along it."""
    lengths = np.hypot(*np.diff(points, axis=0).T)
    along = np.concatenate([[0], np.cumsum(lengths)])
    pieces = []
    for start in np.arange(0, along[-1], dash + gap):
        end = min(start + dash, along[-1])
        inner = [at for at in along if start < at < end]
        stops = [start, *inner, end]
        pieces.append(np.stack([np.interp(stops, along, points[:, n]) for n in (0, 1)], -1))
    return pieces
